#!/usr/bin/env bash
# A tour of erolith in six steps, with a real image and a real containerd 2.1: convert, mount, run beside overlayfs, kill the
# daemon, damage a layer, commit. Installs all that it needs on a fresh Debian 12 machine, as root, and leaves nothing behind.
#
#   testdata/demo.sh           an image of 94 MB, 278 MB unpacked: about 15 min the first time, then 1 min
#   testdata/demo.sh --full    one of 370 MB, 1.05 GB unpacked: about 5 min more
#   testdata/demo.sh --keep    leaves everything running at the end, to go on by hand
#
# Every line that begins with `$` can be typed as it is, in the directory and with the PATH that the first lines name.
set -euo pipefail
# shellcheck source=setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

SIZE=small KEEP=
for argument in "$@"; do
    case $argument in
    --full) SIZE=full ;;
    --keep) KEEP=yes ;;
    *) die "usage: $0 [--full] [--keep]" ;;
    esac
done

# step NUMBER TITLE WHAT: the heading of a step and what to look at.
step() { printf '\n\n=== %s. %s\n    %s\n' "$@"; }

# typed WORD...: a command as one would type it.
typed() {
    local word line=
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./:=,@+-]+$ ]] || word=${word@Q}
        line+=" $word"
    done
    printf '%s\n' "${line# }"
}

# show CMD...: the command, what it says, and how long it took, also in TOOK.
show() {
    local start=$EPOCHREALTIME
    printf '\n$ %s\n' "$(typed "$@")"
    "$@"
    TOOK=$(seconds "$start" "$EPOCHREALTIME")
}

# show_failing CMD...: the same for a command whose answer is no.
show_failing() {
    printf '\n$ %s\n' "$(typed "$@")"
    ! "$@" || die "this should have failed: $(typed "$@")"
}

# show_scrub STATUS ARGS...: a scrub on the node that must end with this status. Digests and lines are shortened.
show_scrub() {
    local wanted=$1 status=0
    shift
    printf '\n$ %s\n' "$(typed on-node erolith scrub "$@")"
    on-node erolith scrub "$@" >scrubbed || status=$?
    sed -E "s,$WORK/[^:]*/layer.erofs: ,,; s,(sha256:[0-9a-f]{12})[0-9a-f]+,\1...,g" scrubbed | cut -c -150
    echo "(exit status $status)"
    [[ $status -eq $wanted ]] || die "the exit status should have been $wanted"
}

# seconds FROM TO: what lies between two readings of EPOCHREALTIME, to the hundredth.
seconds() { awk -v from="$1" -v to="$2" 'BEGIN { printf "%.2f s", to - from }'; }

clean_up() {
    ! mountpoint -q root || umount root
    ! mountpoint -q layer || umount layer
    [[ ! -e node ]] || containerd stop >/dev/null 2>&1 || true
    rm -rf --one-file-system "$WORK"
}

# containerd COMMAND...: what testdata/containerd.sh does with the node of this tour.
containerd() { "$EROLITH_REPO/testdata/containerd.sh" "$1" "$WORK/node" "${@:2}"; }

# The command that runs others where containerd and the daemon live, in namespaces of their own.
make_on_node() {
    mkdir bin
    cat >bin/on-node <<SCRIPT
#!/bin/sh
exec $EROLITH_REPO/testdata/containerd.sh exec $WORK/node env CONTAINERD_ADDRESS=$WORK/node/sock \
    PATH=$PROGRAMS:/usr/sbin:/usr/bin:/sbin:/bin "\$@"
SCRIPT
    chmod +x bin/on-node
    PATH=$WORK/bin:$PATH
}

# Starts containerd and erolith's daemon beside it, each with what it needs to know of the other.
start_node() {
    mkdir node
    cat >erolith.toml <<TOML
root = "$WORK/node/erolith"
[containerd]
address = "$WORK/node/sock"
root = "$WORK/node/root"
TOML
    erolith serve --config erolith.toml --print-containerd-config=2.1 | grep -v '^version' >plugins.toml
    EROLITH_SHARED=$PROGRAMS containerd start "$WORK/plugins.toml"
    on-node mkdir -p /etc/erolith
    on-node tee /etc/erolith/config.toml <erolith.toml >/dev/null
    start_daemon
}

# The daemon belongs to no job of this shell: that it is killed is not news to it.
start_daemon() {
    setsid --fork on-node sh -c "echo \$\$ >/run/erolith.pid; exec erolith serve --log-level warn" >>"$WORK/log" 2>&1
    # shellcheck disable=SC2016 # expanded by the inner shell
    on-node timeout 20 sh -c 'until erolith snapshots ls >/dev/null 2>&1; do sleep 0.05; done' ||
        { cat "$WORK/log" >&2 && die "the daemon does not answer"; }
}

# used: bytes that the files of this directory take, on its own filesystem.
used() { du --summarize --one-file-system --block-size=1 . | cut -f 1; }

# Has containerd collect its garbage now: what containers leave that ended goes some time later by itself.
collect() { on-node sh -c 'ctr leases create --id collect && ctr leases delete --sync collect' >/dev/null; }

convert() {
    step 1 "Convert" "One line a layer. EROFS layers are not compressed, while those of the source are gzip."
    show erolith convert oci:docker:latest oci:native:latest
    echo "($TOOK)"
    show du -sh docker/ native/
}

mount_it() {
    local largest before
    largest=$(find native/blobs -type f -printf '%s %p\n' | sort -n | tail -n 1)
    step 2 "Mount" "FSTYPE is erofs: a layer is mounted as it lies in the layout. Nothing is unpacked, so the disk holds no more than before."
    mkdir layer root
    before=$(used)
    show erolith mount "${largest#* }" layer
    echo "($TOOK)"
    show findmnt --types erofs --output FSTYPE,OPTIONS --mountpoint layer
    printf '\n    All layers at once are an overlay of such mounts, and work as the root of a program.\n'
    show erolith mount oci:native:latest root
    echo "($TOOK)"
    show chroot root python3 -c "$PROGRAM"
    show du -sh root
    echo "(on disk: $(used) bytes, before the mounts $before)"
    [[ $(used) -le $((before + 65536)) ]] || die "mounting took space on the disk"
    show erolith umount root
    show erolith umount layer
    if mountpoint -q layer || mountpoint -q root; then die "a mount is left"; fi
}

# times NAME: unpacks the image with a snapshotter and runs a container, then another one.
times() {
    show on-node ctr run --rm --snapshotter "$1" demo:latest "$1-1" python3 -c "$PROGRAM"
    TIMES+=("$TOOK")
    show on-node ctr run --rm --snapshotter "$1" demo:latest "$1-2" python3 -c "$PROGRAM"
    TIMES+=("$TOOK")
}

run_it() {
    step 3 "Run on containerd" "The same image on containerd's overlayfs and on erolith. The first run of each unpacks the image."
    printf '    %s\n' "Its layers are gzip, so containerd 2.1 runs it; the image of step 1, whose layers are EROFS, needs containerd 2.3."
    tar -C docker/ -cf image.tar .
    show on-node ctr images import --no-unpack --base-name demo "$WORK/image.tar"
    TIMES=()
    times overlayfs
    times erolith
    echo
    printf '%-12s %10s %10s\n' '' 'first run' 'second run' overlayfs "${TIMES[@]:0:2}" erolith "${TIMES[@]:2:2}"
}

kill_it() {
    step 4 "Kill the daemon under a container" "With the daemon dead, the container reads its files: the kernel serves them. A new daemon finds its mounts."
    show on-node ctr run --detach --snapshotter erolith demo:latest web sleep infinity
    # shellcheck disable=SC2016 # expanded on the node
    show on-node sh -c 'kill -9 $(cat /run/erolith.pid)'
    # shellcheck disable=SC2016 # expanded on the node
    on-node timeout 20 sh -c 'while kill -0 $(cat /run/erolith.pid) 2>/dev/null; do sleep 0.05; done'
    show_failing on-node erolith snapshots ls
    show on-node ctr task ls
    show on-node ctr task exec --exec-id import web python3 -c "$PROGRAM"
    printf '\n    The daemon is started again.\n'
    start_daemon
    show on-node findmnt --types erofs --output TARGET,FSTYPE,OPTIONS
    collect
    show on-node erolith snapshots tree
    show on-node ctr task kill --signal SIGKILL web
    on-node timeout 20 sh -c 'while ctr task ls -q | grep -qx web; do ctr task rm web >/dev/null 2>&1 || sleep 0.05; done'
    show on-node ctr container rm web
}

damage_it() {
    local victim middle dir
    victim=$(find node/erolith/snapshots -name layer.erofs -printf '%s %p\n' | sort -n | tail -n 1)
    middle=$((${victim%% *} / 8192))
    dir=$(dirname "${victim#* }")
    step 5 "Damage a layer" "Four blocks of the largest layer are overwritten. scrub quarantines it, and the daemon rebuilds it from its blob."
    show dd if=/dev/urandom "of=${victim#* }" bs=4096 "seek=$middle" count=4 conv=notrunc status=none
    show_scrub 1 --quarantine
    printf '\n    The damaged image has lost its name. A container that needs the layer waits until it is rebuilt.\n'
    show ls "$dir"
    show on-node ctr run --rm --snapshotter erolith demo:latest healed python3 -c "$PROGRAM"
    show grep -o 'a damaged layer was rebuilt.*' log
    show ls "$dir"
    [[ -e $dir/layer.erofs && ! -e $dir/damaged.erofs ]] || die "the layer was not rebuilt"
    show_scrub 0
}

commit_it() {
    local key
    step 6 "Commit and diff" "Only what the container changed is read and becomes a layer."
    show on-node ctr run --snapshotter erolith demo:latest work \
        sh -c 'echo "from a container" >/srv/hello; rm /etc/issue; chmod 700 /srv/data'
    key=$(on-node erolith snapshots ls | grep -o 'default/[0-9]*/work')
    show on-node erolith diff --snapshot "$key"
    show on-node erolith commit -m 'says hello' work demo:changed
    echo "($TOOK)"
    show on-node ctr run --rm --snapshotter erolith demo:changed again cat /srv/hello
    show on-node ctr container rm work
}

# left: the processes that see a mount of this tour, in whichever namespace, and the loop devices over its files.
left() {
    grep -ls " $WORK" /proc/[0-9]*/mountinfo || true
    losetup --noheadings --list --output NAME,BACK-FILE | grep -F " $WORK" || true
}

end_it() {
    on-node sh -c 'ctr images ls -q | xargs ctr images rm' >/dev/null
    collect
    # shellcheck disable=SC2016 # expanded on the node
    on-node timeout 20 sh -c 'while [ -n "$(findmnt --noheadings --types erofs)" ]; do sleep 0.1; done' ||
        die "mounts without a user are left: $(on-node findmnt --types erofs)"
    printf '\n\nContainers and images are removed, and the daemon has unmounted every layer.\n'
    containerd stop
    # The kernel takes mounts and loop devices of a namespace apart after its last process.
    for _ in {1..50}; do
        [[ -n $(left) ]] || break
        sleep 0.1
    done
    [[ -z $(left) ]] || die "mounts or loop devices are left: $(left)"
    echo "Stopped. Mounts and loop devices left: 0"
}

need_demo
cd "$EROLITH_REPO"
say "building erolith"
cargo build --release --locked --features isal
PROGRAMS=$(realpath "${CARGO_TARGET_DIR:-target}/release")
PATH=$PROGRAMS:$PATH
image=$("$EROLITH_REPO/testdata/real-image.sh" "$SIZE")
"$EROLITH_REPO/testdata/sid-root.sh" >/dev/null

# What every container runs.
PROGRAM='import numpy; print("numpy", numpy.__version__, "on", open("/etc/debian_version").read().strip())'
WORK=$(mktemp -d "$EROLITH_CACHE/demo.XXXXXX")
cd "$WORK"
trap clean_up EXIT
ln -s "$image" docker
make_on_node
echo
echo "$ cd $WORK"
echo "$ PATH=$WORK/bin:$PROGRAMS:\$PATH    # on-node runs a command where containerd and erolith's daemon run"
show erolith --version
convert
mount_it
start_node
run_it
kill_it
damage_it
commit_it
if [[ -n $KEEP ]]; then
    trap - EXIT
    printf '\nEverything runs on. To end it: %s/testdata/containerd.sh stop %s/node; rm -r %s\n' "$EROLITH_REPO" "$WORK" "$WORK"
    exit
fi
end_it
