#!/bin/sh
# Installs erolith on a node that has containerd, or upgrades it: the binary, the units, and containerd's configuration. The
# DaemonSet of erolith.yaml runs it in a container; by hand it does the same on the machine it runs on.
#
#   node.sh install     installs or upgrades; containerd is restarted only when its configuration changed
#   node.sh uninstall   takes everything back but /var/lib/containerd and /etc/erolith
#   node.sh wait        install, and then nothing, until it is ended: what a DaemonSet runs
#
#   ROOT     the node's root directory (default: /)
#   SOURCE   the directory with erolith, its units and its configuration (default: where this script is)
#   VERSION  of containerd's configuration: 1.7, 2.1 or 2.3 (default: as the containerd below ROOT says)
#
# Images that were unpacked before for overlayfs stay, and are unpacked anew for erolith when a pod needs them: drain the node
# first, see docs/kubernetes.md. Nothing is changed where the node cannot mount images.
set -eu
ROOT=${ROOT:-/}
ROOT=${ROOT%/}
SOURCE=${SOURCE:-$(dirname "$0")}
CONTAINERD=$ROOT/etc/containerd
IMPORTS='imports = ["/etc/containerd/conf.d/*.toml"]'
CHANGED=

die() {
    printf 'erolith: %s\n' "$*" >&2
    exit 1
}

# on_node CMD...: runs CMD as on the node, with its mounts and its programs.
on_node() {
    if [ -z "$ROOT" ]; then
        "$@"
    elif [ "$ROOT" = /proc/1/root ]; then
        nsenter --target 1 --mount --uts --ipc --net --pid -- "$@"
    else
        chroot "$ROOT" "$@"
    fi
}

# put MODE FROM TO: replaces a file of the node by another one, whole or not at all, when they differ.
put() {
    cmp -s "$2" "$ROOT$3" && return
    mkdir -p "$ROOT$(dirname "$3")"
    cp "$2" "$ROOT$3.new"
    chmod "$1" "$ROOT$3.new"
    mv -f "$ROOT$3.new" "$ROOT$3"
    CHANGED="$CHANGED $3"
}

changed() {
    case "$CHANGED " in
    *" $1 "*) true ;;
    *) false ;;
    esac
}

systemd() { [ -d "$ROOT/run/systemd/system" ]; }

# What the configuration printed for containerd has to be for.
version() {
    [ -z "${VERSION:-}" ] || { echo "$VERSION" && return; }
    # "containerd github.com/containerd/containerd/v2 v2.1.9 ...": the third word.
    on_node containerd --version | {
        read -r _ _ number _
        case ${number#v} in
        1.*) echo 1.7 ;;
        2.[0-2] | 2.[0-2].* | 2.[0-2][-~+]*) echo 2.1 ;;
        [2-9].*) echo 2.3 ;;
        *) die "which containerd is $number? Set VERSION" ;;
        esac
    }
}

# The version line of a configuration that is made anew.
format() {
    case $1 in
    1.7) echo 2 ;;
    2.1) echo 3 ;;
    *) echo 4 ;;
    esac
}

# Has containerd's own file import the directory, above every table, whatever else it has.
import() {
    file=$CONTAINERD/config.toml
    work=$ROOT/etc/containerd/config.toml.erolith
    if [ ! -s "$file" ]; then
        printf 'version = %s\n%s\n' "$(format "$1")" "$IMPORTS" >"$work"
    elif grep -q '^ *imports *=.*conf\.d/\*\.toml' "$file"; then
        return
    elif grep -Eq '^ *imports *= *\[ *\] *$' "$file"; then
        sed "s|^ *imports *= *\[ *\] *\$|$IMPORTS|" "$file" >"$work"
    elif grep -q '^ *imports *=' "$file"; then
        die "$file imports other files: add /etc/containerd/conf.d/*.toml there"
    else
        { echo "$IMPORTS" && cat "$file"; } >"$work"
    fi
    [ ! -s "$file" ] || [ -e "$file.before-erolith" ] || cp -p "$file" "$file.before-erolith"
    mv -f "$work" "$file"
    CHANGED="$CHANGED /etc/containerd/config.toml"
}

# containerd 1.7 takes CRI's snapshotter from its own file alone.
require_own_line() {
    grep -q 'snapshotter *= *"erolith"' "$CONTAINERD/config.toml" 2>/dev/null && return
    die "containerd 1.7: set snapshotter = \"erolith\" below [plugins.\"io.containerd.grpc.v1.cri\".containerd] in" \
        "/etc/containerd/config.toml first, see docs/kubernetes.md"
}

install_node() {
    [ -x "$SOURCE/erolith" ] || die "$SOURCE/erolith is missing"
    version=$(version)
    [ "$version" != 1.7 ] || require_own_line
    put 755 "$SOURCE/erolith" /usr/local/bin/erolith
    on_node /usr/local/bin/erolith doctor /var/lib/containerd >/dev/null ||
        die "this node cannot mount images; on it, erolith doctor /var/lib/containerd says why"
    [ -e "$ROOT/etc/erolith/config.toml" ] || put 600 "$SOURCE/config.toml" /etc/erolith/config.toml
    for unit in erolith.service erolith.socket; do
        put 644 "$SOURCE/$unit" "/etc/systemd/system/$unit"
    done
    start_daemon
    text=$(mktemp)
    on_node /usr/local/bin/erolith serve "--print-containerd-config=$version" >"$text"
    put 644 "$text" /etc/containerd/conf.d/erolith.toml
    rm -f "$text"
    import "$version"
    if systemd && { changed /etc/containerd/config.toml || changed /etc/containerd/conf.d/erolith.toml; }; then
        on_node systemctl restart containerd
    fi
    echo "erolith: installed$([ -n "$CHANGED" ] || echo ', nothing to change')"
    ! systemd || on_node /usr/local/bin/erolith doctor --config /etc/erolith/config.toml
}

# Containers go on while the daemon restarts, and containerd waits at the socket.
start_daemon() {
    systemd || return 0
    on_node systemctl daemon-reload
    on_node systemctl enable --quiet erolith.socket erolith.service
    on_node systemctl start erolith.socket
    if changed /usr/local/bin/erolith || changed /etc/systemd/system/erolith.service; then
        on_node systemctl restart erolith.service
    else
        on_node systemctl start erolith.service
    fi
}

uninstall_node() {
    rm -f "$CONTAINERD/conf.d/erolith.toml"
    if systemd; then
        on_node systemctl restart containerd
        on_node systemctl disable --quiet --now erolith.socket erolith.service || true
    fi
    rm -f "$ROOT/etc/systemd/system/erolith.service" "$ROOT/etc/systemd/system/erolith.socket" \
        "$ROOT/usr/local/bin/erolith"
    ! systemd || on_node systemctl daemon-reload
    echo "erolith: uninstalled"
}

case ${1:-} in
install) install_node ;;
uninstall) uninstall_node ;;
wait)
    install_node
    trap 'exit 0' TERM INT
    while :; do
        sleep 86400 &
        wait $!
    done
    ;;
*) die "usage: $0 install|uninstall|wait" ;;
esac
