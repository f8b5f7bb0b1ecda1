#!/usr/bin/env bash
# Runs the snapshotter's tests of seals, damage and recovery in virtual machines where filesystems have fs-verity, bits that
# flip on the disk included: over ext4 and btrfs. About 10 min for each kernel.
#
#   tests/vm/verity.sh                     Debian 12's kernel
#   tests/vm/verity.sh 6.12 newest         these
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

TESTS='protect:: scrub:: sys::verity service::tests::sound service::tests::layers service::tests::recovery service::tests::faults'

scenario() {
    cat <<'SCENARIO'
for fs in ext4 btrfs; do
    echo "machine: $fs"
    case $fs in
        ext4) mkfs.ext4 -q -F -O verity /dev/vda || stop "no ext4" ;;
        btrfs) mkfs.btrfs -q -f /dev/vda || stop "no btrfs" ;;
    esac
    mount -t $fs /dev/vda /var/tmp || stop "no $fs"
    # The disk of /var/tmp: fs-verity must be there, and bits may be flipped below it.
    export EROLITH_TEST_VERITY=/dev/vda
    snapshotter-tests --test-threads=1 $TESTS || stop "failed on $fs"
    umount /var/tmp || stop "$fs is in use"
done
stop passed
SCENARIO
}

need_root
vm_packages
[[ $# -gt 0 ]] || set -- 6.1
cd "$EROLITH_REPO"
vm_tests 3600 "$TESTS" "$(scenario)" "$@"
