"""The English of docstrings and comments: plain sentences that a newcomer can read without the code."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest
from jinja2.nodes import Const, TemplateData

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
            *("config", "errors", "loading", "own_code", "papers", "processes"),
            *("records", "seeding", "shelves", "storage", "tables", "vectors"),
        )
    ),
    "the benchmark of GPUs": ("benchmarks/bench_gpu.py", "benchmarks/_gpu/*.py"),
    "learning": ("privfl/learning/**/*.py",),
    "report": ("privfl/report/**/*.py",),
    "federation": ("privfl/federation/**/*.py",),
    "running": ("privfl/running/**/*.py",),
    "trackers": ("privfl/trackers/*.py",),
    "data": ("privfl/data/**/*.py",),
    "secure aggregation": ("privfl/secagg/**/*.py",),
}
"""Rooms that are held to the rule, and their files; a room is added when its words have been gone through."""

PAGES = ("privfl/report/**/*.py", "privfl/report/templates/*.j2", "privfl/privacy/words.py", "privfl/privacy/client_plans.py")
"""The files whose strings a page prints."""

WORDS = ("privfl/privacy/plans/*.py", "privfl/privacy/cohorts/*.py", "privfl/data/partitions/*.py")
"""The files whose functions named ``words`` return sentences that a page prints."""

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


def printed(source: str, functions: str | None = None) -> Iterator[tuple[int, str]]:
    """Line and words of the strings that Python code prints; docstrings, names and keys are left out.

    Args:
        source: the code.
        functions: the name of the functions to read; None for the whole module.
    """
    tree = ast.parse(source)
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for root in [tree] if functions is None else [node for node in ast.walk(tree) if getattr(node, "name", "") == functions]:
        for node in ast.walk(root):
            match node:
                case ast.Constant(str(text)) if id(node) not in documents and "{%" in text:
                    yield from ((node.lineno + line - 1, words) for line, words in rendered(text))
                case ast.Constant(str(text)) if id(node) not in documents and len(text.split()) > 1:
                    # A string with inserted values has a constant for each of its parts, with spaces at the seams.
                    yield node.lineno, text.strip()


def rendered(template: str) -> Iterator[tuple[int, str]]:
    """Line and words of the text, the labels and the string constants of a Jinja template."""
    for node in jinja2.Environment().parse(template).find_all((TemplateData, Const)):
        match node:
            case TemplateData(data=str(markup)):
                for text in re.findall(r"(?:\A|>)([^<>]+)|label=\"([^\"]+)\"", markup):
                    yield node.lineno, "".join(text).strip()
            case Const(value=str(text)):
                yield node.lineno, text.strip()


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


def test_the_pages_keep_to_the_rule() -> None:
    found = []
    for pattern in (*PAGES, *WORDS):
        files = sorted(ROOT.glob(pattern))
        assert files, pattern
        for path in files:
            source = path.read_text(encoding="utf-8")
            read = rendered(source) if path.suffix == ".j2" else printed(source, "words" if pattern in WORDS else None)
            found += [(path.relative_to(ROOT), line, text) for line, text in read]
    assert [f"{path}:{line}: {one}" for path, line, text in found for one in openings(text)] == []
    words = [word.lower() for _, _, text in found for word in re.findall(r"[^\W\d_]+", text)]
    often = {word: 1000 * words.count(word) / len(words) for word in ("what", "where")}
    assert max(often.values()) <= MOST, (often, [one for one in found if re.search(r"(?i)\b(what|where)\b", one[2])])
    # The check has read sentences of every kind of source.
    together = " ".join(text for _, _, text in found)
    for sentence in (
        "Both axes are logarithmic.",
        "Beneath a mean is its 95 % interval over seeds",
        "Not covered by any ε",
        "The balanced accuracy is measured",
        "No noise is added.",
        "without amplification by sampling",
        "all clients in every round",
        "dealt evenly at random",
    ):
        assert sentence in together, sentence


def test_a_page_is_seen_to_break_the_rule() -> None:
    source = '''"""What a docstring says."""\nx = f"It is {y}. What it is, {z} Where it is."\n'''
    template = '<h2>What is it</h2><p aria-label="Of two">{{ "Whoever" if x else "ok" }} is. Where is it?</p>{# What #}'
    code = source + f"_TEMPLATE = {template + '{% if x %}{% endif %}'!r}\n"
    expected = ["What is it", "Of two", "Whoever", "Where is it?"]
    assert [one for _, text in rendered(template) for one in openings(text)] == expected
    found = [one for _, text in printed(code) for one in openings(text)]
    assert sorted(found) == sorted(["What it is,", "Where it is", *expected])
    named = 'def words():\n    return "Where it is."\ndef other():\n    return "What it is."\n'
    assert [text for _, text in printed(named, "words")] == ["Where it is."]


def test_the_rule_is_seen_to_be_broken() -> None:
    documented = '"""A thing.\n\nWhere it is, it is."""\n\nx = 1\n"""Of two. What else?"""\n'
    source = documented + '# A comment that goes on. Whoever\n# reads it. In it: Of\nx = "What?"\n'
    found = [one for _, text in texts(source) for one in openings(text)]
    assert found == ["Where it is, it is", "Of two", "What else?", "Whoever reads it", "Of"]
    assert openings("Whatever is of use. It says what it is, where it is.") == []
