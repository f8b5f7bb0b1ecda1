# Common ground of the set-up scripts; sourced, never run.
#
# Everything that takes long to make is made once and kept under $EROLITH_CACHE. A thing in the cache is complete or
# absent: it is built beside its place and renamed, under a lock, so that scripts may run side by side and be killed.
# shellcheck shell=bash

EROLITH_CACHE=${EROLITH_CACHE:-/var/cache/erolith}
EROLITH_REPO=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
export EROLITH_CACHE EROLITH_REPO DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes
umask 022

say() { printf '== %s\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

need_root() { [[ $EUID -eq 0 ]] || die "$0 must run as root"; }

# What building erolith needs: a C compiler and, for the feature isal, the assembler and autotools that its crate calls.
BUILD_PACKAGES=(autoconf automake build-essential ca-certificates curl git libtool nasm pkg-config)

# What testdata/demo.sh and the scripts that it calls need besides. A minimal Debian has neither `pgrep` nor `flock`.
DEMO_PACKAGES=(debootstrap gzip mount procps python3 python3-pip umoci util-linux zstd)

# What tests/run.sh needs besides those.
TEST_PACKAGES=(acl attr chromium cryptsetup-bin e2fsprogs isal libarchive-tools shellcheck shfmt)

# What the virtual machines of tests/vm are made with.
VM_PACKAGES=(btrfs-progs busybox-static ca-certificates cpio dpkg-dev e2fsprogs kmod python3 qemu-system-x86 xfsprogs xz-utils)

# retry CMD...: a mirror may fail once; three failures are a fault.
retry() {
    local try
    for try in 1 2 3; do
        "$@" && return
        say "attempt $try failed: $*"
        sleep "$try"
    done
    return 1
}

# locked NAME CMD...: runs CMD while no other script holds NAME. What CMD leaves running does not hold it.
locked() {
    local name=$1 fd status=0
    shift
    mkdir -p "$EROLITH_CACHE/.lock"
    exec {fd}>"$EROLITH_CACHE/.lock/$name"
    flock "$fd"
    # A subshell keeps `set -e` alive inside CMD.
    set +e
    (
        set -e
        exec {fd}>&-
        "$@"
    )
    status=$?
    set -e
    exec {fd}>&-
    return "$status"
}

# cached NAME VERSION MAKER: makes $EROLITH_CACHE/NAME by `MAKER EMPTY_DIRECTORY` unless that VERSION of it is there.
cached() { locked "$1" cached_locked "$@"; }

cached_locked() {
    local name=$1 version=$2 maker=$3
    local place=$EROLITH_CACHE/$name stamp=$EROLITH_CACHE/.stamp/$name making=$EROLITH_CACHE/.making/$name
    [[ -e $place && -e $stamp && $(<"$stamp") == "$version" ]] && return
    rm -rf --one-file-system "$making"
    mkdir -p "$(dirname "$stamp")" "$making"
    say "making $place"
    "$maker" "$making"
    rm -rf --one-file-system "$stamp" "$place"
    mv -T "$making" "$place"
    printf '%s\n' "$version" >"$stamp"
}

# need_packages PACKAGE...: the host's Debian packages, asking the mirror only for what is missing.
need_packages() { locked apt install_packages "$@"; }

install_packages() {
    local package missing=()
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    need_root
    say "installing ${missing[*]}"
    retry apt_quiet update
    # An installation that was killed blocks every later one until it is finished.
    dpkg --configure -a >/dev/null 2>&1 || true
    apt_quiet --fix-broken install
    retry apt_quiet install --no-install-recommends "${missing[@]}"
}

# apt_quiet ARGS...: apt-get, which says something only if it fails; scripts of packages say much.
apt_quiet() { quiet apt-get -qq -y "${APT_OPTIONS[@]}" -o DPkg::Lock::Timeout=300 "$@"; }

APT_OPTIONS=(-o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-unsafe-io)

# quiet CMD...: what CMD prints is shown only if it fails.
quiet() {
    local said status=0
    said=$("$@" 2>&1 </dev/null) || status=$?
    [[ $status -eq 0 ]] || printf '%s
' "$said" >&2
    return "$status"
}

# need_demo, need_tests: everything that the programs need which README.md names first.
need_demo() {
    need_root
    need_packages "${DEMO_PACKAGES[@]}"
    need_build_tools
}

need_tests() {
    need_demo
    need_packages "${TEST_PACKAGES[@]}" "${VM_PACKAGES[@]}"
}

# install_cargo_tool NAME: a cargo subcommand, compiled once for all runs; unoptimised, for it runs for a second.
install_cargo_tool() {
    export PATH=$EROLITH_CACHE/cargo/bin:$PATH
    command -v "$1" >/dev/null || retry cargo install --quiet --locked --debug --root "$EROLITH_CACHE/cargo" "$1"
}

# debootstrap_empty SUITE DIRECTORY PACKAGE...: a minimal Debian in a directory whose content is lost.
debootstrap_empty() {
    local suite=$1 directory=$2
    shift 2
    rm -rf --one-file-system "$directory"
    debootstrap --variant=minbase ${1:+--include="$(IFS=,; echo "$*")"} "$suite" "$directory" >/dev/null ||
        { tail -n 20 "$directory/debootstrap/debootstrap.log" >&2 && return 1; }
    rm -f "$directory"/var/cache/apt/archives/*.deb "$directory/var/log/bootstrap.log"
}

# need_build_tools: everything `cargo build` needs. A Rust that is new enough is used, however it was installed; else rustup's
# installer, as its authors document it, brings the stable one.
need_build_tools() {
    local wanted have
    need_packages "${BUILD_PACKAGES[@]}"
    export PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$EROLITH_REPO/Cargo.toml")
    have=$(cargo --version 2>/dev/null | cut -d' ' -f2) || true
    [[ $(printf '%s\n' "$wanted" "${have:-0}" | sort -V | head -n1) == "$wanted" ]] && return
    say "installing Rust: cargo ${have:-is missing}, $wanted wanted"
    curl --proto '=https' -sSf https://sh.rustup.rs | sh -s -- -q -y --profile minimal -c clippy,rustfmt >&2
}

# in_root ROOT CMD...: runs CMD in a chroot with its own /proc, /sys and /dev. The mounts live in a mount namespace of their
# own and the processes in a process namespace, so that nothing outlives the call.
in_root() {
    local root=$1
    shift
    # shellcheck disable=SC2016 # expanded by the inner shell
    unshare --mount --pid --fork --kill-child --propagation private sh -euc '
        root=$1; shift
        mount -t proc proc "$root/proc"
        mount --rbind /sys "$root/sys"
        mount --rbind /dev "$root/dev"
        exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
            DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes "$@"
    ' sh "$root" "$@"
}

# root_install ROOT PACKAGE...: installs packages into a chroot.
root_install() {
    local root=$1
    shift
    cp --remove-destination /etc/resolv.conf "$root/etc/resolv.conf"
    quiet in_root "$root" apt-get -qq -y "${APT_OPTIONS[@]}" install --no-install-recommends "$@"
}
