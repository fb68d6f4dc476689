"""The files that installing and citing begin with agree with the project."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def citation(text: str) -> dict[str, Any]:
    """The part of YAML that the file is written in: scalars, lists of scalars, lists of tables with one key each."""
    found: dict[str, Any] = {}
    key = ""
    for line in text.splitlines():
        item = re.fullmatch(r"  - (.+)", line)
        pair = re.fullmatch(r"([a-z-]+):(?: (.+))?", item[1] if item else line)
        assert item or pair, f"{line!r} is not understood"
        if item:
            assert isinstance(found[key], list)
            found[key].append({pair[1]: scalar(pair[2])} if pair else scalar(item[1]))
        elif pair:
            key = pair[1]
            assert key not in found, f"{key} is there twice"
            found[key] = scalar(pair[2]) if pair[2] else []
    return found


def scalar(text: str) -> str:
    if text.startswith('"'):
        value = json.loads(text)  # A double-quoted scalar of YAML is a string of JSON.
        assert isinstance(value, str)
        return value
    assert re.fullmatch(r"[A-Za-z0-9][\w.-]*", text), f"{text!r} must be quoted"
    return text


def test_the_citation_is_cff_of_this_version() -> None:
    found = citation((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    # The keys that the schema of CFF 1.2.0 requires, and those of its optional ones that are in use.
    assert {"cff-version", "message", "title", "authors"} <= set(found)
    assert set(found) <= {"cff-version", "message", "title", "authors", "type", "version", "license", "keywords"}
    assert found["cff-version"] == "1.2.0"
    assert found["type"] == "software"
    assert found["authors"]
    assert all(set(author) == {"name"} for author in found["authors"])
    assert found["version"] == PYPROJECT["version"]
    assert found["license"] == PYPROJECT["license"]
    assert found["keywords"] == PYPROJECT["keywords"]
    assert PYPROJECT["description"].split(", ")[0].lower() in found["title"]


def test_the_page_names_every_extra_and_its_libraries() -> None:
    page = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (.+) \|$", page, re.MULTILINE))
    extras = PYPROJECT["optional-dependencies"]
    assert set(rows) == set(extras)
    for name, libraries in rows.items():
        named = set(libraries.removesuffix(" and more").split(", "))
        there = {re.match(r"[\w.-]+", one)[0] for one in extras[name]}  # type: ignore[index]
        assert named <= there
        assert libraries.endswith(" and more") or named == there


def test_the_image_says_that_it_is_untested_and_uses_targets_that_there_are() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# Untested")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert 'CMD ["make", "quickstart"]' in lines
    assert "RUN make .venv/.installed" in lines
    assert re.search(r"^quickstart:", makefile, re.MULTILINE)
    assert "STAMP := .venv/.installed" in makefile
    image = next(line for line in lines if line.startswith("FROM "))
    assert image.endswith("-slim")
    least = PYPROJECT["requires-python"].removeprefix(">=")
    assert tuple(map(int, re.findall(r"\d+", image))) >= tuple(map(int, least.split(".")))
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv*", "runs"} <= set(ignored)
    assert not {"Makefile", "constraints.txt", "paper_configs"} & set(ignored)
