#!/usr/bin/env bash
# Runs the commands of README.md on a bare machine: a fresh minimal Debian 12 in namespaces of its own, which has nothing of
# this machine but its kernel, its network and its Rust toolchain. No package is installed by hand, no cache is filled.
#
#   tests/bare.sh setup          packages: afterwards every program that the scripts call exists (about 2 min)
#   tests/bare.sh demo [--full]  testdata/demo.sh
#   tests/bare.sh tests          tests/run.sh
#   tests/bare.sh run CMD...     another command, in the directory of the source
#
# EROLITH_BARE_FILES names files that are put into /root there. The source is that of this working tree, with the changes that are not committed. Everything is deleted at the end.
set -euo pipefail
# shellcheck source=../testdata/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../testdata/setup.sh"

# Where the toolchain lies in there.
RUST=/opt/rust

make_root() { retry debootstrap_empty bookworm "$1"; }

# What this machine needs to reach mirrors and registries: proxies, certificates of its own, settings of apt and cargo.
copy_network() {
    local root=$1 config=${CARGO_HOME:-$HOME/.cargo}/config.toml
    cp --remove-destination /etc/resolv.conf /etc/hosts "$root/etc/"
    apt-config dump | grep -E '^Acquire::(Check|http|https|ftp|Proxy|Retries)' >"$root/etc/apt/apt.conf.d/00host" || true
    mkdir -p "$root/root/.cargo"
    [[ ! -e $config ]] || cp "$config" "$root/root/.cargo/"
    [[ ! -e ${SSL_CERT_FILE:-} ]] || cp "$SSL_CERT_FILE" "$root/etc/host-certificates.crt"
}

# The variables of the machine's processes, a word each.
environment() {
    local name
    printf '%s\n' HOME=/root TERM="${TERM:-dumb}" EROLITH_BARE=1 \
        PATH=$RUST/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    for name in {http,https,no,all}_proxy {HTTP,HTTPS,NO,ALL}_PROXY PIP_INDEX_URL FUZZ_SECONDS CI; do
        [[ -z ${!name:-} ]] || printf '%s=%s\n' "$name" "${!name}"
    done
    [[ ! -e ${SSL_CERT_FILE:-} ]] || printf '%s=/etc/host-certificates.crt\n' \
        SSL_CERT_FILE CURL_CA_BUNDLE CARGO_HTTP_CAINFO GIT_SSL_CAINFO PIP_CERT
}

# copy_source PLACE: this working tree as a checkout of its own; without git, as it lies here.
copy_source() {
    cd "$EROLITH_REPO"
    if ! git rev-parse --git-dir >/dev/null 2>&1; then
        mkdir "$1"
        tar --exclude=./target --exclude=./fuzz/target -cf - . | tar -xf - -C "$1"
        return
    fi
    git clone --quiet --no-checkout --depth 1 "file://$EROLITH_REPO" "$1"
    git -C "$1" reset --quiet
    git ls-files -z --cached --others --exclude-standard |
        tar --null --files-from - --ignore-failed-read -cf - 2>/dev/null | tar -xf - -C "$1"
}

# Becomes process 1 of the machine. $1 is its root, $2 the toolchain, and then comes the command.
# shellcheck disable=SC2016 # expanded by that shell
INSIDE='
    root=$1 toolchain=$2
    shift 2
    echo bare >/proc/sys/kernel/hostname
    mount --bind "$root" "$root"
    cd "$root"
    mount -t proc proc proc
    mount --rbind /sys sys
    mount --rbind /dev dev
    mount -t tmpfs tmpfs run
    if [ -n "$toolchain" ]; then
        mkdir -p ./opt/rust
        mount --bind "$toolchain" ./opt/rust
        mount -o remount,bind,ro ./opt/rust
    fi
    mkdir -p run/old
    pivot_root . run/old
    # Process 1 also reaps what others leave to it.
    exec chroot . /bin/bash -c "umount -l /run/old && cd /root/erolith && { \"\$@\" & wait \$!; }" bash "$@"
'

# on_bare CMD...: runs CMD on the machine in $WORK.
on_bare() {
    local environment toolchain
    mapfile -t environment < <(environment)
    toolchain=$(rustc --print sysroot 2>/dev/null) || true
    # One that the distribution installed has no directory of its own; need_build_tools brings another.
    [[ $toolchain != /usr ]] || toolchain=
    unshare --mount --pid --uts --ipc --fork --kill-child --propagation private \
        bash -euc "$INSIDE" bash "$WORK/root" "$toolchain" env -i "${environment[@]}" "$@" </dev/null
}

# check_setup: installs what each command needs and looks for the programs that it calls.
check_setup() {
    need_packages python3 shfmt
    cd "$EROLITH_REPO"
    local demo=(testdata/{containerd,demo,real-image,setup,sid-root}.sh)
    local tests=(.ci/run testdata/*.sh tests/*.sh tests/vm/{lib,power}.sh)
    python3 -B tests/programs.py "${demo[@]}" >"$WORK/root/root/demo"
    python3 -B tests/programs.py "${tests[@]}" >"$WORK/root/root/tests"
    # Downloaded packages are kept for the next time; what is installed is as new as any.
    mkdir -p "$EROLITH_CACHE/bare-packages/partial"
    cp "$EROLITH_CACHE"/bare-packages/*.deb "$WORK/root/var/cache/apt/archives/" 2>/dev/null || true
    # shellcheck disable=SC2016 # expanded on the machine
    on_bare bash -euo pipefail -c '
        source testdata/setup.sh
        missing=0
        for command in demo tests; do
            "need_$command"
            while IFS=$'"'\\t'"' read -r script program; do
                command -v "$program" >/dev/null || { echo "$script calls $program: no package brings it" && missing=1; }
            done <"/root/$command"
            say "$(wc -l <"/root/$command") calls of programs checked for $command"
        done
        exit "$missing"'
    cp -u "$WORK"/root/var/cache/apt/archives/*.deb "$EROLITH_CACHE/bare-packages/" 2>/dev/null || true
}

clean_up() { rm -rf --one-file-system "$WORK"; }

[[ $# -ge 1 ]] || die "usage: $0 setup|demo|tests|run ..."
COMMAND=$1
shift
need_root
need_packages debootstrap git
cached bare 1 make_root
WORK=$(mktemp -d "${TMPDIR:-/var/tmp}/erolith-bare.XXXXXX")
trap clean_up EXIT
cp -a --reflink=auto "$EROLITH_CACHE/bare" "$WORK/root"
copy_network "$WORK/root"
copy_source "$WORK/root/root/erolith"
# shellcheck disable=SC2086 # a word for each file
[[ -z ${EROLITH_BARE_FILES:-} ]] || cp $EROLITH_BARE_FILES "$WORK/root/root/"
case $COMMAND in
setup) check_setup ;;
demo) on_bare testdata/demo.sh "$@" ;;
tests) on_bare tests/run.sh ;;
run) on_bare "$@" ;;
*) die "unknown command $COMMAND" ;;
esac
