"""The rows of papers in a folder: found by name, chosen by filters, and whether each can be run on this machine."""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from privfl.config import ExperimentConfig
from privfl.data.datasets import Dataset, FileDataset
from privfl.data.datasets._store import find_file
from privfl.errors import ConfigError
from privfl.loading import load_row
from privfl.papers import Paper, Topic
from privfl.shelves import nearest
from privfl.tables import narrow

ALL = "all"
"""The name that stands for every row."""


@dataclass(frozen=True)
class PaperRow:
    """A row of a paper: a configuration file with a ``[paper]`` table.

    Args:
        name: the file's name without its suffix.
        path: the file.
        config: the configuration.
        paper: the table.
        digest: SHA-256 of the settings (:class:`privfl.loading.LoadedRow`).
    """

    name: str
    path: Path
    config: ExperimentConfig
    paper: Paper
    digest: str

    @classmethod
    def read(cls, path: Path) -> PaperRow:
        """Read a file.

        Raises:
            ConfigError: the file is no valid configuration, or has no ``[paper]`` table.
        """
        loaded = load_row(path)
        if loaded.paper is None:
            raise ConfigError(f"{path}: has no [paper] table, so it claims nothing; docs/papers.md shows one")
        return cls(path.stem, path, loaded.config, loaded.paper, loaded.digest)


def rows_of(folder: Path) -> dict[str, PaperRow]:
    """All rows of a folder by name. Files that begin with ``_`` are for others to extend and are no rows.

    Raises:
        ConfigError: the folder does not exist, a file is no valid configuration, or a row is compared with one that is missing.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is no folder; type this in a clone of privfl, or name the rows' folder with --papers")
    found = {path.stem: PaperRow.read(path) for path in sorted(folder.glob("*.toml")) if _is_row(path)}
    for row in found.values():
        for partner in row.paper.partners:
            if partner not in found:
                raise ConfigError(f"{row.path}: paper compares with {partner!r}, which is no row: {nearest(partner, [*found])}")
    return found


def _is_row(path: Path) -> bool:
    """Whether a file has a ``[paper]`` table itself; a damaged file counts, so that it is named."""
    try:
        return not path.stem.startswith("_") and "paper" in tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return True


def chosen(
    rows: Mapping[str, PaperRow],
    names: Sequence[str],
    topics: Sequence[Topic] = (),
    *,
    cpu: bool = False,
    minutes: float | None = None,
) -> list[PaperRow]:
    """The rows of these names and filters, and the rows that they are compared with.

    Args:
        rows: from :func:`rows_of`.
        names: names, patterns such as ``tramer2021_*``, or ``all``.
        topics: the topics of the rows; none: any.
        cpu: whether rows for a GPU are left out.
        minutes: the largest time of one seed; None: any.

    Raises:
        ConfigError: a name is unknown, or no row is left.
    """
    found: dict[str, PaperRow] = {}
    for name in names:
        matching = [row for row in rows if name == ALL or fnmatchcase(row, name.removesuffix(".toml"))]
        if not matching:
            raise ConfigError(f"{name!r}: is no row of a paper; {nearest(name, [ALL, *rows])}")
        found |= {row: rows[row] for row in matching}
    kept = {
        name: row
        for name, row in found.items()
        if (not topics or row.paper.topic in topics)
        and not (cpu and row.paper.device == "gpu")
        and (minutes is None or row.paper.minutes <= minutes)
    }
    if not kept:
        raise ConfigError(f"no row of {len(found)} passes the filters; `privfl reproduce --list` shows topics and minutes")
    # Orders may be chained: what a row is compared with may be compared with a third.
    waiting = list(kept.values())
    while waiting:
        for partner in waiting.pop().paper.partners:
            if partner not in kept:
                kept[partner] = rows[partner]
                waiting.append(rows[partner])
    return [row for name, row in rows.items() if name in kept]


def missing(row: PaperRow, *, gpus: int, smoke: bool = False) -> str | None:
    """The reason why a row cannot be run on this machine; None if it can.

    Args:
        row: the row.
        gpus: the number of GPUs here.
        smoke: whether it is run with its smoke settings, for which a CPU is enough.
    """
    if row.paper.device == "gpu" and not gpus and not smoke:
        return f"needs a GPU (about {row.paper.minutes:g} min a seed)"
    for module in row.paper.needs:
        if importlib.util.find_spec(module) is None:
            return f"needs {module}: pip install {module}"
    if row.paper.published is not None:
        for name in row.paper.published.files:
            if find_file(name) is None:
                return f"needs {name} of the authors in $PRIVFL_DATA"
    data = narrow(row.config.data, Dataset)
    if isinstance(data, FileDataset) and data.find() is None:
        return f"needs the data set {data.name}: {data.remedy}"
    return None
