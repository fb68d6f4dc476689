"""The files about papers: a page and tables beside the runs, and the README and the results beside the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from privfl.errors import ConfigError
from privfl.records import PaperResult
from privfl.report import page
from privfl.report.papers import tables
from privfl.report.papers.verdict import STATUSES, Verdict, averaged
from privfl.report.table_files import as_markdown, files_of
from privfl.report.wording import plural
from privfl.storage import write_atomic, write_json

RESULTS: Final = "results"
"""The folder of the results, below that of the rows."""

_INTRODUCTION = """\
# Papers, reproduced by name

`privfl reproduce NAME` runs a row and says whether the paper's figure holds here. This page is written by that command from
`results/`, failures included; `privfl reproduce --table` writes it again without training. docs/papers.md has the rules, and
says how to add a row.

"""

_LEGEND = """
Shares are in per cent. Ours is the mean over seeds with its 95 % interval by Student's t; the verdict is about the mean. A `·`
parts the cells of a row. The ε of the paper is the one that it states. Ours are those of the noise that was added, the largest
over clients and seeds. Minutes are of one seed: measured, or expected if the row was not run. The other files here have no
`[paper]` table and claim nothing.
"""


def read_results(folder: Path) -> dict[str, PaperResult]:
    """The results beside the rows, by the row's name.

    Args:
        folder: the folder of the rows.

    Raises:
        ConfigError: a result is damaged.
    """
    found = {}
    for path in sorted((folder / RESULTS).glob("*.json")):
        try:
            found[path.stem] = PaperResult.model_validate_json(path.read_bytes())
        except ValidationError as error:
            why = error.errors()[0]["msg"]
            raise ConfigError(f"{path}: is damaged ({why}); remove it, and type `privfl reproduce {path.stem}`") from None
    return found


def write_results(folder: Path, verdicts: Sequence[Verdict]) -> None:
    """Write the result of each row that was run, with means, intervals and status, beside the rows.

    Raises:
        RunFolderError, StorageError: as :func:`privfl.storage.storing`.
    """
    for one in verdicts:
        if one.result is not None:
            path = folder / RESULTS / f"{one.row.name}.json"
            content = averaged(one.result).model_copy(update={"status": one.status}).model_dump()
            if not path.exists() or PaperResult.model_validate_json(path.read_bytes()).model_dump() != content:
                write_json(path, content)


def readme(verdicts: Sequence[Verdict]) -> str:
    """The page of all rows in Markdown: how many have which status, the table, and a sentence on each row that needs one."""
    lines = [_INTRODUCTION, counted(verdicts), "\n\n", as_markdown(tables.shown(verdicts)), _LEGEND]
    lines += ["\n| status | meaning |\n| --- | --- |\n", *(f"| {status} | {words} |\n" for status, words in STATUSES.items())]
    if told := notes(verdicts):
        lines += ["\n## Notes\n\n", *(f"- `{name}`: {why}\n" for name, why in told.items())]
    return "".join(lines)


def counted(verdicts: Sequence[Verdict]) -> str:
    """The number of rows of each status, as a sentence."""
    counts = Counter(one.status for one in verdicts)
    parts = [f"{counts[status]} {status}" for status in STATUSES if counts[status]]
    return f"{plural(len(verdicts), 'row')}: {', '.join(parts)}."


def notes(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """The sentence on each row that needs one, by its name."""
    return {one.row.name: one.why for one in verdicts if one.why}


def write_tables(verdicts: Sequence[Verdict], out: Path) -> Path:
    """Write the page ``papers.html`` and the table ``papers.csv``, ``.md`` and ``.tex``.

    Args:
        verdicts: the rows to show.
        out: the folder.

    Returns:
        the page.

    Raises:
        RunFolderError, StorageError: as :func:`privfl.storage.storing`.
    """
    for suffix, content in files_of(tables.shown(verdicts), tables.numbers(verdicts)).items():
        write_atomic(out / f"papers.{suffix}", content)
    html = page.fill(
        "papers.html.j2",
        counted=counted(verdicts),
        header=tables.HEADER,
        rows=[(one, row) for one, row in zip(verdicts, tables.shown(verdicts, between="\n")[1:], strict=True)],
        notes=notes(verdicts),
        statuses=STATUSES,
    )
    path = out / "papers.html"
    write_atomic(path, html.encode())
    return path


def write_readme(folder: Path, verdicts: Sequence[Verdict]) -> None:
    """Write the README beside the rows.

    Raises:
        RunFolderError, StorageError: as :func:`privfl.storage.storing`.
    """
    write_atomic(folder / "README.md", readme(verdicts).encode())
