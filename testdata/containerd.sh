#!/usr/bin/env bash
# Runs a containerd of a Debian root (testdata/sid-root.sh, testdata/trixie-root.sh) with its whole state in one directory,
# beside any other.
#
#   testdata/containerd.sh start   DIR [EXTRA.toml]  starts it (about 1 s); EXTRA.toml is added to its configuration
#   testdata/containerd.sh restart DIR               kills it alone (kill -9) and starts it again: containers stay
#   testdata/containerd.sh reboot  DIR               kills everything below it: mounts and /run are gone, DIR stays
#   testdata/containerd.sh up      DIR               starts it after a reboot
#   testdata/containerd.sh ctr     DIR ARGS...       its client
#   testdata/containerd.sh exec    DIR CMD...        runs CMD as containerd sees the world; DIR and $EROLITH_CACHE have the same names
#   testdata/containerd.sh pid     DIR               its process id, as the host counts
#   testdata/containerd.sh world   DIR               that of process 1 of its namespaces, which outlives it
#   testdata/containerd.sh stop    DIR               stops it and everything below it, and deletes DIR
#
# start takes these variables:
#
#   EROLITH_CONTAINERD  sid (containerd 2.1, the default) or trixie (1.7)
#   EROLITH_SHARED      one more directory that has the same name inside
#   EROLITH_CRI         set: with the services of Kubernetes' CRI, and in a network of its own
#
# Its configuration imports DIR/conf.d/*.toml, which may be there already.
#
# It lives in mount and process namespaces of its own over a scratch copy of that root: when they end, however they end, all
# processes and mounts end too. Unless EXTRA.toml says otherwise, the EROFS differ is preferred to the walking one. Keep DIR
# short: it holds a socket.
set -euo pipefail
# shellcheck source=setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

[[ $# -ge 2 ]] || die "usage: $0 start|restart|reboot|up|ctr|exec|pid|world|stop DIR ..."
COMMAND=$1
DIR=$(realpath -m "$2")
shift 2

write_config() {
    local version=3 differs='["erofs", "walking"]' disabled=(nri.v1.nri)
    [[ $SUITE == sid ]] || version=2 differs='["walking"]'
    [[ -n ${EROLITH_CRI:-} ]] || disabled+=(cri.v1.images cri.v1.runtime grpc.v1.cri)
    cat <<TOML
version = $version
imports = ["$DIR/conf.d/*.toml"]
root = "$DIR/root"
state = "$DIR/state"
disabled_plugins = [$(printf '"io.containerd.%s", ' "${disabled[@]}")]
[grpc]
address = "$DIR/sock"
TOML
    if [[ $# -eq 0 ]] || ! grep -q 'service\.v1\.diff-service' "$1"; then
        printf '[plugins."io.containerd.service.v1.diff-service"]\ndefault = %s\n' "$differs"
    fi
    [[ $# -eq 0 ]] || cat "$1"
}

# Becomes process 1 of the new namespaces, which starts nothing and reaps whatever is left to it. $1 is DIR, $2 the Debian
# root, and then come the shared directories.
# shellcheck disable=SC2016 # expanded by that shell
INSIDE='
    dir=$1 lower=$2
    shift 2
    mount -t overlay overlay -o "lowerdir=$lower,upperdir=$dir/over/upper,workdir=$dir/over/work" "$dir/over/root"
    cd "$dir/over/root"
    mount -t proc proc proc
    mount -t tmpfs tmpfs run
    mount --rbind /sys sys
    mount --rbind /dev dev
    # The directory last: it may be below another one, and a filesystem of its own.
    for shared in "$@" "$dir"; do
        mkdir -p "./$shared"
        mount --bind "$shared" "./$shared"
    done
    # Not only chroot: processes that enter the mount namespace, as runc exec does, begin at its root.
    mkdir -p run/old
    pivot_root . run/old
    exec chroot . /bin/bash -c "umount -l /run/old && touch \"$dir/ready\" && sleep infinity & wait"
'

start() {
    local SUITE=${EROLITH_CONTAINERD:-sid}
    [[ ! -e $DIR/sock ]] || die "$DIR: already there"
    mkdir -p "$DIR"/over/{upper,work,root}
    write_config "$@" >"$DIR/config.toml"
    # The words of what makes the namespaces, and the same ones after a reboot.
    printf '%s\0' unshare --mount --pid --fork --kill-child --propagation private ${EROLITH_CRI:+--net} \
        sh -euc "$INSIDE" sh "$DIR" "$EROLITH_CACHE/$SUITE" "$EROLITH_CACHE" \
        ${EROLITH_SHARED:+"$EROLITH_SHARED"} >"$DIR/world"
    start_world
    start_containerd
}

start_world() {
    local world
    mapfile -d '' -t world <"$DIR/world"
    rm -f "$DIR/ready"
    "${world[@]}" </dev/null >>"$DIR/log" 2>&1 &
    echo $! >"$DIR/unshare.pid"
    local try
    for try in {1..100}; do
        [[ ! -e $DIR/ready ]] || break
        kill -0 "$(<"$DIR/unshare.pid")" 2>/dev/null || fail "no namespaces"
        sleep 0.02
    done
}

start_containerd() {
    local enter
    mapfile -t enter < <(entering)
    "${enter[@]}" containerd --config "$DIR/config.toml" </dev/null >>"$DIR/log" 2>&1 &
    echo $! >"$DIR/nsenter.pid"
    local try
    for try in {1..200}; do
        kill -0 "$(<"$DIR/nsenter.pid")" 2>/dev/null || break
        ctr version >/dev/null 2>&1 && return
        sleep 0.05
    done
    fail "containerd did not start (try $try)"
}

fail() {
    tail -n 20 "$DIR/log" >&2
    stop
    die "$1"
}

restart() {
    kill -KILL "$(pid)"
    ended "$(<"$DIR/nsenter.pid")"
    start_containerd
}

# ended PID: waits until a process that was killed has ended. One that its parent has yet to reap has ended.
ended() {
    local try
    for try in {1..600}; do
        grep -qs '^State:.[^ZX]' "/proc/$1/status" || return 0
        sleep 0.05
    done
    die "process $1 was killed and goes on (try $try)"
}

# With process 1 of the namespaces go all others, and their mounts.
kill_world() {
    local unshare
    unshare=$(<"$DIR/unshare.pid")
    kill -KILL "$(world)" 2>/dev/null || kill -KILL "$unshare" 2>/dev/null || true
    ended "$unshare"
}

reboot() {
    kill_world
    rm -rf --one-file-system "$DIR/state" "$DIR/sock" "$DIR/sock.ttrpc"
    start_world
}

pid() { pgrep --parent "$(<"$DIR/nsenter.pid")"; }

world() { pgrep --parent "$(<"$DIR/unshare.pid")"; }

# The command that runs those behind it in the namespaces, a word a line.
entering() {
    printf '%s\n' nsenter --target "$(world)" --mount --pid --net --root --wd \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
}

inside() {
    local enter
    mapfile -t enter < <(entering)
    "${enter[@]}" "$@"
}

ctr() { inside ctr --address "$DIR/sock" "$@"; }

stop() {
    kill_world
    rm -rf --one-file-system "$DIR"
}

need_root
need_packages procps util-linux
case $COMMAND in
start) start "$@" ;;
restart) restart ;;
reboot) reboot ;;
up) start_containerd ;;
ctr) ctr "$@" ;;
exec) inside "$@" ;;
pid) pid ;;
world) world ;;
stop) stop ;;
*) die "unknown command $COMMAND" ;;
esac
