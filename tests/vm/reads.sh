#!/usr/bin/env bash
# What protections cost those who read: every file of an image of 200 MB is read from the disk, with nothing in memory, the
# image mounted from its file, from its file sealed with fs-verity, through a loop device, and through a dm-verity device
# over one; in turns. About 3 min.
#
#   tests/vm/reads.sh [6.12|newest]
#
# The machine has neither KVM nor instructions for SHA-256, and a disk that is in the host's memory: hashing is as dear, and
# reading as cheap, as it can be.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

scenario() {
    cat <<'SCENARIO'
mkfs.ext4 -q -F -O verity /dev/vda && mkdir -p /disk /mnt && mount -t ext4 /dev/vda /disk || stop "no ext4"
mkdir -p /disk/tree
for n in 1 2 3 4; do head -c 25000000 /dev/urandom >/disk/tree/large-$n; done
mkdir /disk/tree/small
n=0
while [ $n -lt 2000 ]; do
    dd if=/dev/urandom of=/disk/tree/small/$n bs=50k count=1 2>/dev/null
    n=$((n + 1))
done
erolith mkfs --dm-verity /disk/image /disk/tree >/tmp/made || stop "no image"
cp /disk/image /disk/sealed && fsverity enable /disk/sealed || stop "no fs-verity"
root=$(sed -n 's/.*root hash \([0-9a-f]*\), tree at byte \([0-9]*\).*/\1/p' /tmp/made)
offset=$(sed -n 's/.*root hash \([0-9a-f]*\), tree at byte \([0-9]*\).*/\2/p' /tmp/made)
# One for each: a device mapper does not share.
below=$(losetup -f) && losetup -r $below /disk/image || stop "no loop device"
loop=$(losetup -f) && losetup -r $loop /disk/image || stop "no loop device"
export DM_DISABLE_UDEV=1
# The caller that opens the device must know the offset of the tree, as the sidecar tells it.
veritysetup open --hash-offset=$offset $below verity $below $root || stop "no dm-verity"
# measure NAME SOURCE: milliseconds.
measure() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
    mount -t erofs -o ro $2 /mnt || stop "cannot mount: $1"
    read -r start _ </proc/uptime
    cat /mnt/large-* /mnt/small/* >/dev/null || stop "cannot read: $1"
    read -r end _ </proc/uptime
    umount /mnt
    echo "row $1 $(echo "$end $start" | awk '{ printf "%d", ($1 - $2) * 1000 }')"
}
for round in 1 2 3 4 5; do
    measure file /disk/image
    measure fs-verity /disk/sealed
    measure loop $loop
    measure dm-verity /dev/mapper/verity
done
stop passed
SCENARIO
}

# Medians, and what they are of the same without protection.
table() {
    python3 -c '
import statistics, sys

times = {}
for line in sys.stdin:
    _, name, time = line.split()
    times.setdefault(name, []).append(int(time))
median = {name: statistics.median(found) for name, found in times.items()}
for name, plain in (("file", "file"), ("fs-verity", "file"), ("loop", "loop"), ("dm-verity", "loop")):
    ratio = median[name] / median[plain]
    print(f"{name:10} {median[name]:6} ms {ratio:5.2f} of {plain}   {sorted(times[name])}")'
}

need_root
vm_packages
need_packages cryptsetup-bin fsverity
name=${1:-6.12}
cd "$EROLITH_REPO"
kernel=$(vm_kernel "$name")
# As power.sh does, so that nothing is compiled twice.
erolith=$(vm_build erolith build --workspace --features isal --bin erolith --example power)
WORK=$(mktemp -d -p /var/tmp)
trap 'rm -rf "$WORK"' EXIT
vm_initramfs "$WORK/initramfs" "$kernel" "$(scenario)" "erolith=$erolith" veritysetup="$(command -v veritysetup)" \
    fsverity="$(command -v fsverity)"
truncate -s 2G "$WORK/disk"
mapfile -t disk < <(vm_disk "$WORK/disk")
say "Linux $name"
vm_run 1800 "$kernel" "$WORK/initramfs" "${disk[@]}" | tr -d '\r' | tee "$WORK/said"
grep -q '^machine: passed' "$WORK/said"
grep '^row ' "$WORK/said" | table
