#!/usr/bin/env bash
# Makes $EROLITH_CACHE/trixie, a Debian trixie root with containerd 1.7 and runc: the oldest containerd that takes differs from
# outside. About 40 s.
set -euo pipefail
# shellcheck source=setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

make_root() {
    retry debootstrap_empty trixie "$1"
    retry root_install "$1" ca-certificates containerd pigz runc
    rm -f "$1"/var/cache/apt/archives/*.deb
}

need_root
need_packages debootstrap
cached trixie 1 make_root
