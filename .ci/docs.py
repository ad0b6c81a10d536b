#!/usr/bin/env python3
"""Keeps the pages true where a program can tell.

    docs.py write    writes the tables of settings into README.md, from what the services print themselves
    docs.py check    fails if those tables are not current, or if a page names a file or a heading that is not there

The services are taken from target/debug (ATLAS_BIN_DIR moves the folder).
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BINARIES = Path(os.environ.get("ATLAS_BIN_DIR") or Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "debug")
README = ROOT / "README.md"
BEGIN, END = "<!-- settings: `make settings-table` writes what follows -->\n", "<!-- settings: end -->\n"


def settings(service):
    """(group, name, default, text, secret) of each setting, as `config example` prints it."""
    command = [BINARIES / service, "config", "example"]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={}).stdout
    group, about, rows = "", "", []
    for line in text.splitlines():
        if match := re.fullmatch(r"# --- (.+) ---", line):
            group = match[1]
        elif match := re.fullmatch(r"#([A-Z0-9_]+)=(.*)", line):
            # The help is the first sentence, "Expected: …." the second; a note on secrets follows.
            help_text, _, expected = about.partition(" Expected: ")
            secret = " Secret: " in expected
            expected = expected.partition(" Secret: ")[0].rstrip(".")
            rows.append((group, match[1], match[2], help_text, expected, secret))
        elif line.startswith("# "):
            about = line[2:]
    return rows


def escaped(cell):
    """Safe within a table; a name in angle brackets must not become a tag."""
    return cell.replace("|", "\\|").replace("<", "&lt;")


def table(rows):
    lines = ["| name | default | expected | what it does |", "|---|---|---|---|"]
    for _, name, default, help_text, expected, secret in rows:
        cells = [f"`{name}`", f"`{default}`" if default else "", expected, help_text + (" Secret." if secret else "")]
        lines.append("| " + " | ".join(map(escaped, cells)) + " |")
    return "\n".join(lines) + "\n"


def tables():
    source, sink = settings("source-service"), settings("sink-service")
    # A setting of both is listed once, if it is the same in both.
    both = [row for row in source if row in sink]
    parts = [("Both services", both)]
    parts += [(name, [row for row in rows if row not in both]) for name, rows in
              (("source-service", source), ("sink-service", sink))]
    return "\n".join(f"**{name}**\n\n{table(rows)}" for name, rows in parts)


def with_tables(page):
    before, found, rest = page.partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not found or not found_end:
        sys.exit(f"docs: README.md has lost its marks {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def slug(heading):
    """A heading's anchor, as GitHub makes it."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def anchors(page):
    return {slug(match[1]) for match in re.finditer(r"^#{1,6} (.+)$", page.read_text(), re.MULTILINE)}


def broken(page):
    """What a page points to and that is not there."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            yield target
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            yield target
    # What an author meant to fill in.
    yield from re.findall(r"^\s*(@@\w+@@)$", text, re.MULTILINE)
    # Sources by their path from the root, in backticks; a test's module in the table of failures.
    for path in re.findall(r"`((?:shared|source-service|sink-service|tests|grafana|kafka|docs|deploy|\.ci)/[\w./-]+\.\w+)`", text):
        if not (ROOT / path).exists():
            yield path
    for module in re.findall(r"^\|.*\| `([a-z_]+)` \|$", text, re.MULTILINE) if page.name == "architecture.md" else []:
        if not (ROOT / f"tests/tests/it/{module}.rs").exists():
            yield f"test {module}"


def main():
    if sys.argv[1:] == ["write"]:
        README.write_text(with_tables(README.read_text()))
        return
    if sys.argv[1:] != ["check"]:
        sys.exit("usage: docs.py write|check")
    faults = []
    page = README.read_text()
    if with_tables(page) != page:
        faults.append("README.md: the settings have changed; type: make settings-table")
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "kafka/README.md", ROOT / "grafana/README.md", ROOT / "deploy/mongodb/README.md"]
    for page in sorted(pages):
        faults += [f"{page.relative_to(ROOT)}: {target} is not there" for target in broken(page)]
    if faults:
        sys.exit("\n".join(f"docs: {fault}" for fault in faults))
    print(f"docs: {len(pages)} pages point to what is there")


if __name__ == "__main__":
    main()
