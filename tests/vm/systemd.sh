#!/usr/bin/env bash
# Starts dist/erolith.service and dist/erolith.socket for real: systemd, containerd 1.7 and runc of Debian 13 in a virtual
# machine, with everything that hardens the unit. Asks whether its few rights are enough. About 5 min for each kernel.
#
#   tests/vm/systemd.sh                    6.12, which mounts images from their files
#   tests/vm/systemd.sh 6.1 newest         these: 6.1 needs loop devices
#
# What is done there: an image is unpacked and run; the daemon is killed under a running container; an upper directory with
# a whiteout is committed; images are made immutable, with hash trees; an Apply without a waiting caller ends its worker.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

# Its kernel has ext4.
VM_MODULES=(virtio_pci virtio_blk)

make_root() {
    retry debootstrap_empty trixie "$1"
    retry root_install "$1" containerd e2fsprogs kmod runc systemd systemd-sysv
    rm -f "$1"/var/cache/apt/archives/*.deb
}

# What runs once everything is started.
check() {
    cat <<'CHECK'
#!/bin/bash
exec >/dev/ttyS0 2>&1
set -eEuo pipefail
stop() {
    [[ $1 == passed ]] || journalctl --no-pager -b -u erolith.service -u erolith.socket -u containerd.service | grep -v 'loading plugin' | tail -n 40
    echo "machine: $1"
    systemctl poweroff -ff
}
trap 'stop "failed: $BASH_COMMAND, line $LINENO"' ERR
say() { echo "-- $*"; }
main() { systemctl show -P MainPID erolith.service; }
# The processes of the unit besides the daemon.
workers() { grep -vx "$(main)" /sys/fs/cgroup/system.slice/erolith.service/cgroup.procs || true; }
# eventually COMMAND...: within a minute.
eventually() {
    local try
    for try in {1..300}; do
        ! "$@" || return 0
        sleep 0.2
    done
    return 1
}

say "$(uname -r), $(systemctl --version | head -n1), $(containerd --version)"
systemctl is-active erolith.socket erolith.service containerd.service
grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' "/proc/$(main)/status"
grep -q '^NoNewPrivs:.1' "/proc/$(main)/status"
# In the mount namespace of process 1: containerd sees what it mounts.
[[ $(readlink "/proc/$(main)/ns/mnt") == "$(readlink /proc/1/ns/mnt)" ]]
erolith doctor --config /etc/erolith/config.toml

say "an Apply that nobody waits for ends its worker"
ctr images import --base-name image --snapshotter erolith /image.tar >/dev/null &
some_worker() { [[ -n $(workers) ]]; }
eventually some_worker
worker=$(workers | head -n1)
# It can end in no other way any more.
kill -STOP "$worker"
kill -KILL $!
gone() { [[ ! -e /proc/$worker ]]; }
eventually gone

say "an image is unpacked and run"
ctr images import --base-name image --snapshotter erolith /image.tar
image=$(ctr images ls -q)
ctr run --rm --snapshotter erolith "$image" first python3 -c 'print("from EROFS")' | grep -x 'from EROFS'
layers=/var/lib/containerd/io.containerd.snapshotter.v1.erolith/snapshots
lsattr "$layers"/*/layer.erofs | tee /tmp/attributes
[[ $(grep -c -- '^-*i-' /tmp/attributes) -eq $(ls "$layers"/*/layer.erofs | wc -l) ]]

say "the daemon is killed under a running container"
ctr run -d --snapshotter erolith "$image" second sleep 1000
ls /dev/dm-*
ctr task exec --exec-id a second sh -c 'echo kept >/file && rm /etc/passwd'
old=$(main)
kill -KILL "$old"
answers() { erolith snapshots ls >/dev/null 2>&1 && [[ $(main) != "$old" ]]; }
eventually answers
ctr task exec --exec-id b second sh -c 'cat /file && python3 -c "print(1)" && ! cat /etc/passwd' | grep -x kept

say "what a container wrote is committed"
ctr task kill -s KILL second
stopped() { [[ $(ctr task ls | grep -c RUNNING) -eq 0 ]]; }
eventually stopped
ctr task rm second
ctr snapshots --snapshotter erolith commit mine second
ctr snapshots --snapshotter erolith view look mine >/dev/null
eval "$(ctr snapshots --snapshotter erolith mounts /mnt look)"
grep -x kept /mnt/file
[[ ! -e /mnt/etc/passwd && -e /mnt/etc/group ]]
umount /mnt
# containerd may have collected it: nothing refers to it.
ctr snapshots --snapshotter erolith rm look || true
ctr container rm second

say "everything goes"
ctr snapshots --snapshotter erolith rm mine || true
# The import that was killed has left one.
for lease in $(ctr leases ls -q); do ctr leases rm "$lease"; done
ctr images rm --sync "$image"
no_layers() { [[ -z $(ls "$layers") ]]; }
eventually no_layers
no_mounts() { [[ -z $(findmnt -n -t erofs) ]]; }
eventually no_mounts

say "it starts when somebody calls"
systemctl stop erolith.service
erolith snapshots ls >/dev/null
systemctl is-active erolith.service
if journalctl -b -u erolith.service | grep -iE 'not permitted|permission denied|EPERM|EACCES'; then
    stop "something was denied"
fi
stop passed
CHECK
}

# What is installed on a node, and the check.
fill() {
    local root=$1 erolith=$2 kernel=$3
    strip -o "$root/usr/local/bin/erolith" "$erolith"
    install -D -m 644 -t "$root/etc/systemd/system" dist/erolith.service dist/erolith.socket
    mkdir -p "$root/etc/erolith" "$root/etc/containerd/conf.d"
    sed -e 's/^immutable = false/immutable = true/' -e '/^\[differ\]/,$ s/^dm_verity = "off"/dm_verity = "required"/' \
        dist/config.toml >"$root/etc/erolith/config.toml"
    "$erolith" serve --print-containerd-config=1.7 >"$root/etc/containerd/conf.d/erolith.toml"
    # The table of CRI has to be in containerd's own file with 1.7.
    cat >"$root/etc/containerd/config.toml" <<'TOML'
version = 2
imports = ["/etc/containerd/conf.d/*.toml"]
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "erolith"
  disable_snapshot_annotations = false
TOML
    tar -C "$EROLITH_CACHE/real-image-small" -cf "$root/image.tar" .
    cp -a "$kernel"/lib/modules/* "$root/usr/lib/modules/"
    check >"$root/check"
    chmod 755 "$root/check"
    cat >"$root/etc/systemd/system/check.service" <<'UNIT'
[Unit]
After=erolith.service containerd.service
[Service]
ExecStart=/check
[Install]
WantedBy=multi-user.target
UNIT
    systemctl --root "$root" enable erolith.service erolith.socket containerd.service check.service >/dev/null 2>&1
}

need_root
vm_packages
need_packages debootstrap systemd
[[ $# -gt 0 ]] || set -- 6.12
cd "$EROLITH_REPO"
testdata/real-image.sh >/dev/null
cached vm-systemd 2 make_root
erolith=$(vm_build erolith build --workspace --features isal --bin erolith --example power)
WORK=$(mktemp -d -p /var/tmp)
trap 'rm -rf "$WORK"' EXIT
VM_APPEND+=' systemd.show_status=no'
for name in "$@"; do
    kernel=$(vm_kernel "$name")
    # shellcheck disable=SC2016 # expanded in the machine
    vm_initramfs "$WORK/initramfs" "$kernel" 'mkdir -p /root
mount -t ext4 /dev/vda /root || stop "no root"
mount --move /dev /root/dev
exec switch_root /root /lib/systemd/systemd'
    rm -rf "$WORK/root"
    cp -a "$EROLITH_CACHE/vm-systemd" "$WORK/root"
    mkdir -p "$WORK/root/usr/lib/modules"
    fill "$WORK/root" "$erolith" "$kernel"
    rm -f "$WORK/disk"
    truncate -s 4G "$WORK/disk"
    mkfs.ext4 -q -F -O verity -d "$WORK/root" "$WORK/disk"
    mapfile -t disk < <(vm_disk "$WORK/disk")
    say "Linux $name"
    vm_run 1200 "$kernel" "$WORK/initramfs" "${disk[@]}" | tr -d '\r' | tee "$WORK/said" || true
    grep -q '^machine: passed' "$WORK/said" || die "failed: Linux $name"
done
