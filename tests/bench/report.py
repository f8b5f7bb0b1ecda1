"""The measurements as Markdown."""

import datetime
import os
import resource
import statistics
import subprocess

import peers

MIB = 1 << 20
FLOOR = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def format_memory(rss):
    # A child's peak includes the moment before exec, when it was this program.
    return f"{rss / MIB:.0f}" if rss > 1.2 * FLOOR else f"< {1.2 * FLOOR / MIB:.0f}"


def table(measured, results):
    fastest = min((r.median("wall") for r in results if r.contender.peer), default=None)
    lines = [
        f"**{measured.title}**",
        "",
        "| | wall s, median (min to max) | CPU s | peak MiB | output MB | wall / fastest peer |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        walls = [sample.wall for sample in result.samples]
        size = f"{result.median('size') / 1e6:.1f}" if result.contender.output else ""
        ratio = f"{result.median('wall') / fastest:.2f}" if fastest else ""
        lines.append(
            f"| {result.contender.name} | {statistics.median(walls):.3f} ({min(walls):.3f} to {max(walls):.3f})"
            f" | {result.median('cpu'):.2f} | {format_memory(result.median('rss'))}"
            f" | {size} | {ratio} |"
        )
    by_name = {result.contender.name: result for result in results}
    lines.append("")
    for target in measured.targets:
        if target.ours not in by_name or target.theirs not in by_name:
            continue
        ratio = by_name[target.ours].median(target.measure) / by_name[target.theirs].median(target.measure)
        verdict = "met" if ratio <= target.bound else "**missed**"
        lines.append(
            f"- {verdict}: {target.measure} of *{target.ours}* is {ratio:.3f} of *{target.theirs}*, at most {target.bound} wanted"
        )
    return "\n".join(lines + [""])


def first_line(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()[0].strip()
    except (OSError, IndexError):
        return f"{command[0]}: missing"


def machine(runs):
    cpu = first_line("sh", "-c", "lscpu | sed -n 's/^Model name: *//p'")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        sha = "with SHA instructions" if "sha_ni" in info.read() else "without SHA instructions"
    commit = first_line("git", "-C", os.environ["EROLITH_REPO"], "log", "-1", "--format=%h of %cs")
    return "\n".join(
        [
            "# Measurements",
            "",
            "Written by `tests/bench/run.sh`; `tests/bench/bench.py` says how it measures.",
            "",
            f"- {datetime.date.today()}, erolith {commit}, {runs} runs of each, load average at the start {os.getloadavg()[0]:.1f}",
            f"- {os.cpu_count()} cores of {cpu} {sha}, {memory:.0f} GiB, Linux {os.uname().release}",
            f"- {first_line('mkfs.erofs', '--version')}, {first_line('igzip', '--version')},"
            f" {first_line('zstd', '--version').strip('* ')}, {peers.containerd_version()}",
            "",
        ]
    )
