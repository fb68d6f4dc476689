"""SHELF of trackers: each sends a run's figures to an experiment tracker such as MLflow.

A tracker gets names and numbers that are read from the run's records. It is set up by its library's own environment variables,
never by the configuration, so that a run stays the same whether it is tracked or not.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from privfl.errors import ConfigError
from privfl.shelves import SHELVES

Setting = str | int | float | bool


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker sees it.

    Args:
        name: the name of the run.
        identity: a text that is the same each time this folder is tracked, of 16 hexadecimal digits.
        folder: the run folder.
        settings: the configuration, a flat key such as ``training.lr`` for each value.
    """

    name: str
    identity: str
    folder: Path
    settings: Mapping[str, Setting]


class Tracker(ABC):
    """Base class of trackers. The methods are called in the order in which they stand here."""

    packages: ClassVar[tuple[str, ...]]
    """The packages that must be importable. The extra of privfl that installs them has the tracker's name."""

    @abstractmethod
    def begin(self, run: TrackedRun) -> int:
        """Begin to track a run, or go on with it if it was tracked before.

        Returns:
            the number of rounds that need not be sent again.
        """

    @abstractmethod
    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Send the figures of a round; ``step`` is the number of rounds done."""

    @abstractmethod
    def finish(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Send the figures of the finished run and its files, and close the tracker; nothing is sent afterwards."""


def open_tracker(name: str) -> Tracker:
    """Make the tracker of that name.

    Raises:
        ConfigError: there is no such tracker, or its library is not installed.
    """
    try:
        tracker: type[Tracker] = SHELVES["tracker"].find(name)
    except ConfigError as error:
        raise ConfigError(f"tracker {name!r}: {error}") from error
    missing = [package for package in tracker.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f"tracker {name!r}: needs the package {' and '.join(missing)}: pip install 'privfl[{name}]'")
    return tracker()
