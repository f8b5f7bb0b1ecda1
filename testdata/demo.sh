#!/usr/bin/env bash
# The tour: builds erolith, makes a real four-layer image, converts it to EROFS, mounts it, looks inside and leaves nothing
# behind. Installs all it needs on a fresh Debian 12 machine, as root.
#
#   testdata/demo.sh           a 256 MB image: about 5 min on a machine that has nothing, seconds afterwards
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
    mountpoint -q root && erolith umount root
    rm -rf --one-file-system "$WORK"
}

need_root
need_build_tools
cd "$EROLITH_REPO"
say "building erolith"
cargo build --release --quiet
PATH=${CARGO_TARGET_DIR:-$EROLITH_REPO/target}/release:$PATH
image=$("$EROLITH_REPO/testdata/real-image.sh" "$SIZE")

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
echo
say "unmounted, nothing left"
