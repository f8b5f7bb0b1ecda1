"""Reads `cargo metadata` and prints the licence of every crate that is linked into the program, with its licence files."""

import json
import pathlib
import sys

NAMES = ("license", "licence", "copying", "notice", "copyright", "unlicense")


def linked(metadata):
    """The identifiers of the packages that the root package depends on at run time, in any depth."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    found, left = set(), [metadata["resolve"]["root"]]
    while left:
        package = left.pop()
        if package in found:
            continue
        found.add(package)
        for dependency in nodes[package]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                left.append(dependency["pkg"])
    return found


def files(package):
    directory = pathlib.Path(package["manifest_path"]).parent
    return sorted(path for path in directory.iterdir() if path.is_file() and path.name.lower().startswith(NAMES))


def main():
    metadata = json.load(sys.stdin)
    wanted = linked(metadata)
    texts = {}
    for package in sorted(metadata["packages"], key=lambda package: (package["name"], package["version"])):
        if package["id"] not in wanted or package["source"] is None:
            continue
        name = f"{package['name']} {package['version']} ({package['license']})"
        for path in files(package) or [None]:
            text = path.read_text(encoding="utf-8", errors="replace").strip() if path else "(no file of its own)"
            texts.setdefault(text, []).append(name)
    for text, names in texts.items():
        print("=" * 78, *dict.fromkeys(names), "-" * 78, text, "", sep="\n")


if __name__ == "__main__":
    main()
