"""Running contenders in turn and measuring them.

A Table holds contenders that do the same work. They run in turn, A B C A B C ..., so that a change of the machine's mood
meets all of them; every number is a median over the runs. Peak memory is that of the largest process of a pipe.
"""

import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional, Union


@dataclass
class Contender:
    """One way to do the work: `command` is an argument list, or a line for bash."""

    name: str
    command: Union[list, str]
    # A file or directory, measured and deleted after each run.
    output: Optional[Path] = None
    # Done before each run, not timed.
    before: Callable[[], None] = lambda: None
    # The work is done by these processes and their children, for the command only asks for it.
    servers: tuple = ()
    peer: bool = False


@dataclass
class Target:
    """`ours` needs at most `bound` times what `theirs` needs."""

    ours: str
    theirs: str
    bound: float
    measure: str = "wall"


@dataclass
class Table:
    group: str
    title: str
    contenders: list
    targets: list = field(default_factory=list)
    # What is written in place of rows, by a table that measures for itself.
    text: str = ""
    # Rounds in each run, for work that is over so soon that anything else on the machine shows.
    rounds: int = 1


@dataclass
class Sample:
    wall: float
    cpu: float
    rss: int
    size: int


@dataclass
class Result:
    contender: Contender
    samples: list

    def median(self, measure):
        return statistics.median(getattr(sample, measure) for sample in self.samples)


class ServerWatch(threading.Thread):
    """CPU time and peak memory of running processes and all their children, for those that are not ours to wait for."""

    def __init__(self, pids):
        super().__init__(daemon=True)
        self.pids, self.peak, self.done = pids, 0, threading.Event()
        self.cpu_before = self.cpu()

    def cpu(self):
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15] for pid in self.pids]
        return sum(int(field) for each in fields for field in each) / os.sysconf("SC_CLK_TCK")

    def memory(self, pid):
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            children = Path(f"/proc/{pid}/task").glob("*/children")
            below = [self.memory(child) for file in children for child in file.read_text().split()]
        except OSError:
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE") + sum(below)

    def run(self):
        while not self.done.wait(0.02):
            self.peak = max(self.peak, sum(map(self.memory, self.pids)))

    def finish(self):
        self.done.set()
        self.join()
        return self.cpu() - self.cpu_before, self.peak


def remove(path):
    if path and path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path:
        path.unlink(missing_ok=True)


def size_of(path):
    if path is None or not path.exists():
        return 0
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def run_once(contender, log):
    remove(contender.output)
    contender.before()
    command = contender.command
    argv = ["bash", "-c", "set -euo pipefail; " + command] if isinstance(command, str) else list(map(str, command))
    watch = ServerWatch(contender.servers) if contender.servers else None
    if watch:
        watch.start()
    with open(log, "wb") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu, rss = watch.finish() if watch else (usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
    if process.returncode != 0:
        sys.exit(f"{contender.name}: exit status {process.returncode}: {command}\n{Path(log).read_text(errors='replace')}")
    size = size_of(contender.output)
    remove(contender.output)
    return Sample(wall, cpu, rss, size)


def run_table(table, runs, work):
    samples = {contender.name: [] for contender in table.contenders}
    for number in range(runs * table.rounds):
        print(f"-- {table.group}: {table.title}: run {number + 1} of {runs * table.rounds}", file=sys.stderr)
        for contender in table.contenders:
            samples[contender.name].append(run_once(contender, work / "stderr"))
    return [Result(contender, samples[contender.name]) for contender in table.contenders]
