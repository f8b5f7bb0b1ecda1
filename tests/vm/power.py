"""Lives of a machine, each ended by a power cut at a random moment; started by power.sh, which says what the machine is.

Each life checks what the last one left and then works. What the machine said on its console is what was acknowledged; the
next life gets it on a second disk.
"""

import argparse
import os
import random
import selectors
import shutil
import subprocess
import sys
import time

from disk import Disk, Server

MARK = "@ "
# A life that says nothing for so long hangs.
PATIENCE = 180
# Lives that the disk does not end are ended by the clock.
LONGEST_WORK = 30
# Kernels under TCG die now and then in their first second, of code that they patch while another processor runs it.
STARTS = 3
# Writes and flushes until the cut: of a start with its check, and of the work after that.
EARLY, LATE = 200, 500
# Of what can be found, as the machine calls it: what was acknowledged is no longer there or not right.
LOSSES = {"gone", "missing", "empty", "damaged", "unmountable", "content"}


class Failed(Exception):
    """The machine, the disk or we are at fault."""


class Lost(Failed):
    """The check found that something is not as it must be."""


class Stillborn(Failed):
    """The machine ended before it said or wrote anything: it can be started again."""


class Transcript:
    """What the machines said."""

    def __init__(self):
        self.lines = []
        self.known = None

    def hear(self, line):
        """A line, without its mark. `known` lines replace everything once they are complete."""
        if line == "known begin":
            self.known = []
        elif line == "known end":
            self.lines, self.known = self.known, None
        elif self.known is not None:
            self.known.append(line)
        elif line[:2] in ("+ ", ". ", "x "):
            self.lines.append(line)

    def end_of_life(self):
        self.known = None

    def write(self, path):
        data = "".join(line + "\n" for line in self.lines).encode()
        with open(path, "wb") as file:
            # A whole number of sectors, and an end that can be seen.
            file.write(data + bytes(4096 - len(data) % 4096))


class Life:
    """One machine from its start to its end."""

    def __init__(self, options, disk, transcript, boot, rng, last):
        self.transcript, self.boot, self.rng, self.last = transcript, boot, rng, last
        self.said, self.acknowledged, self.ready, self.passed = [], 0, None, False
        # What was found wrong with a server that goes on, and whether the check came to its end.
        self.findings, self.checked = [], False
        socket = os.path.join(options.dir, "disk.sock")
        if os.path.exists(socket):
            os.unlink(socket)
        heard = os.path.join(options.dir, "transcript")
        transcript.write(heard)
        self.machine = None
        self.server = Server(disk, socket, self.cut)
        early = not last and boot > 1 and rng.random() < 0.25
        if early:
            self.server.cut_after(rng.randint(1, EARLY), rng.random() < 0.5)
        words = [f"POWER_FS={options.fs}", f"POWER_BOOT={boot}", f"POWER_SEED={options.seed}",
                 f"POWER_SERVER={options.server}", f"POWER_SYNC={options.sync}",
                 f"POWER_LAST={'true' if last else 'false'}"]
        command = options.machine + ["-append", " ".join([options.append] + words)]
        command += ["-drive", f"file=nbd:unix:{socket},format=raw,if=virtio,cache=writeback",
                    "-drive", f"file={heard},format=raw,if=virtio,readonly=on"]
        self.machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    def cut(self):
        self.machine.kill()

    def live(self):
        """Until it ends."""
        pending = b""
        selector = selectors.DefaultSelector()
        selector.register(self.machine.stdout, selectors.EVENT_READ)
        heard = time.monotonic()
        while True:
            now = time.monotonic()
            if self.ready and now - self.ready > LONGEST_WORK:
                self.cut()
            if now - heard > PATIENCE:
                self.cut()
                raise Failed("the machine hangs")
            if not selector.select(1):
                continue
            data = os.read(self.machine.stdout.fileno(), 65536)
            if not data:
                break
            heard = time.monotonic()
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                self.line(line.decode(errors="replace").rstrip("\r"))
        self.machine.wait()
        self.server.thread.join(20)
        if self.server.failure:
            raise Failed(f"the disk: {self.server.failure!r}")
        self.transcript.end_of_life()
        if not self.checked:
            # The next life finds it once more.
            self.findings.clear()
        self.judge()

    def line(self, line):
        self.said.append(line)
        if not line.startswith(MARK):
            return
        line = line[len(MARK):]
        self.transcript.hear(line)
        self.acknowledged += line.startswith(". ")
        self.passed |= line == "passed"
        self.checked |= line == "known end"
        if line.startswith("FOUND "):
            self.findings.append(line.split()[1])
        if line == "ready":
            self.ready = time.monotonic()
            if self.server.limit is None:
                self.server.cut_after(self.rng.randint(1, LATE), self.rng.random() < 0.5)

    def judge(self):
        wrong = [line for line in self.said if line.startswith(MARK + "FAIL ")]
        if wrong:
            raise Lost(wrong[0])
        # It may have flushed: qemu does when it ends by itself.
        idle = not self.server.disk.writes and not any(l.startswith(MARK) for l in self.said)
        if self.machine.returncode != -9 and idle:
            raise Stillborn("the machine ended before it did anything")
        # Killed, or at its end when it is to reach that.
        if self.passed != self.last or (not self.last and self.machine.returncode != -9):
            raise Failed(f"the machine ended by itself, status {self.machine.returncode}")


def arguments():
    parser = argparse.ArgumentParser()
    for name in ("dir", "disk", "fs", "server", "sync", "append"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("machine", nargs="+")
    return parser.parse_args()


def keep(options, life, boot):
    """What is needed to see what went wrong: the disk as the failed life found it, and what it was told and said."""
    place = f"{options.dir}-failed"
    shutil.rmtree(place, ignore_errors=True)
    os.mkdir(place)
    for name in ("before", "transcript"):
        subprocess.run(["cp", "--sparse=always", os.path.join(options.dir, name), place], check=True)
    with open(os.path.join(place, "said"), "w", encoding="utf-8") as file:
        file.write("\n".join(life.said) + "\n")
    print(f"kept in {place}; the last lines of life {boot}:", flush=True)
    print("\n".join(life.said[-25:]), flush=True)


def live(options, disk, transcript, boot):
    """A life that has ended, the chance that decided about it, and why it failed, if it did."""
    last = boot > options.rounds
    for start in range(STARTS):
        rng = random.Random(f"{options.seed}-{boot}")
        life, failure = Life(options, disk, transcript, boot, rng, last), None
        try:
            life.live()
        except Stillborn as stillborn:
            failure = stillborn
            print(f"life {boot}: {failure}; start {start + 1} of {STARTS}", flush=True)
            continue
        except Failed as failed:
            failure = failed
        break
    return life, rng, failure


def summary(findings):
    """What was found after the cuts: how often each thing, and in how many checks."""
    print(f"{len(findings)} checks after a cut came to their end: {sum(map(bool, findings))} found something, "
          f"{sum(bool(LOSSES & set(life)) for life in findings)} a loss")
    for kind in sorted({kind for life in findings for kind in life}):
        print(f"  {kind}: {sum(life.count(kind) for life in findings)}, in {sum(kind in life for life in findings)} checks")


def main():
    options = arguments()
    start = time.monotonic()
    transcript, totals, findings = Transcript(), [0, 0, 0, 0], []
    before = os.path.join(options.dir, "before")
    for boot in range(1, options.rounds + 2):
        # The disk as this life finds it: sparse, and shared with the medium where the filesystem can.
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", options.disk, before], check=True)
        disk = Disk(options.disk)
        began = time.monotonic()
        life, rng, failure = live(options, disk, transcript, boot)
        if failure:
            print(f"life {boot}: {failure}", flush=True)
            keep(options, life, boot)
            print(f"failed after {boot - 1} cuts: seed {options.seed}, {options.fs}", flush=True)
            return 1 if isinstance(failure, Lost) else 2
        lost, survived = (0, 0) if life.last else disk.cut(rng)
        when = "at its end" if life.last else "at work" if life.ready else "while it started"
        print(f"life {boot}: {time.monotonic() - began:.1f} s, {life.acknowledged} acknowledged, cut {when}: {disk.writes} "
              f"writes and {disk.flushes} flushes, {lost} blocks unflushed, {survived} of them survive", flush=True)
        if life.checked and boot > 1:
            findings.append(life.findings)
        for line in life.said:
            if line.startswith(MARK + "FOUND "):
                print(f"  {line[len(MARK):]}{'' if life.checked else '; the check was cut'}", flush=True)
        cut = not life.last
        totals = [a + b for a, b in zip(totals, (life.acknowledged, cut, cut and not life.ready, lost - survived))]
    how = "passed" if options.server == "erolith" else options.server
    print(f"{how}: {totals[1]} cuts, {totals[2]} of them before the last one was dealt with; {totals[0]} calls "
          f"acknowledged, {totals[3]} blocks lost, in {time.monotonic() - start:.0f} s: seed {options.seed}, {options.fs}")
    if options.server != "erolith":
        summary(findings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
