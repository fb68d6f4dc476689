"""The English of docstrings and comments: plain sentences that a newcomer can read without the code."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ROOMS: dict[str, tuple[str, ...]] = {
    "the command line": ("privfl/cli/*.py",),
    "attacks": ("attacks/**/*.py",),
    "the Python API": ("privfl/api/*.py",),
    "differential privacy": ("privfl/privacy/**/*.py",),
    "privacy auditing": ("privfl/auditing/**/*.py",),
    "the ground": tuple(
        f"privfl/{name}.py"
        for name in (
            *("config", "errors", "loading", "own_code", "processes"),
            *("records", "seeding", "shelves", "storage", "tables", "vectors"),
        )
    ),
    "the benchmark of GPUs": ("benchmarks/bench_gpu.py", "benchmarks/_gpu/*.py"),
    "learning": ("privfl/learning/**/*.py",),
    "federation": ("privfl/federation/**/*.py",),
    "running": ("privfl/running/**/*.py",),
    "data": ("privfl/data/**/*.py",),
    "secure aggregation": ("privfl/secagg/**/*.py",),
}
"""Rooms that are held to the rule, and their files; a room is added when its words have been gone through."""

MOST = 3.0
"""How often "what", and how often "where", may come in 1,000 words of a room."""

OPENING = re.compile(r"(?:\A|(?<=[.!?:]\s)|(?<=\n\n))(?:What|Whoever|Of|Where)\b[^.]*")


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Line and words of every docstring, of every string that documents a name, and of every block of comments."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            match statement:
                case ast.Expr(ast.Constant(str(text))):
                    yield statement.lineno, "\n".join(line.strip() for line in text.splitlines())
    block: list[str] = []
    begun = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if block and token.start[0] != last + 1:
                yield begun, " ".join(block)
                block = []
            begun = token.start[0] if not block else begun
            block.append(token.string.lstrip("# "))
            last = token.start[0]
    if block:
        yield begun, " ".join(block)


def openings(text: str) -> list[str]:
    """The sentences that begin with a word that hides their subject."""
    return [" ".join(found.split())[:80] for found in OPENING.findall(text)]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_keeps_to_the_rule(room: str) -> None:
    files = [path for pattern in ROOMS[room] for path in sorted(ROOT.glob(pattern))]
    assert len(files) >= len(ROOMS[room])
    found = [(path, line, text) for path in files for line, text in texts(path.read_text(encoding="utf-8"))]
    assert [f"{path.relative_to(ROOT)}:{line}: {one}" for path, line, text in found for one in openings(text)] == []
    words = [word.lower() for _, _, text in found for word in re.findall(r"[^\W\d_]+", text)]
    often = {word: 1000 * words.count(word) / len(words) for word in ("what", "where")}
    places = [f"{path.relative_to(ROOT)}:{line}" for path, line, text in found if re.search(r"(?i)\b(what|where)\b", text)]
    assert max(often.values()) <= MOST, (often, places)


def test_the_rule_is_seen_to_be_broken() -> None:
    documented = '"""A thing.\n\nWhere it is, it is."""\n\nx = 1\n"""Of two. What else?"""\n'
    source = documented + '# A comment that goes on. Whoever\n# reads it. In it: Of\nx = "What?"\n'
    found = [one for _, text in texts(source) for one in openings(text)]
    assert found == ["Where it is, it is", "Of two", "What else?", "Whoever reads it", "Of"]
    assert openings("Whatever is of use. It says what it is, where it is.") == []
