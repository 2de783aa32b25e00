#!/usr/bin/env python3
"""Makes docs/conformance.md: each line of the wire contract's checklist with the tests that hold it, or why it does not apply.

Reads contract/checklist.txt and the sources of the contract suite; builds and runs nothing. A test's name begins with
its lines (`f03_f04_...`), so a line has a test exactly where the suite has a function of that name that runs by default.
Every disagreement is an error: a line with neither test nor reason, one with both, a test of a line that is not listed, a
reason that nobody gives or that is not explained. `./test` calls it with --check, which writes nothing and fails where the
table is not the one that would be written.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parent
CHECKLIST = TESTS / "contract" / "checklist.txt"
SUITE = TESTS / "contract" / "main.rs"
TABLE = TESTS.parent.parent / "docs" / "conformance.md"

LINE = re.compile(r"(?P<number>[A-L][1-9][0-9]*)\s+(?:\[(?P<reason>[a-z]+)\]\s+)?(?P<text>\S.*)")
# What stands between a test's attribute and its function: more attributes, comments.
TEST = re.compile(
    r"^#\[(?:tokio::)?test(?:\([^\n]*\))?\]\n(?P<between>(?:(?:#\[|//)[^\n]*\n)*)(?:pub(?:\([a-z]+\))? )?(?:async )?fn (?P<name>\w+)",
    re.MULTILINE,
)
MODULE = re.compile(r"^(?:pub(?:\([a-z]+\))? )?mod (\w+);", re.MULTILINE)

HEAD = """\
# Conformance

What the wire contract asks of a server, line by line, and the tests that hold it. A test's name begins with its lines, and the suite
drives the real binary through clients generated from other declarations than ours: `server/tests/contract`.

This table is generated from the checklist and from the names of the tests (`server/tests/conformance.py`), not from a run. `./test`
fails where the table is not up to date, where a line has neither test nor reason, and where any of these tests fails; so "tested by"
is "pass" of every commit on which `./test` passes.
"""


class Line(NamedTuple):
    """One line of the checklist; `reason` is the word for why it does not apply, or None."""

    number: str
    reason: str | None
    text: str


class Checklist(NamedTuple):
    reasons: dict[str, str]
    sections: list[tuple[str, list[Line]]]


def read_checklist(text: str, problems: list[str]) -> Checklist:
    """Parses the file whose format its own head describes."""
    reasons: dict[str, str] = {}
    sections: list[tuple[str, list[Line]]] = []
    in_reasons = False
    for row, raw in enumerate(text.splitlines(), 1):
        if not raw.strip() or raw.startswith("#"):
            continue
        if raw.startswith("= "):
            title = raw.removeprefix("= ").strip()
            in_reasons = title == "reasons"
            if not in_reasons:
                sections.append((title, []))
        elif in_reasons:
            word, _, meaning = raw.partition(": ")
            reasons[word] = meaning.strip()
        elif not (parts := LINE.fullmatch(raw.rstrip())) or not sections:
            problems.append(f"{CHECKLIST.name}:{row}: not a line of a checklist: {raw}")
        else:
            line = Line(parts["number"], parts["reason"], parts["text"])
            title, lines = sections[-1]
            expected = f"{title[0]}{len(lines) + 1}"
            if line.number != expected:
                problems.append(f"{CHECKLIST.name}:{row}: {line.number} stands where {expected} belongs")
            lines.append(line)
    return Checklist(reasons, sections)


def sources(root: Path) -> list[Path]:
    """The suite's files that are compiled: the modules declared by `root`, and by those."""
    found = [root]
    folder = root.parent if root.name in ("main.rs", "mod.rs") else root.with_suffix("")
    for name in MODULE.findall(root.read_text(encoding="utf-8")):
        for candidate in (folder / f"{name}.rs", folder / name / "mod.rs"):
            if candidate.exists():
                found += sources(candidate)
    return found


def tests_by_line(files: list[Path], problems: list[str]) -> dict[str, list[str]]:
    """The names of the tests of each line. One that is ignored, or that not every build has, holds nothing."""
    found: dict[str, list[str]] = {}
    for path in files:
        for test in TEST.finditer(path.read_text(encoding="utf-8")):
            name = test["name"]
            numbers = re.match(r"(?:[a-l]\d+_)*", name)[0].split("_")[:-1]
            if "#[ignore" in test["between"] or "#[cfg" in test["between"]:
                if numbers:
                    problems.append(f"{path.name}: {name} does not run by default, so it holds no line")
                continue
            for number in numbers:
                if len(number) != 3:
                    problems.append(f"{path.name}: {name}: lines have two digits in names: {number}")
                found.setdefault(f"{number[0].upper()}{int(number[1:])}", []).append(name)
    return found


def compare(checklist: Checklist, tests: dict[str, list[str]], problems: list[str]) -> None:
    lines = [line for _, section in checklist.sections for line in section]
    for line in lines:
        if line.reason is None and line.number not in tests:
            problems.append(f"{line.number} has neither a test nor a reason")
        if line.reason is not None and line.number in tests:
            problems.append(f"{line.number} has a test, {tests[line.number][0]}, and a reason, [{line.reason}]: remove one")
        if line.reason is not None and line.reason not in checklist.reasons:
            problems.append(f"{line.number}: [{line.reason}] is not explained")
    for number in sorted(tests.keys() - {line.number for line in lines}):
        problems.append(f"{tests[number][0]}: there is no line {number}")
    for word in sorted(checklist.reasons.keys() - {line.reason for line in lines}):
        problems.append(f"no line gives the reason [{word}]: remove it")


def table(checklist: Checklist, tests: dict[str, list[str]]) -> str:
    """The document, complete."""
    rows = ["| section | lines | tested | do not apply |", "|---|---|---|---|"]
    total = [0, 0]
    for title, lines in checklist.sections:
        tested = sum(line.reason is None for line in lines)
        rows.append(f"| {title} | {len(lines)} | {tested} | {len(lines) - tested} |")
        total = [total[0] + len(lines), total[1] + tested]
    rows.append(f"| all | {total[0]} | {total[1]} | {total[0] - total[1]} |")
    out = [HEAD, "\n".join(rows) + "\n"]
    for title, lines in checklist.sections:
        rows = [f"## {title}", "", "| line | what is expected | tested by, or why it does not apply |", "|---|---|---|"]
        for line in lines:
            if line.reason is None:
                held = ", ".join(f"`{name}`" for name in sorted(tests.get(line.number, [])))
            else:
                held = f"Does not apply: {checklist.reasons.get(line.reason, '')}"
            rows.append(f"| {line.number} | {line.text} | {held} |")
        out.append("\n".join(rows) + "\n")
    return "\n".join(out)


def main() -> int:
    arguments = argparse.ArgumentParser(description="Makes docs/conformance.md from the checklist and the contract suite.")
    arguments.add_argument("--check", action="store_true", help="write nothing; fail where the table is out of date")
    only_check = arguments.parse_args().check

    problems: list[str] = []
    checklist = read_checklist(CHECKLIST.read_text(encoding="utf-8"), problems)
    tests = tests_by_line(sources(SUITE), problems)
    compare(checklist, tests, problems)
    if not problems:
        wanted = table(checklist, tests)
        if not only_check:
            TABLE.write_text(wanted, encoding="utf-8")
        elif not TABLE.exists() or TABLE.read_text(encoding="utf-8") != wanted:
            problems.append("docs/conformance.md is out of date: run server/tests/conformance.py")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
