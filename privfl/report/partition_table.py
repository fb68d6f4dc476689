"""A table of a partition for the terminal: the examples of each class that each client has, as shades."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

_SHADES = " ·░▒▓█"
_COLOUR = "cyan"
_KEYS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NAME_WIDTH = 16
_GAP = 4
_MOST_ROWS = 120


def partition_table(counts_KC: NDArray[np.int64], classes: Sequence[str], clients: Sequence[str]) -> RenderableType:
    """Draw a partition as a table of shades, as wide as the terminal; it needs 80 columns for 100 clients.

    Each client has a short row: its name, one shaded cell for each class, and its size. The rows fill as many columns as
    fit. The shade grows with the square root of the count, relative to the largest count, so that small counts stay
    visible. At most 120 clients are drawn, evenly spaced by size. If there are too many classes, neighbouring classes share
    a cell. A summary of all clients follows.

    Args:
        counts_KC: the number of examples of each class that each client has.
        classes: the names of the C classes.
        clients: the names of the K clients.
    """
    return _Partition(counts_KC, tuple(classes), tuple(clients))


@dataclass(frozen=True)
class _Partition:
    counts_KC: NDArray[np.int64]
    classes: tuple[str, ...]
    clients: tuple[str, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        fitted = self._fitted(options.max_width)
        yield from fitted._legend(options.max_width)
        yield Text()
        yield from fitted._rows(options.max_width)
        yield Text()
        yield from self._summary()
        levels = "  ".join(f"{shade} ≤{bound:,}" for shade, bound in _bounds(int(fitted.counts_KC.max())))
        yield Text(f"examples in a cell: {levels}", style="dim")

    def _fitted(self, width: int) -> _Partition:
        """Return the partition with neighbouring classes merged, if a row or the keys cannot hold all of them."""
        room = max(1, min(len(_KEYS), width - _NAME_WIDTH - len(f"{self.counts_KC.sum(axis=1).max():,}") - 2))
        if len(self.classes) <= room:
            return self
        starts = range(0, len(self.classes), math.ceil(len(self.classes) / room))
        groups = [self.classes[start : start + starts.step] for start in starts]
        names = tuple(group[0] if len(group) == 1 else f"{group[0]} to {group[-1]}" for group in groups)
        return _Partition(np.add.reduceat(self.counts_KC, starts, axis=1), names, self.clients)

    def _legend(self, width: int) -> Iterable[Text]:
        entries = [key if key == name else f"{key} {name}" for key, name in zip(self._keys(), self.classes, strict=True)]
        column = max(map(cell_len, entries)) + 2
        per_line = max(1, width // column)
        for start in range(0, len(entries), per_line):
            line = "".join(set_cell_size(entry, column) for entry in entries[start : start + per_line])
            yield Text(line.rstrip(), style="dim", no_wrap=True, overflow="ellipsis")

    def _keys(self) -> str:
        return _KEYS[: len(self.classes)]

    def _rows(self, width: int) -> Iterable[Text]:
        shown = self._shown()
        names = [_short(self.clients[client]) for client in shown]
        name_width, size_width = max(map(cell_len, names)), len(f"{self.counts_KC.sum(axis=1).max():,}")
        blocks = [self._row(client, name, name_width, size_width) for client, name in zip(shown, names, strict=True)]
        columns = max(1, (width + _GAP) // (blocks[0].cell_len + _GAP))
        height = math.ceil(len(blocks) / columns)
        stacks = [blocks[start : start + height] for start in range(0, len(blocks), height)]
        heading = Text(" " * (name_width + 1) + self._keys() + " " * (size_width + 1), style="dim")
        gap = Text(" " * _GAP)
        yield _line(gap.join([heading] * len(stacks)))
        for line in zip_longest(*stacks, fillvalue=Text()):
            yield _line(gap.join(line))

    def _shown(self) -> list[int]:
        clients = len(self.clients)
        if clients <= _MOST_ROWS:
            return list(range(clients))
        by_size = np.argsort(self.counts_KC.sum(axis=1), kind="stable")
        return [int(client) for client in by_size[np.linspace(0, clients - 1, _MOST_ROWS).round().astype(int)]]

    def _row(self, client: int, name: str, name_width: int, size_width: int) -> Text:
        counts_C = self.counts_KC[client]
        row = Text(f"{name:>{name_width}} ", no_wrap=True)
        for level in _levels(counts_C, int(self.counts_KC.max())):
            row.append(_SHADES[level], style=_COLOUR)
        return row.append(f" {counts_C.sum():>{size_width},}")

    def _summary(self) -> Iterable[Text]:
        sizes_K = self.counts_KC.sum(axis=1)
        present_K = (self.counts_KC > 0).sum(axis=1)
        left_out = len(self.clients) - len(self._shown())
        if left_out:
            yield Text(f"{left_out} of {len(self.clients)} clients are not drawn; the others are in order of size", "dim")
        by_class = len(self.classes) > 1
        classes = f", {len(self.classes)} classes" if by_class else ""
        yield Text(f"{len(self.clients)} clients, {sizes_K.sum():,} examples{classes}")
        yield Text(f"examples per client   {_spread(sizes_K, ',.0f')}")
        if not by_class:
            return
        yield Text(f"classes per client    {_spread(present_K, '.0f')}")
        yield Text(f"exp(label entropy)    {_spread(effective_classes(self.counts_KC), '.1f')}")


def effective_classes(counts_KC: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the exponential of each client's label entropy (Hill 1973, order 1): 1 for one class, C for C equal ones."""
    shares_KC = counts_KC / np.maximum(counts_KC.sum(axis=1, keepdims=True), 1)
    logs_KC = np.log(shares_KC, where=shares_KC > 0, out=np.zeros_like(shares_KC))
    effective_K: NDArray[np.float64] = np.exp(-(shares_KC * logs_KC).sum(axis=1))
    return effective_K


def _levels(counts: NDArray[np.int64], most: int) -> list[int]:
    """Return the shade of each count: 0 if it is 0, else a step that grows with the square root of its share of ``most``."""
    return [math.ceil((len(_SHADES) - 1) * math.sqrt(count / most)) if count else 0 for count in counts.tolist()]


def _bounds(most: int) -> list[tuple[str, int]]:
    """Return each shade with the largest count drawn in it; shades that no count can have are left out."""
    steps = len(_SHADES) - 1
    bounds = [most * level**2 // steps**2 for level in range(steps + 1)]
    return [(_SHADES[level], bounds[level]) for level in range(1, steps + 1) if bounds[level] > bounds[level - 1]]


def _spread(values_K: NDArray[np.int64] | NDArray[np.float64], form: str) -> str:
    low, middle, high = values_K.min(), np.median(values_K), values_K.max()
    return f"min {low:{form}}  median {middle:{form}}  max {high:{form}}"


def _short(name: str) -> str:
    name = name.removeprefix("client ")
    return name if cell_len(name) <= _NAME_WIDTH else set_cell_size(name, _NAME_WIDTH - 1) + "…"


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
