#!/usr/bin/env bash
# The tour: builds erolith and makes a real four-layer image; converts it to EROFS, mounts it, looks inside; then runs
# containers of it on erolith's snapshots with a real containerd 2.1. Leaves nothing behind. Installs all it needs on a fresh
# Debian 12 machine, as root.
#
#   testdata/demo.sh           a 256 MB image: about 8 min on a machine that has nothing, seconds afterwards
#   testdata/demo.sh --full    a 1.05 GB image: about 5 min more
set -euo pipefail
# shellcheck source=setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

case ${1:-} in
'') SIZE=small ;;
--full) SIZE=full ;;
*) die "usage: $0 [--full]" ;;
esac

# show CMD...: the command as one would type it, then what it does.
show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

clean_up() {
    ! mountpoint -q root || erolith umount root
    [[ ! -e node ]] || containerd stop >/dev/null 2>&1 || true
    rm -rf --one-file-system "$WORK"
}

# containerd COMMAND...: what testdata/containerd.sh does with the node of this tour.
containerd() { "$EROLITH_REPO/testdata/containerd.sh" "$1" "$WORK/node" "${@:2}"; }

ctr() { containerd ctr "$@"; }

# Starts containerd and erolith's daemon beside it, each told of the other.
start_node() {
    mkdir node
    local settings=(--address "$WORK/node/erolith.sock" --root "$WORK/node/erolith" --state /run/erolith)
    settings+=(--containerd-address "$WORK/node/sock" --containerd-root "$WORK/node/root" --log-level warn)
    erolith serve "${settings[@]}" --print-containerd-config=2.1 | grep -v '^version' >plugins.toml
    EROLITH_SHARED=$(dirname "$(command -v erolith)") containerd start "$WORK/plugins.toml"
    containerd exec "$(command -v erolith)" serve "${settings[@]}" &
    # It ends with the node; nobody needs to be told.
    disown
    # shellcheck disable=SC2016 # expanded by the inner shell
    timeout 10 bash -c 'until [[ -S $0 ]]; do sleep 0.05; done' "$WORK/node/erolith.sock"
}

# The containers of the tour.
run_node() {
    tar -C docker/ -cf node/image.tar .
    show ctr images import --no-unpack --base-name demo "$WORK/node/image.tar"
    time show ctr run --rm --snapshotter erolith demo:latest first cat /etc/issue
    time show ctr run --rm --snapshotter erolith demo:latest second \
        python3 -c 'import numpy; print("numpy", numpy.__version__, "in a container on EROFS")'
    show erolith snapshots --address "$WORK/node/erolith.sock" tree
    show erolith snapshots --address "$WORK/node/erolith.sock" usage
    show containerd exec findmnt --types erofs --output TARGET,FSTYPE,OPTIONS
    show ctr images rm --sync demo:latest
    show erolith snapshots --address "$WORK/node/erolith.sock" ls
}

need_demo
cd "$EROLITH_REPO"
say "building erolith"
cargo build --release --locked --features isal
PATH=${CARGO_TARGET_DIR:-$EROLITH_REPO/target}/release:$PATH
image=$("$EROLITH_REPO/testdata/real-image.sh" "$SIZE")
"$EROLITH_REPO/testdata/sid-root.sh" >/dev/null

WORK=$(mktemp -d "$EROLITH_CACHE/demo.XXXXXX")
cd "$WORK"
trap clean_up EXIT
ln -s "$image" docker
mkdir root
time show erolith convert oci:docker:latest oci:native:latest
largest=$(find native/blobs -type f -printf '%s %p\n' | sort -n | tail -n 1)
show erolith fsck "${largest#* }"
show erolith inspect --top 3 "${largest#* }"
show erolith mount oci:native:latest root
show findmnt --output FSTYPE,OPTIONS --mountpoint root
show ls -l root
show chroot root cat /etc/issue
show chroot root python3 -c 'import numpy; print("numpy", numpy.__version__, "from EROFS")'
show erolith umount root
start_node
run_node
containerd stop
echo
say "stopped and unmounted, nothing left"
