#!/usr/bin/env python3
"""Checks that every link in the documentation leads to a file and a heading that are there.

Usage: links.py    (`make check` runs it)
"""

import pathlib
import re
import sys
import unicodedata

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("conf/**/*.md")])

# [text](target), and ![text](target); not in code.
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
REFERENCE = re.compile(r"^\[[^\]]+\]:\s+(\S+)", re.MULTILINE)


def without_code(text):
    text = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(text):
    """The names that GitHub gives headings: lower case, blanks as dashes, a number behind those that repeat."""
    found, seen = set(), {}
    for line in re.sub(r"^( *)```.*?^\1```", "", text, flags=re.MULTILINE | re.DOTALL).splitlines():
        heading = re.match(r"#{1,6}\s+(.*?)\s*#*$", line)
        if not heading:
            continue
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.group(1)).replace("`", "").lower()
        kept = "".join(c for c in plain if c in " -_" or unicodedata.category(c)[0] in "LN")
        name = kept.replace(" ", "-")
        number = seen.get(name, -1) + 1
        seen[name] = number
        found.add(f"{name}-{number}" if number else name)
    found.update(re.findall(r'<a (?:id|name)="([^"]+)"', text))
    return found


def faults(page):
    text = page.read_text()
    plain = without_code(text)
    for target in LINK.findall(plain) + REFERENCE.findall(plain):
        if re.match(r"[a-z][a-z+.-]*:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            yield f"{target}: there is no {path}"
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text()):
            yield f"{target}: {file.relative_to(ROOT)} has no such heading"


def main():
    found = [f"{page.relative_to(ROOT)}: {fault}" for page in PAGES for fault in faults(page)]
    print(*found, sep="\n", end="\n" if found else "")
    print(f"{len(PAGES)} pages, {len(found)} links that lead nowhere")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
