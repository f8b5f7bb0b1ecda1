"""Prints which programs shell scripts call: lines "SCRIPT<tab>PROGRAM".

    tests/programs.py SCRIPT...

shfmt parses the scripts. A command counts if it is a literal word and neither a builtin nor a function of any of the
scripts. Behind commands that run others (`timeout 10 CMD`), and in scripts for `sh -c`, those are found too. Not listed is
what runs in another root (`chroot`, `in_root`): a matter of that root's packages.
"""

import json
import subprocess
import sys

# Commands that run the command behind their options: how many operands come first.
RUNS_ANOTHER = {
    "cached": 2, "check": 1, "command": 0, "env": 0, "exec": 0, "locked": 1, "nohup": 0, "retry": 0, "show": 0,
    "timeout": 1, "unshare": 0, "xargs": 0,
}
# Their options that have a value as a word of its own.
HAVE_VALUES = {"--propagation", "-s", "-n", "-C", "-I"}
SHELLS = {"bash", "sh"}
# Built by the scripts and by cargo.
# `on-node` is written by the demo itself.
OUR_OWN = {"erolith", "on-node", "snapshotter-suite"}


def parse(text):
    out = subprocess.run(["shfmt", "-tojson", "-ln", "bash"], input=text, capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def nodes(tree):
    """Every object of a syntax tree."""
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from nodes(part)


def literal(word, variables):
    """The text of a word, or None where it is not known before it runs."""
    text = ""
    for part in word.get("Parts") or []:
        kind = part["Type"]
        if kind in ("Lit", "SglQuoted"):
            text += part.get("Value", "")
        elif kind == "DblQuoted":
            inner = literal(part, variables)
            if inner is None:
                return None
            text += inner
        elif kind == "ParamExp" and part["Param"]["Value"] in variables:
            text += variables[part["Param"]["Value"]]
        else:
            return None
    return text


def scripts_in(tree):
    """Variables that are assigned one quoted text: some are scripts for another shell."""
    for node in nodes(tree):
        if "Name" in node and isinstance(node.get("Value"), dict) and "Parts" in node["Value"]:
            text = literal(node["Value"], {})
            if text and "\n" in text:
                yield node["Name"]["Value"], text


def called(words, functions):
    """The programs that one command calls; `words` are texts or None."""
    while words:
        name, words = words[0], words[1:]
        if name is None:
            return
        yield name
        if name in SHELLS:
            if len(words) > 1 and words[0] and words[0].startswith("-") and "c" in words[0] and words[1]:
                yield from programs(words[1], functions)
            return
        if name not in RUNS_ANOTHER:
            return
        operands = RUNS_ANOTHER[name]
        while words and (operands or words[0] is None or words[0].startswith("-") or "=" in words[0]):
            word = words[0]
            if word is None and not operands:
                return
            if word in HAVE_VALUES:
                words = words[2:]
                continue
            if word is None or not (word.startswith("-") or "=" in word):
                operands -= 1
            words = words[1:]


def programs(text, functions):
    tree = parse(text)
    variables = dict(scripts_in(tree))
    own = functions | declared(tree)
    for node in nodes(tree):
        if node.get("Type") == "CallExpr" and node.get("Args"):
            words = [literal(word, variables) for word in node["Args"]]
            yield from (name for name in called(words, own) if name not in own)


def declared(tree):
    return {node["Name"]["Value"] for node in nodes(tree) if node.get("Type") == "FuncDecl"}


def main():
    texts = {path: open(path, encoding="utf-8").read() for path in sys.argv[1:]}
    functions = set().union(*(declared(parse(text)) for text in texts.values()))
    builtins = subprocess.run(["bash", "-c", "compgen -bk"], capture_output=True, text=True, check=True)
    known = set(builtins.stdout.split()) | OUR_OWN
    for path, text in texts.items():
        found = {name for name in programs(text, functions) if name not in known and "/" not in name}
        for name in sorted(found):
            print(f"{path}\t{name}")


if __name__ == "__main__":
    main()
