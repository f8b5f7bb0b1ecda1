"""Latencies of the calls of snapshotters that are served over a socket, with few snapshots and with many."""

import ctypes
import json
import subprocess
import sys
import time
from contextlib import contextmanager

from measure import Table, remove

COUNTS = (10, 10_000)
# A call of ours takes at most this part of the peer's, and with many snapshots at most so many times what it takes with few.
BOUND, FLAT = 0.8, 1.5
# Commit after Apply, at p99, in seconds.
COMMIT = 0.05

LIBC = ctypes.CDLL(None, use_errno=True)
MNT_DETACH = 2

CONFIG = """
root = "{directory}/root"
state = "{directory}/state"
address = "{directory}/s/sock"
[containerd]
address = "{directory}/none"
root = ""
"""


def erolith(directory):
    config = directory / "erolith.toml"
    config.write_text(CONFIG.format(directory=directory))
    return ["erolith", "serve", "--config", config], directory / "s/sock"


def reference(directory):
    return ["erofs-reference", "--root", directory / "root", "--address", directory / "sock"], directory / "sock"


@contextmanager
def served(command, socket):
    directory = socket.parent
    directory.mkdir(parents=True, exist_ok=True)
    server = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not socket.exists():
            if server.poll() is not None:
                sys.exit(f"{command}: exit status {server.returncode}")
            time.sleep(0.01)
        yield
    finally:
        server.terminate()
        server.wait()


def measure(name, start, disk, layer, count):
    print(f"-- latency: {name}, {count} snapshots", file=sys.stderr)
    directory = disk / "latency"
    directory.mkdir()
    command, socket = start(directory)
    with served(command, socket):
        client = ["snapshotter-latency", "--address", socket, "--layer", layer, "--snapshots", str(count)]
        out = subprocess.run(list(map(str, client)), check=True, stdout=subprocess.PIPE, text=True).stdout
    # What it has mounted goes with the namespace of the measurements; here it is only in the way.
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        points = [line.split()[4] for line in table]
    for point in sorted((p for p in points if p.startswith(f"{directory}/")), reverse=True):
        # umount(8) reads the whole table for each of ten thousand.
        LIBC.umount2(point.encode(), MNT_DETACH)
    remove(directory)
    return json.loads(out)


def table(disk, layer, servers):
    found = {
        (name, count): measure(name, start, disk, layer, count) for name, start in servers.items() for count in COUNTS
    }
    names = list(servers)
    few, many = COUNTS
    lines = [
        "**p50 / p99 in ms, 500 calls of each kind**",
        "",
        "| | snapshots | " + " | ".join(found[names[0], few]) + " |",
        "|---|---|" + "---|" * len(found[names[0], few]),
    ]
    for (name, count), calls in found.items():
        cells = [f"{call['p50'] * 1e3:.2f} / {call['p99'] * 1e3:.2f}" for call in calls.values()]
        lines.append(f"| {name} | {count} | " + " | ".join(cells) + " |")
    lines.append("")
    ours, theirs = names[0], names[-1]
    for kind in ("Prepare", "Mounts", "Stat", "Remove"):
        for count in COUNTS:
            for quantile in ("p50", "p99"):
                ratio = found[ours, count][kind][quantile] / found[theirs, count][kind][quantile]
                lines.append(verdict(ratio, BOUND, f"{quantile} of *{kind}* with {count} snapshots is {ratio:.2f} of the peer's"))
        ratio = found[ours, many][kind]["p50"] / found[ours, few][kind]["p50"]
        lines.append(verdict(ratio, FLAT, f"p50 of *{kind}* with {many} snapshots is {ratio:.2f} of that with {few}"))
    worst = max(found[ours, count]["Commit"]["p99"] for count in COUNTS)
    lines.append(verdict(worst, COMMIT, f"p99 of *Commit* after Apply is {worst:.4f} s"))
    return Table("Latency of calls (disk)", "", [], text="\n".join(lines + [""]))


def verdict(value, bound, text):
    return f"- {'met' if value <= bound else '**missed**'}: {text}, at most {bound} wanted"
