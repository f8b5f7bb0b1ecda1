#!/usr/bin/env bash
# Cuts the power of a virtual machine in which the daemon works, again and again, and checks after each start that what was
# acknowledged is there and right, and nothing else. tests/power is what runs inside, disk.py the disk that loses its cache.
#
#   tests/vm/power.sh [--rounds 20] [--seed N] [--fs ext4|xfs|btrfs] [--kernel 6.1|6.12|newest] [--unsafe | --peer]
#
# The seed decides about the work and the moments, not about the threads. --unsafe runs a daemon that does not sync, to see
# that losses are found: then success is that there are some. --peer does the same to containerd's own EROFS snapshotter and
# differ, with their defaults, and counts what is wrong after each cut. README.md tells what was seen.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

ROUNDS=20 SEED=$RANDOM FS=ext4 KERNEL=6.12 SYNC=true SERVER=erolith
while [[ $# -gt 0 ]]; do
    case $1 in
        --rounds) ROUNDS=$2 && shift ;;
        --seed) SEED=$2 && shift ;;
        --fs) FS=$2 && shift ;;
        --kernel) KERNEL=$2 && shift ;;
        --unsafe) SYNC=false ;;
        --peer) SERVER=containerd ;;
        *) die "unknown: $1" ;;
    esac
    shift
done
[[ $SERVER == erolith || $SYNC == true ]] || die "--unsafe is a setting of erolith"

# shellcheck disable=SC2016 # expanded in the machine
SCENARIO='mkdir -p /disk
mount -t $POWER_FS /dev/vda /disk || stop "no $POWER_FS"
power || stop failed
stop ended'

need_root
vm_packages
cd "$EROLITH_REPO"
kernel=$(vm_kernel "$KERNEL")
say "building"
# Together, and with what the tests are built with, so that nothing is compiled twice.
build=(build --workspace --features isal --bin erolith --example power)
power=$(vm_build power "${build[@]}")
erolith=$(vm_build erolith "${build[@]}")
programs=("erolith=$erolith" "power=$power")
if [[ $SERVER == containerd ]]; then
    "$EROLITH_REPO/testdata/snapshotter-suite.sh"
    programs+=("erofs-reference=$EROLITH_CACHE/bin/erofs-reference")
fi
WORK=$(mktemp -d -p /var/tmp)
trap 'rm -rf "$WORK"' EXIT
mkdir "$WORK/power"
# No more than this: each costs time at every start.
VM_MODULES=(virtio_pci virtio_blk loop overlay erofs "$FS" crc32c_generic)
vm_initramfs "$WORK/initramfs" "$kernel" "$SCENARIO" "${programs[@]}"
[[ $SERVER == erolith ]] || vm_add_sid "$WORK/initramfs" mkfs.erofs fsck.erofs
truncate -s 1G "$WORK/power/disk"
case $FS in
    # With fs-verity, as btrfs has it: images are sealed.
    ext4) mkfs.ext4 -q -F -O verity "$WORK/power/disk" ;;
    xfs) mkfs.xfs -q -f "$WORK/power/disk" ;;
    btrfs) mkfs.btrfs -q -f "$WORK/power/disk" ;;
    *) die "no filesystem $FS" ;;
esac
say "$ROUNDS cuts of Linux $KERNEL on $FS, seed $SEED, $SERVER, sync $SYNC"
status=0
python3 -B tests/vm/power.py --dir "$WORK/power" --disk "$WORK/power/disk" --fs "$FS" --server "$SERVER" --sync "$SYNC" \
    --append "$VM_APPEND" --rounds "$ROUNDS" --seed "$SEED" -- "${VM_MACHINE[@]}" -kernel "$kernel/vmlinuz" -initrd "$WORK/initramfs" || status=$?
failed=/var/tmp/erolith-power-failed-$SEED
[[ ! -d $WORK/power-failed ]] || { rm -rf "$failed" && mv "$WORK/power-failed" "$failed"; }
if [[ $SYNC == false ]]; then
    [[ $status -eq 1 ]] || die "a daemon that does not sync lost nothing: the check does not see it, or there were few cuts"
    say "losses were found, as they must"
    exit 0
fi
exit "$status"
