"""The site of the documentation. `make check` builds it; here its contents are held to the pages."""

from __future__ import annotations

import re
import runpy
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import privfl
from privfl.shelves import SHELVES

ROOT = Path(__file__).parents[2]
SITE = tomllib.loads((ROOT / "docs" / "_site" / "zensical.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The staged pages."""
    out = tmp_path_factory.mktemp("site") / "pages"
    runpy.run_path(str(ROOT / "docs" / "_site" / "stage.py"))["stage"](out)
    return out


def listed(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        for value in entry.values():
            if isinstance(value, str):
                yield value
            else:
                yield from listed(value)


def test_the_contents_list_names_each_page_once(pages: Path) -> None:
    assert sorted(listed(SITE["project"]["nav"])) == sorted(page.name for page in pages.glob("*.md"))


def test_no_link_leaves_the_pages(pages: Path) -> None:
    for page in pages.rglob("*.md"):
        text = re.sub(r"```.*?```|````.*?````", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in target:
                there = (page.parent / target).resolve()
                assert there.is_file(), (page.name, target)
                assert there.is_relative_to(pages.resolve()), (page.name, target)


def test_the_reference_has_every_public_name_and_every_contract(pages: Path) -> None:
    told = re.findall(r"^::: (\S+)$", (pages / "reference.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name.rpartition(".")[2] for name in told} >= {*privfl.__all__}
    assert {f"{shelf.package}.{shelf.contract}" for shelf in SHELVES.values()} <= set(told)
