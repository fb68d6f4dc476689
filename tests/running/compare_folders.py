"""Compares run folders byte by byte: whether two versions of privfl, or two machines, carry out one configuration alike.

::

    python tests/running/compare_folders.py BEFORE AFTER [BEFORE AFTER ...]

Left out is what no seed repeats: seconds, and what clients sent under secure aggregation, whose keys are fresh in every run.
"""

from __future__ import annotations

import sys
from pathlib import Path

NEVER_REPEATED = (
    *("timings.jsonl", "environment.json", ".lock"),
    *("transcripts/*", "figures/*", "report.html"),
)
"""Files with seconds, versions or fresh keys in them, as patterns; a page shows seconds."""


def repeatable(folder: Path) -> dict[str, Path]:
    """The files of a run that its seed repeats, by their names in the folder."""
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {str(name): path for name, path in files.items() if not any(name.match(pattern) for pattern in NEVER_REPEATED)}


def differences(before: Path, after: Path) -> list[str]:
    """The files that differ or are in one folder only, by name; empty if the two runs are one."""
    one, other = repeatable(before), repeatable(after)
    return sorted(
        name
        for name in one.keys() | other.keys()
        if name not in one or name not in other or one[name].read_bytes() != other[name].read_bytes()
    )


def main(folders: list[str]) -> int:
    """Print a line for each pair of folders; 1 if any two differ."""
    pairs = list(zip(folders[::2], folders[1::2], strict=True))
    found = {pair: differences(Path(pair[0]), Path(pair[1])) for pair in pairs}
    for (before, after), names in found.items():
        print(f"{before} {after}: {', '.join(names) or 'the same'}")  # noqa: T201
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
