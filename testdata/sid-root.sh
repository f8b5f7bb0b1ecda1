#!/usr/bin/env bash
# Makes $EROLITH_CACHE/sid, a Debian sid root that holds the tools erolith is judged by, and $EROLITH_CACHE/bin with one small
# script a tool, so that it runs on the host's paths: put that directory into PATH.
#
#   testdata/sid-root.sh tools   erofs-utils (mkfs.erofs, fsck.erofs, dump.erofs), igzip, umoci: about 45 s
#   testdata/sid-root.sh         skopeo, containerd, Docker, runc, plugins for the network of pods, a static busybox, mkfs.ext4 and
#                                Go with containerd's packages besides: about 110 s
#
# Debian 12 has erofs-utils 1.5 and containerd 1.6, too old for either to be a judge.
set -euo pipefail
# shellcheck source=setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

TOOLS=(ca-certificates erofs-utils isal umoci zstd)
DAEMONS=(busybox-static containerd containernetworking-plugins e2fsprogs fsverity golang-go golang-github-containerd-containerd-dev pigz runc skopeo)
# Docker's engine, its client, the client's part of `docker build`, and a registry. Of systemd they need just what makes
# users and directories.
DAEMONS+=(docker.io docker-cli docker-buildx docker-registry iproute2 systemd-standalone-{sysusers,tmpfiles})
PROGRAMS=(mkfs.erofs fsck.erofs dump.erofs igzip umoci)

make_tools() {
    retry debootstrap_empty sid "$1" "${TOOLS[@]}"
}

# The tools start through the root's own dynamic loader, with its libraries, and see the host's files.
make_wrappers() {
    local root=$EROLITH_CACHE/sid loader libraries program
    loader=$(echo "$root"/usr/lib/*-linux-gnu/ld-linux-*.so.*)
    libraries=$(dirname "$loader")
    for program in "${PROGRAMS[@]}"; do
        printf '#!/bin/sh\nexec %s --library-path %s %s "$@"\n' \
            "$loader" "$libraries" "$root/usr/bin/$program" >"$1/$program"
    done
    # Its signature policy is not on the host, and only local layouts are copied.
    printf '#!/bin/sh\nexec %s --library-path %s %s --insecure-policy "$@"\n' \
        "$loader" "$libraries" "$root/usr/bin/skopeo" >"$1/skopeo"
    chmod +x "$1"/*
}

install_daemons() {
    local stamp=$EROLITH_CACHE/sid/.daemons
    [[ -e $stamp && $(<"$stamp") == "${DAEMONS[*]}" ]] && return
    say "installing ${DAEMONS[*]} in $EROLITH_CACHE/sid"
    # Nothing that is installed starts: a Docker that does changes the host's network.
    printf '#!/bin/sh\nexit 101\n' >"$EROLITH_CACHE/sid/usr/sbin/policy-rc.d"
    chmod +x "$EROLITH_CACHE/sid/usr/sbin/policy-rc.d"
    retry root_install "$EROLITH_CACHE/sid" "${DAEMONS[@]}"
    rm -f "$EROLITH_CACHE"/sid/var/cache/apt/archives/*.deb
    printf '%s\n' "${DAEMONS[*]}" >"$stamp"
}

need_root
need_packages debootstrap
cached sid 1 make_tools
cached bin "$EROLITH_CACHE/sid" make_wrappers
[[ ${1:-all} == tools ]] || locked sid-daemons install_daemons
