"""Stage the pages of the site: docs/, the README as its home, source files that pages link to, and the API reference.

On the site a link cannot leave the pages. A Markdown file outside of docs/ becomes a page, and so does the text of any other
file.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Final

import privfl
from privfl.shelves import SHELVES

ROOT: Final = Path(__file__).parents[2]
LINK: Final = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
OUTSIDE: Final = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
FENCES: Final = {".py": "python", ".toml": "toml", ".txt": "text", "": "text"}


def stage(out: Path) -> None:
    """Write all pages into ``out``, which is made anew."""
    shutil.rmtree(out, ignore_errors=True)
    (out / "source").mkdir(parents=True)
    sources = {ROOT / name: page for name, page in OUTSIDE.items()}
    for path in sorted((ROOT / "docs").iterdir()):
        if path.suffix == ".md":
            sources[path] = path.name
        elif path.is_file():
            shutil.copy(path, out / path.name)
    pages = dict(sources)
    for path, name in sources.items():
        (out / name).write_text(_relinked(path, name, pages), encoding="utf-8")
    for path, name in pages.items():
        if path not in sources:
            (out / name).write_text(_source_page(path), encoding="utf-8")
    (out / "reference.md").write_text(_reference(), encoding="utf-8")


def _relinked(path: Path, name: str, pages: dict[Path, str]) -> str:
    """The page's text with links to where the pages are on the site; files that it links to are added to ``pages``."""

    def moved(link: re.Match[str]) -> str:
        target = (path.parent / link[2]).resolve()
        beside = target.parent == ROOT / "docs"
        if beside and target.suffix != ".md":
            return f"{link[1]}{target.name}{link[3]}"
        if "://" in link[2] or not target.exists():
            return link[0]
        if target not in pages:
            pages[target] = f"source/{target.relative_to(ROOT).as_posix().replace('/', '.') or 'root'}.md"
        return f"{link[1]}{os.path.relpath(pages[target], Path(name).parent)}{link[3]}"

    return LINK.sub(moved, path.read_text(encoding="utf-8"))


def _source_page(path: Path) -> str:
    """A file's text as a page, or a folder's list of files."""
    title = f"# {path.relative_to(ROOT)}\n\n"
    if path.is_dir():
        return title + "".join(f"- `{one.relative_to(ROOT)}`\n" for one in sorted(path.rglob("*.py")))
    text = path.read_text(encoding="utf-8")
    return text if path.suffix == ".md" else f"{title}````{FENCES.get(path.suffix, 'text')}\n{text}\n````\n"


def _reference() -> str:
    """The API reference: every public name, and the contract of every shelf."""
    names = [getattr(privfl, name) for name in privfl.__all__]
    public = "".join(f"::: {one.__module__}.{one.__qualname__}\n\n" for one in names if hasattr(one, "__qualname__"))
    shelves = dict.fromkeys(f"{shelf.package}.{shelf.contract}" for shelf in SHELVES.values())
    contracts = "".join(f"::: {name}\n\n" for name in shelves)
    return (
        "# API\n\nThe public names of `privfl`, then the classes that an item of your own derives from.\n\n"
        f"## Public names\n\n{public}## Contracts of the shelves\n\n{contracts}## Errors\n\n::: privfl.errors\n"
    )


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
