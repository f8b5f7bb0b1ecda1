#!/usr/bin/env bash
# Runs the snapshotter's tests of dm-verity in virtual machines, over ext4. Some minutes for each kernel.
#
#   tests/vm/dmverity.sh                   Debian 12's kernel
#   tests/vm/dmverity.sh 6.12 newest       these
#
# What is seen there: a layer with a hash tree is mounted and read through its device; one changed bit of a file gives EIO,
# and an error that names the block; one in the superblock, and a wrong root hash, are refused; so is a signature of the root
# hash that the kernel does not trust, and on the newest one that it trusts is taken; no device is left behind.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

TESTS='verity sys::dm sys::keyring'

scenario() {
    cat <<'SCENARIO'
# Where there is a keyring for it, it takes certificates.
rmmod dm_verity && insmod /lib/modules/dm-verity.ko keyring_unsealed=1 || stop "no dm-verity"
if grep ' \.dm-verity:' /proc/keys; then
    export EROLITH_TEST_DM_VERITY_KEYRING=on
fi
mkfs.ext4 -q -F /dev/vda || stop "no ext4"
mount -t ext4 /dev/vda /var/tmp || stop "no ext4"
# Nothing may be skipped. One after another: they look at all devices that there are.
export EROLITH_TEST_DM_VERITY=on
snapshotter-tests --test-threads=1 $TESTS || stop failed
for dm in /sys/block/dm-*; do [ ! -e $dm ] || stop "left: $(cat $dm/dm/name)"; done
umount /var/tmp || stop "something is left in /var/tmp"
stop passed
SCENARIO
}

need_root
vm_packages
[[ $# -gt 0 ]] || set -- 6.1
cd "$EROLITH_REPO"
vm_tests 1800 "$TESTS" "$(scenario)" "$@"
