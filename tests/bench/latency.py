"""Latencies of the calls of snapshotters that are served over a socket, with few snapshots and with many."""

import ctypes
import json
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from measure import Table

COUNTS = (10, 10_000)
ROUNDS = {10: 5, 10_000: 1}
# Bytes of the filesystem that they are on, which is sparse.
FILESYSTEM = 4 << 30
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
    with filesystem(disk) as directory:
        # On one filesystem with the snapshots, for layers are links to it.
        image = Path(shutil.copy(layer, directory))
        command, socket = start(directory)
        with served(command, socket):
            client = ["snapshotter-latency", "--address", socket, "--layer", image, "--snapshots", str(count)]
            out = subprocess.run(list(map(str, client)), check=True, stdout=subprocess.PIPE, text=True).stdout
        # What it has mounted goes with the namespace of the measurements; here it is only in the way.
        with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
            points = [line.split()[4] for line in mounts]
        for point in sorted((p for p in points if p.startswith(f"{directory}/")), reverse=True):
            # umount(8) reads the whole table for each of ten thousand.
            LIBC.umount2(point.encode(), MNT_DETACH)
    return json.loads(out)


@contextmanager
def filesystem(disk, name="latency"):
    """A new ext4: one in which much was deleted takes longer to make a file, and deleting takes longer than measuring."""
    image, directory = disk / f"{name}.ext4", disk / name
    with open(image, "wb") as file:
        file.truncate(FILESYSTEM)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-i", "4096", image], check=True)
    directory.mkdir()
    subprocess.run(["mount", "-o", "loop", image, directory], check=True)
    try:
        yield directory
    finally:
        LIBC.umount2(str(directory).encode(), MNT_DETACH)
        # A containerd with the directory above made mount points below it.
        shutil.rmtree(directory)
        image.unlink()


def median(rounds):
    """Of each quantile of each kind of call its median over the rounds."""
    return {
        kind: {quantile: statistics.median(one[kind][quantile] for one in rounds) for quantile in ("p50", "p99")}
        for kind in rounds[0]
    }


def table(disk, layer, servers):
    # In turn, so that a change of the machine's mood meets all of them. Those with many snapshots take minutes.
    runs = {(name, count): [] for name in servers for count in COUNTS}
    for count in COUNTS:
        for _ in range(ROUNDS[count]):
            for name, start in servers.items():
                runs[name, count].append(measure(name, start, disk, layer, count))
    found = {key: median(rounds) for key, rounds in runs.items()}
    names = list(servers)
    few, many = COUNTS
    lines = [
        f"**p50 / p99 in ms, 500 calls of each kind; with {few} snapshots the median of {ROUNDS[few]} rounds**",
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
