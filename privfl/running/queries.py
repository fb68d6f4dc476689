"""Several queries of each example (the example, its mirror image, and both shifted) and a table of models' answers to them.

The table is a file for each model, mapped into memory. The answers of all models to all queries are never in memory at once.

Suffixes: N candidates, Q queries, S shadow models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import pad

from privfl.errors import ConfigError

FloatArray = NDArray[np.float64]

_SHIFTS: Final = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
"""Rows and columns, in pixels."""

MOST: Final = 2 * len(_SHIFTS)
"""The number of queries that there are: each shift of the example and of its mirror image."""

_NUMBERS: Final = 2**22
"""So many signals are in memory at once: 32 MiB of float64."""


def require_images(shape: tuple[int, ...], queries: int, of: str) -> None:
    """Refuse more than one query of inputs that are no images.

    Args:
        shape: of one input.
        queries: the number of queries.
        of: the attack that asks.

    Raises:
        ConfigError: names the shape.
    """
    if queries > 1 and (len(shape) != 3 or min(shape[1:]) < 2):
        raise ConfigError(
            f"{of}: queries = {queries} asks for mirrored and shifted images, and inputs of shape {shape} are none; "
            "set queries = 1"
        )


def query(x_NCHW: Tensor, number: int) -> Tensor:
    """The images as one of the queries shows them: 0 as they are, 1 mirrored, 2 and 3 both shifted by a pixel, and so on.

    The border that a shift leaves open is filled by reflection.

    Args:
        x_NCHW: images.
        number: below :data:`MOST`; the first so many are the queries of an attack that asks for so many.
    """
    (rows, columns), mirrored = _SHIFTS[number // 2], number % 2
    x_NCHW = x_NCHW.flip(3) if mirrored else x_NCHW
    if not (rows or columns):
        return x_NCHW
    height, width = x_NCHW.shape[2:]
    return pad(x_NCHW, (1, 1, 1, 1), mode="reflect")[:, :, 1 - rows : 1 - rows + height, 1 - columns : 1 - columns + width]


@dataclass(frozen=True, eq=False, repr=False)
class Answers:
    """One model's answers, in a file that is mapped into memory; neither its name nor its folder can be reached from here."""

    _file: Any

    def __getitem__(self, where: tuple[Any, ...]) -> FloatArray:
        """Some of the signals, of shape (Q, N), in float64."""
        found: FloatArray = self._file.get_slice("signals_QN")[where].numpy().astype(np.float64)
        return found

    @property
    def shape(self) -> tuple[int, int]:
        """(Q, N)."""
        queries, candidates = self._file.get_slice("signals_QN").get_shape()
        return queries, candidates

    @classmethod
    def kept(cls, path: Path, vector_D: Tensor) -> Answers | None:
        """Those in a file; None if it is missing or damaged, or another model's."""
        try:
            file: Any = safe_open(path, framework="pt")
            if (file.metadata() or {}).get("of") != digest(vector_D):
                return None
            found = cls(file)
            return found if len(found.shape) == 2 else None
        except (OSError, ValueError, KeyError, SafetensorError):
            return None


def digest(vector_D: Tensor) -> str:
    """The name of a model, by its parameters."""
    return hashlib.sha256(vector_D.detach().cpu().numpy().tobytes()).hexdigest()


@dataclass(frozen=True, eq=False, repr=False)
class QuerySignals:
    """The signals of the target and of S shadow models for Q queries of each of N candidates, read when they are asked for.

    Args:
        target: the target's answers.
        shadows: each shadow's.
    """

    target: Answers
    shadows: Sequence[Answers]

    def at(self, number: int) -> tuple[FloatArray, FloatArray]:
        """The signals for one query: the target's, of shape (N,), and the shadows', of shape (S, N)."""
        shadow_SN = np.empty((len(self.shadows), self.target.shape[1]))
        for row_N, one in zip(shadow_SN, self.shadows, strict=True):
            row_N[:] = one[number, :]
        return self.target[number, :], shadow_SN

    def parts(self, queries: int) -> Iterator[tuple[slice, FloatArray, FloatArray]]:
        """Some candidates at a time, with all of the first so many queries.

        Yields:
            which candidates, the target's signals, of shape (Q, n), and the shadows', of shape (S, Q, n).
        """
        candidates = self.target.shape[1]
        at_once = max(1, _NUMBERS // (queries * max(1, len(self.shadows))))
        for start in range(0, candidates, at_once):
            here = slice(start, min(start + at_once, candidates))
            shadow_SQn = np.empty((len(self.shadows), queries, here.stop - start))
            for place, one in enumerate(self.shadows):
                shadow_SQn[place] = one[:queries, here]
            yield here, self.target[:queries, here], shadow_SQn
