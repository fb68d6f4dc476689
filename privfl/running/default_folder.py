"""The default run folder, used if no folder is named."""

from __future__ import annotations

from pathlib import Path

from privfl.config import ExperimentConfig
from privfl.running.run_folder import RunFolder


def default_folder(config: ExperimentConfig, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Choose the folder of a run below ``runs/``, by the configuration's name.

    Returns:
        a folder. For a new run it is the first of ``runs/NAME``, ``runs/NAME-2``, ... that does not exist, so nothing is
            overwritten. With ``overwrite`` it is ``runs/NAME``. With ``resume`` it is the last unfinished run of this
            configuration. If there is none, it is the last finished run of this configuration, else the last run of that name;
            resuming that one then fails and names the setting that differs.
    """
    first = Path("runs") / config.name
    if overwrite:
        return first
    if resume:
        found = [RunFolder(path) for path in _numbered(first) if (path / "config.toml").exists()]
        alike = [folder for folder in found if folder.has_config(config)]
        unfinished = [folder for folder in alike if not folder.finished]
        return next((some[-1].path for some in (unfinished, alike, found) if some), first)
    path, number = first, 1
    while path.exists():
        number += 1
        path = first.with_name(f"{config.name}-{number}")
    return path


def _numbered(first: Path) -> list[Path]:
    """NAME and every NAME-2, NAME-3, ... that exists, by ascending number."""
    numbers = {path: path.name.removeprefix(f"{first.name}-") for path in first.parent.glob(f"{first.name}-*")}
    later = sorted((int(number), path) for path, number in numbers.items() if number.isdecimal())
    return [first, *(path for _, path in later)]
