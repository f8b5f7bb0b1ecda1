#!/usr/bin/env bash
# Makes a real multi-layer image as an OCI layout, tag `latest`, gzip layers: Debian, packages, Python libraries, changes.
#
#   testdata/real-image.sh          $EROLITH_CACHE/real-image-small: about 70 s, 94 MB of gzip, 278 MB of tar, 9,400 entries
#   testdata/real-image.sh full     $EROLITH_CACHE/real-image-full:  about 5 min, 370 MB of gzip, 1.05 GB of tar, 31,000 entries
#
# Prints the place. The content is what the registries serve that day, so sizes vary a little.
set -euo pipefail
# shellcheck source=setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"
# Debian's own tools, whatever else this machine has.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

case ${1:-small} in
small)
    BASE=()
    PACKAGES=(python3)
    LIBRARIES=(numpy==2.2.6)
    ;;
full)
    BASE=(apt-utils bash-completion ca-certificates curl less procps vim-tiny)
    PACKAGES=(g++ git locales perl python3 python3-dev)
    LIBRARIES=(django==5.2.1 matplotlib==3.10.3 numpy==2.2.6 pandas==2.2.3 scikit-learn==1.6.1 scipy==1.15.3 sympy==1.14.0)
    ;;
*) die "usage: $0 [small|full]" ;;
esac
SIZE=${1:-small}

# commit LAYOUT BUNDLE COMMENT: what changed in the bundle becomes the next layer.
commit() {
    rm -f "$2"/rootfs/var/cache/apt/archives/*.deb "$2"/rootfs/var/cache/apt/*.bin
    umoci repack --refresh-bundle --image "$1:latest" --history.comment "$3" "$2" >/dev/null
}

add_libraries() {
    python3 -m pip --quiet install --no-compile --no-warn-conflicts --root-user-action ignore --only-binary :all: \
        --implementation cp --python-version 3.11 --target "$1/usr/lib/python3/dist-packages" "${LIBRARIES[@]}"
}

# Every kind of change a layer can make to the ones below it.
change_files() {
    local root=$1
    rm -r "$root/usr/share/doc" "$root/usr/share/man"
    rmdir "$root/media"
    rm "$root/etc/motd" "$root/usr/bin/tac"
    mkdir "$root/usr/bin/tac" "$root/srv/data" # a directory where a file was
    # A file where a directory was: an empty one, for containerd refuses the whiteouts that umoci writes for the others.
    echo "a file where a directory was" >"$root/media"
    ln -sf /usr/share/zoneinfo/UTC "$root/etc/localtime"
    echo "built for tests" >>"$root/etc/issue"
    chmod 1777 "$root/srv"
    chown 33:33 "$root/srv/data"
    head -c 1000000 /dev/zero >"$root/srv/data/zeros"
    ln "$root/srv/data/zeros" "$root/srv/data/zeros-again"
    ln "$root/usr/bin/env" "$root/usr/bin/env-again" # a link to a file of a lower layer
    mkfifo "$root/srv/data/fifo"
    printf 'x' >"$root/srv/data/$(printf 'n%.0s' {1..255})"
    touch -d 1969-07-20T20:17:40.123456789Z "$root/srv/data/fifo"
    python3 - "$root" <<'PYTHON'
import os, sys
root = sys.argv[1]
os.setxattr(f"{root}/srv/data/zeros", "user.note", b"kept\0bit by bit")
# cap_net_bind_service=ep, as setcap writes it
os.setxattr(f"{root}/usr/bin/env-again", "security.capability", bytes.fromhex("0100000200040000" + "00" * 12))
PYTHON
}

make_image() {
    local layout=$1/layout bundle=$1/bundle root=$1/bundle/rootfs
    umoci init --layout "$layout"
    umoci new --image "$layout:latest"
    umoci config --image "$layout:latest" --config.cmd python3 --config.env PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        --history.comment "what it runs"
    umoci unpack --image "$layout:latest" "$bundle" >/dev/null
    say "layer 1: Debian"
    retry debootstrap_empty bookworm "$root" "${BASE[@]}"
    commit "$layout" "$bundle" "debootstrap bookworm"
    say "layer 2: ${PACKAGES[*]}"
    retry root_install "$root" "${PACKAGES[@]}"
    commit "$layout" "$bundle" "apt-get install ${PACKAGES[*]}"
    say "layer 3: ${LIBRARIES[*]}"
    retry add_libraries "$root"
    commit "$layout" "$bundle" "pip install ${LIBRARIES[*]}"
    say "layer 4: changes"
    change_files "$root"
    commit "$layout" "$bundle" "changes"
    umoci gc --layout "$layout" >/dev/null
    rm -rf --one-file-system "$bundle"
    mv "$layout"/* "$1"
    rmdir "$layout"
}

need_root
need_packages debootstrap python3 python3-pip umoci
cached "real-image-$SIZE" 5 make_image
echo "$EROLITH_CACHE/real-image-$SIZE"
