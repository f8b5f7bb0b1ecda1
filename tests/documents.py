"""Runs the commands of README.md and docs/*.md as they are printed, on a node with a real containerd, and follows their links.

    tests/documents.py PROGRAM          PROGRAM is the erolith to run
    tests/documents.py --list           prints the commands and what is done with each

A command is a line of an indented block that begins with a program's name, with the lines that continue it. They run in the
order of the documents, in one directory that is a checkout with an OCI layout `python` and its archive, on a node that has
the image already. systemd's part is played here: `systemctl` starts and stops the node's containerd and daemon.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

REPO = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("EROLITH_CACHE", "/var/cache/erolith"))
NAME = "docker.io/library/python:3-slim"
# Seconds that a command may take on a machine that does much else.
PATIENCE = 600

# First words of commands; other indented blocks are settings, output or pictures.
PROGRAMS = """cargo chroot crictl ctr dist/package.sh docker dpkg erolith findmnt git grep install kubectl mkdir modprobe nerdctl
openssl sed skopeo systemctl testdata/demo.sh tests/run.sh tune2fs""".split()

# Commands that do not run here, and why. Keep it short: each is a command that may be wrong unnoticed.
NOT_HERE = [
    (r"testdata/demo\.sh", "tests/bare.sh demo runs it"),
    (r"tests/run\.sh", "it runs this"),
    (r"cargo ", "compiles for minutes: the check `plain` of tests/run.sh compiles the same"),
    (r"dist/package\.sh|dpkg ", "dist/package.sh check runs both"),
    (r"ctr images pull", "a public registry; the image is imported instead"),
    (r"skopeo copy .*docker://", "a public registry; the layout is there instead"),
    (r"git clone ", "a public server; the checkout is there instead"),
    (r"docker ", "tests/plugin_docker.rs runs an engine"),
    (r"nerdctl |crictl |kubectl ", "no such client in Debian, or a cluster"),
    (r"modprobe ", "modules are the host's"),
    (r"tune2fs ", "needs a disk of its own"),
    (r"erolith cache fill ", "fills a directory of the host: tests/cli.rs fills another"),
    (r".*smime|.*--sign-root-hash", "needs a key: tests/dmverity.rs signs"),
]

# What a command finds that its document takes for granted.
GIVEN = [
    (r"erolith commit .* web ", f"ctr container info web || ctr run --detach --snapshotter erolith {NAME} web sleep infinity"),
    (r"erolith convert .*oci-archive:image.tar", f"test -e image.tar || ctr images export image.tar {NAME}"),
    (r"erolith repair --dry-run", "rm /var/lib/containerd/io.containerd.snapshotter.v1.erolith/metadata.db*"),
]


def blocks(text):
    """The indented blocks of a document: number of the first line, and lines without the indent."""
    block, start, blank = [], 0, True
    for number, line in enumerate(text.splitlines() + ["end"], 1):
        if line.startswith("    ") and (block or blank):
            start = start if block else number
            block.append(line[4:])
            continue
        blank = not line.strip()
        if block and blank:
            block.append("")
            continue
        if block:
            yield start, block
            block = []


def unfinished(command):
    """Whether the next line belongs to a command."""
    try:
        shlex.split(command.rstrip("\\"), comments=True)
    except ValueError:
        return True
    return command.rstrip().endswith(("\\", "||", "&&", "|"))


def commands(text):
    """The commands of a document, with the numbers of their first lines."""
    for start, block in blocks(text):
        words = next(line for line in block if line.strip()).split()
        if words[0] not in PROGRAMS:
            continue
        command, first = "", 0
        for number, line in enumerate(block, start):
            if not command:
                if not line.strip() or line.split()[0] not in PROGRAMS:
                    continue
                first = number
            command = f"{command}\n{line}" if command else line
            if not unfinished(command):
                yield first, command
                command = ""
        if command:
            yield first, command


def reason(command):
    """Why a command does not run here, or None."""
    return next((why for pattern, why in NOT_HERE if re.match(pattern, command)), None)


class Node:
    """A containerd and a daemon at their usual places, with everything in one directory."""

    def __init__(self, program, place):
        self.place, self.dir = place, place / "node"
        self.program, self.checkout = place / "erolith", place / "checkout"
        shutil.copy(program, self.program)

    def start(self):
        self.checkout.mkdir()
        shutil.copytree(REPO / "dist", self.checkout / "dist")
        self.make_inputs()
        subprocess.run(["tar", "-C", self.checkout / "python", "-cf", self.place / "image.tar", "."], check=True)
        self.script("start", check=True)
        self.run(f"""
            install -m 755 {self.program} /usr/local/bin/
            mkdir -p /var/lib/containerd /run/containerd /etc/containerd
            mount --bind {self.dir}/root /var/lib/containerd
            ln -s {self.dir}/sock /run/containerd/containerd.sock
            grep -v '^imports' {self.dir}/config.toml >/etc/containerd/config.toml
            ctr images import --no-unpack --base-name docker.io/library/python {self.place}/image.tar
            ctr images ls -q | grep -qx {NAME}""", check=True)
        self.start_daemon()

    def make_inputs(self):
        """What the commands are about: the layout `python` with the reference 3-slim, an upper directory, and what is below."""
        for layout, name in (("python", "3-slim"), ("images", "base")):
            shutil.copytree(CACHE / "real-image-small", self.checkout / layout)
            index = self.checkout / layout / "index.json"
            document = json.loads(index.read_text())
            for manifest in document["manifests"]:
                manifest["annotations"] = {"org.opencontainers.image.ref.name": name}
            index.write_text(json.dumps(document))
        upper = self.checkout / "DIR"
        upper.mkdir()
        (upper / "new").write_text("new")
        for path in (upper, upper / "new"):
            os.chown(path, 100000, 100000)
        for image in ("TOP", "BOTTOM"):
            subprocess.run([self.program, "mkfs", self.checkout / f"{image}.erofs", upper], check=True,
                           stdout=subprocess.DEVNULL)

    def script(self, command, *words, check=False):
        return subprocess.run(
            [REPO / "testdata/containerd.sh", command, self.dir, *words], stdin=subprocess.DEVNULL, check=check,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE,
        )

    def log(self):
        """The last lines that containerd wrote."""
        path = self.dir / "log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-20:]) if path.exists() else ""

    def run(self, command, check=False):
        """Runs a command of a shell; returns its status and what it printed."""
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        done = self.script("exec", "env", f"PATH={path}", "bash", "-ec", f"cd {self.checkout}\n{command}")
        if check and done.returncode:
            raise SystemExit(f"{command}\n{done.stdout}")
        return done.returncode, done.stdout

    def start_daemon(self):
        self.run("setsid --fork sh -c 'echo $$ >/run/erolith.pid; exec erolith serve' >/run/erolith.log 2>&1", check=True)
        self.run("timeout 120 sh -c 'until erolith snapshots ls >/run/ls 2>&1; do sleep 0.05; done' || { cat /run/ls /run/erolith.log; exit 1; }", check=True)

    def stop_daemon(self):
        stop = "pid=$(cat /run/erolith.pid); kill $pid && while [ -e /proc/$pid ]; do sleep 0.05; done"
        self.run(f"timeout 120 sh -c '{stop}'", check=True)

    def systemctl(self, words):
        """What systemd does for a command: a status and what is printed."""
        verb, units = words[0], " ".join(words[1:])
        if verb in ("stop", "restart") and "erolith" in units:
            self.stop_daemon()
        if verb in ("start", "restart") and "erolith" in units:
            self.start_daemon()
        if verb == "restart" and "containerd" in units:
            self.run(f"cp /etc/containerd/config.toml {self.dir}/config.toml", check=True)
            self.script("restart", check=True)
        return 0, ""


def documents():
    # Installed by the document about that, then used.
    first = REPO / "docs/install.md"
    # The examples of docs/cli.md are held to the parser by a test of their own, since their files do not exist.
    others = sorted(path for path in (REPO / "docs").glob("*.md") if path not in (first, REPO / "docs/cli.md"))
    for path in [first, REPO / "README.md", *others]:
        for number, command in commands(path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(REPO)}:{number}", command


def anchors(path):
    """The places in a document that links can name, as GitHub derives them from headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def broken_links():
    for path in sorted([*REPO.glob("*.md"), *REPO.glob("docs/*.md")]):
        for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)", path.read_text(encoding="utf-8")):
            to = path.parent / target if target else path
            if not to.exists():
                yield f"{path.relative_to(REPO)}: no file {target}"
            elif anchor and anchor not in anchors(to):
                yield f"{path.relative_to(REPO)}: no heading {anchor} in {to.relative_to(REPO)}"


def main(argument):
    if argument == "--list":
        for place, command in documents():
            print(f"{place}: {reason(command) or 'runs'}: {command}")
        return
    broken = list(broken_links())
    print(*broken, sep="\n", end="\n" if broken else "")
    failed, passed = len(broken), 0
    with tempfile.TemporaryDirectory(prefix="docs.", dir=CACHE) as temporary:
        node = Node(os.path.abspath(argument), pathlib.Path(temporary))
        place, command = "tests/documents.py", "start containerd and the daemon"
        try:
            node.start()
            for place, command in documents():
                if reason(command):
                    continue
                for given in (shell for pattern, shell in GIVEN if re.match(pattern, command)):
                    node.run(given, check=True)
                words = shlex.split(command, comments=True)
                status, said = node.systemctl(words[1:]) if words[0] == "systemctl" else node.run(command)
                passed, failed = passed + (status == 0), failed + (status != 0)
                if status:
                    print(f"{place}: status {status}: {command}\n{said}")
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            # Without containerd or the daemon, nothing behind it can be right.
            print(f"{place}: {command}\n{error}\n{error.stdout or ''}\n{node.log()}")
            failed += 1
        finally:
            node.script("stop")
    print(f"commands and links of documents: {passed} passed, {failed} failed")
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main(sys.argv[1])
