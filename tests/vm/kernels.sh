#!/usr/bin/env bash
# Asks every kernel on every filesystem: mounts an image in each way and compares that with what `erolith doctor` says, and
# runs the snapshotter's tests that need the kernel. A table comes last. About 5 min for each kernel.
#
#   tests/vm/kernels.sh                     every kernel
#   tests/vm/kernels.sh 6.1 newest          these
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

TESTS=(kernel:: layerdir:: lowers:: mounts:: sys:: service::tests::{arrays,chain,layers,limits,owners,recovery})

scenario() {
    cat <<'SCENARIO'
# mounted WAY OPTION: whether an image is mounted so, and what is mounted.
mounted() {
    if erolith mount $2 /var/tmp/image /mnt 2>/dev/null; then
        source=$(awk '$2 == "/mnt" { print $1 }' /proc/mounts)
        case $source in
            /dev/loop*) source=loop ;;
            *) source=file ;;
        esac
        [ "$(cat /mnt/etc/hello)" = "hello of $fs" ] || source=wrong
        erolith umount /mnt || stop "cannot unmount"
        echo "row $fs $1 $source"
    else
        echo "row $fs $1 no"
    fi
}
mkdir -p /mnt
for fs in ext4 xfs btrfs; do
    case $fs in
        ext4) disk=/dev/vda force=-F ;;
        xfs) disk=/dev/vdb force=-f ;;
        btrfs) disk=/dev/vdc force=-f ;;
    esac
    [ $fs != ext4 ] || force="-F -O verity"
    mkfs.$fs -q $force $disk || stop "no $fs"
    mount -t $fs $disk /var/tmp || stop "no $fs"
    echo "row $fs doctor $(erolith doctor --json /var/tmp)"
    mkdir -p /tmp/tree/etc
    echo "hello of $fs" >/tmp/tree/etc/hello
    erolith mkfs /var/tmp/image /tmp/tree >/dev/null || stop "no image"
    mounted auto ''
    mounted file --file-backed
    mounted loop --loop
    snapshotter-tests --test-threads=1 --nocapture $TESTS >/tmp/said 2>&1
    grep -v '^ok$' /tmp/said | grep -v ' ok$'
    echo "row $fs tests $(grep '^test result:' /tmp/said)"
    # Each says why.
    echo "row $fs skipped $(grep -c 'skipped: ' /tmp/said)"
    umount /var/tmp || stop "$fs is in use"
done
stop passed
SCENARIO
}

# The rows of all machines, each "KERNEL row FILESYSTEM WHAT VALUE"; the status is whether all is as it must be.
table() {
    python3 -c '
import json, re, sys

rows = {}
for line in sys.stdin:
    kernel, _, fs, what, value = line.rstrip().split(" ", 4)
    rows.setdefault((kernel, fs), {})[what] = value
kernels = sys.argv[1:]
table = [["kernel", "release", "filesystem", "mounted from", "file", "loop", "fs-verity", "reflink", "passed", "skipped", "failed", "verdict"]]
good = len(rows) == 3 * len(kernels)
for (kernel, fs), row in rows.items():
    doctor = json.loads(row.get("doctor", "{}"))
    state = {feature["feature"]: feature["state"] for feature in doctor.get("features", [])}
    said = re.search(r"(\d+) passed; (\d+) failed", row.get("tests", "")) or [0, "0", "?"]
    wanted = "loop" if kernel == "6.1" else "file"
    wrong = []
    if row.get("auto") != wanted:
        wrong.append(f"not mounted from {wanted}")
    for way, feature in (("file", "erofs-file-backed"), ("loop", "loop")):
        # doctor must say what is found by doing.
        works = "ok" if row.get(way) == way else "missing"
        if state.get(feature) != works:
            wrong.append(f"doctor: {feature} {state.get(feature)}")
    # What depends on the kernel is missing; what is denied to process 1 was not tried rightly.
    wrong += [f"doctor: {name} denied" for name in sorted(state) if state[name] == "denied"]
    for feature in ("erofs-block-4k", "overlay-upper"):
        if state.get(feature) != "ok":
            wrong.append(f"doctor: {feature} {state.get(feature)}")
    if not doctor.get("can_mount"):
        wrong.append("doctor: cannot mount")
    if said[2] != "0":
        wrong.append("tests failed")
    good &= not wrong
    skipped = row.get("skipped", "0")
    table.append([kernel, doctor.get("kernel", "?"), fs, row.get("auto", "?"), row.get("file", "?"), row.get("loop", "?"),
                  state.get("fs-verity", "?"), state.get("reflink", "?"), str(int(said[1]) - int(skipped)), skipped, said[2],
                  ", ".join(wrong) or "passed"])
widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
for row in table:
    print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
sys.exit(not good)' "$@"
}

need_root
vm_packages
[[ $# -gt 0 ]] || set -- "${VM_KERNELS[@]}"
cd "$EROLITH_REPO"
say "building"
# As power.sh does, so that nothing is compiled twice.
erolith=$(vm_build erolith build --workspace --features isal --bin erolith --example power)
tests=$(vm_build erolith_snapshotter test -p erolith-snapshotter --lib --no-run)
WORK=$(mktemp -d -p /var/tmp)
trap 'rm -rf "$WORK"' EXIT
failed=()
for name in "$@"; do
    kernel=$(vm_kernel "$name")
    vm_initramfs "$WORK/initramfs" "$kernel" "TESTS='${TESTS[*]}'
$(scenario)" "erolith=$erolith" "snapshotter-tests=$tests" /bin/true
    disks=()
    for disk in a b c; do
        rm -f "$WORK/$disk"
        truncate -s 1G "$WORK/$disk"
        mapfile -t -O "${#disks[@]}" disks < <(vm_disk "$WORK/$disk")
    done
    say "Linux $name"
    vm_run 1800 "$kernel" "$WORK/initramfs" "${disks[@]}" | tr -d '\r' | tee "$WORK/said" || true
    grep -q '^machine: passed' "$WORK/said" || failed+=("$name")
    sed -n "s/^row /$name &/p" "$WORK/said" >>"$WORK/rows"
done
table "$@" <"$WORK/rows" || failed+=(table)
[[ ${#failed[@]} -eq 0 ]] || die "failed: ${failed[*]}"
