#!/usr/bin/env bash
# Runs the containerd of $EROLITH_CACHE/sid (testdata/sid-root.sh) with its whole state in one directory, beside any other.
#
#   testdata/containerd.sh start DIR [EXTRA.toml]   starts it (about 1 s); EXTRA.toml is added to its configuration
#   testdata/containerd.sh ctr   DIR ARGS...        its client
#   testdata/containerd.sh exec  DIR CMD...         runs CMD as containerd sees the world; DIR and $EROLITH_CACHE have the same names
#   testdata/containerd.sh pid   DIR                its process id, as the host counts
#   testdata/containerd.sh stop  DIR                stops it and everything below it, and deletes DIR
#
# It lives in mount and process namespaces of its own over a scratch copy of the sid root: when it ends, however it ends, its
# processes and mounts end too. The EROFS differ is preferred to the walking one. Keep DIR short: it holds a socket.
set -euo pipefail
# shellcheck source=setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

[[ $# -ge 2 ]] || die "usage: $0 start|ctr|exec|pid|stop DIR ..."
COMMAND=$1
DIR=$(realpath -m "$2")
shift 2

write_config() {
    cat <<TOML
version = 3
root = "$DIR/root"
state = "$DIR/state"
disabled_plugins = [
    "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri",
]
[grpc]
address = "$DIR/sock"
[plugins."io.containerd.service.v1.diff-service"]
default = ["erofs", "walking"]
TOML
    [[ $# -eq 0 ]] || cat "$1"
}

# Runs in the new namespaces as process 1; $1 is DIR, $2 the cache, $3 the sid root.
# shellcheck disable=SC2016 # expanded by that shell
INSIDE='
    mount -t overlay overlay -o "lowerdir=$3,upperdir=$1/over/upper,workdir=$1/over/work" "$1/over/root"
    cd "$1/over/root"
    mount -t proc proc proc
    mount -t tmpfs tmpfs run
    mount --rbind /sys sys
    mount --rbind /dev dev
    for shared in "$2" "$1"; do
        mkdir -p "./$shared"
        mount --bind "$shared" "./$shared"
    done
    exec chroot . /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root containerd --config "$1/config.toml"
'

start() {
    [[ ! -e $DIR/sock ]] || die "$DIR: already there"
    mkdir -p "$DIR"/over/{upper,work,root}
    write_config "$@" >"$DIR/config.toml"
    unshare --mount --pid --fork --kill-child --propagation private \
        sh -euc "$INSIDE" sh "$DIR" "$EROLITH_CACHE" "$EROLITH_CACHE/sid" </dev/null >"$DIR/log" 2>&1 &
    echo $! >"$DIR/unshare.pid"
    local try
    for try in {1..100}; do
        kill -0 "$(<"$DIR/unshare.pid")" 2>/dev/null || break
        # The first commands come before the namespaces are ready.
        ctr version >/dev/null 2>&1 && return
        sleep 0.1
    done
    tail -n 20 "$DIR/log" >&2
    stop
    die "containerd did not start (try $try)"
}

pid() { pgrep --parent "$(<"$DIR/unshare.pid")"; }

inside() {
    nsenter --target "$(pid)" --mount --pid --root --wd env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"
}

ctr() { inside ctr --address "$DIR/sock" "$@"; }

stop() {
    local unshare
    unshare=$(<"$DIR/unshare.pid")
    # With process 1 of the namespace go all others, and their mounts.
    kill -KILL "$(pid)" 2>/dev/null || true
    tail --pid="$unshare" -f /dev/null
    rm -rf --one-file-system "$DIR"
}

need_root
case $COMMAND in
start) start "$@" ;;
ctr) ctr "$@" ;;
exec) inside "$@" ;;
pid) pid ;;
stop) stop ;;
*) die "unknown command $COMMAND" ;;
esac
