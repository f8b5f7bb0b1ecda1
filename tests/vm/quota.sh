#!/usr/bin/env bash
# Runs the snapshotter's tests of limits and of faults in a virtual machine with Debian's kernel, where filesystems keep
# project quotas: over ext4 and over XFS, then once more with quotas switched off, and by images. About 10 min.
#
#   tests/vm/quota.sh            every test named below
#   tests/vm/quota.sh FILTER     those tests whose names contain FILTER
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

scenario() {
    cat <<'SCENARIO'
# run STATE FILTER...: the tests, with quotas on or off. One after another: they look at all projects that there are.
run() {
    export EROLITH_TEST_QUOTA=$1
    shift
    snapshotter-tests --test-threads=1 "$@" || stop "failed: $*"
}
# filesystem NAME ON OFF MKFS...
filesystem() {
    name=$1 on=$2 off=$3
    shift 3
    echo "machine: $name"
    "$@" /dev/vda || stop "no $name"
    mount -t $name -o $on /dev/vda /var/tmp || stop "no $name with $on"
    run on $TESTS
    run last service::tests::quota
    umount /var/tmp || stop "$name is in use"
    mount -t $name -o $off /dev/vda /var/tmp || stop "no $name with $off"
    run off service::tests::quota
    unset EROLITH_TEST_QUOTA
    snapshotter-tests service::tests::limits uppers:: || stop "failed: limits by images"
    umount /var/tmp || stop "$name is in use"
}
filesystem ext4 prjquota noquota mkfs.ext4 -q -F -O project,quota
filesystem xfs pquota noquota mkfs.xfs -q -f
stop passed
SCENARIO
}

need_root
vm_packages
TESTS=${1:-service::tests::quota service::tests::faults kernel:: sys::}
cd "$EROLITH_REPO"
vm_tests 3600 "$TESTS" "$(scenario)" 6.1
