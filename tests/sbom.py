"""Judges a bill of materials in CycloneDX's form: our crates must be in it, and every package of the lock file that they use."""

import json
import subprocess
import sys
from pathlib import Path


def used():
    """Names and versions of what the program is built from, as cargo tells them."""
    command = ["cargo", "tree", "--locked", "--package", "erolith", "--edges", "normal", "--prefix", "none", "--format", "{p}"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    words = [line.split() for line in lines if line]
    return {(word[0], word[1].removeprefix("v")) for word in words}


def main():
    bill = json.loads(Path(sys.argv[1]).read_text())
    if bill.get("bomFormat") != "CycloneDX":
        sys.exit("no bill of materials in CycloneDX's form")
    there = {(component["name"], component.get("version", "")) for component in bill["components"]}
    top = bill.get("metadata", {}).get("component")
    if top:
        there.add((top["name"], top.get("version", "")))
    names = {name for name, _ in there}
    ours = {"erolith", "erolith-errors", "erolith-durable", "erolith-verity", "erolith-mkfs", "erolith-overlay", "erolith-differ", "erolith-snapshotter"}
    missing = sorted(ours - names) + sorted(" ".join(each) for each in used() - there if each[0] not in ours)
    if missing:
        sys.exit(f"not in the bill of materials: {', '.join(missing)}")
    print(f"{len(there)} components")


if __name__ == "__main__":
    main()
