"""Unit vectors by which canaries are known: each pushes a gradient or an update in a direction of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privfl.seeding import Seed

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Directions:
    """M unit vectors of length D: an axis for each, or random ones, which are made anew whenever they are needed.

    Args:
        count: M.
        size: D.
        seed: draws the random ones.
        axes_M: different axes; None: the directions are random.
    """

    count: int
    size: int
    seed: Seed
    axes_M: IntArray | None = None

    def vector(self, place: int) -> Tensor:
        """One of them, of shape (D,), on the CPU."""
        if self.axes_M is not None:
            vector_D = torch.zeros(self.size)
            vector_D[int(self.axes_M[place])] = 1.0
            return vector_D
        drawn_D: Tensor = torch.randn(self.size, generator=(self.seed / place).torch())
        return drawn_D.div_(torch.linalg.vector_norm(drawn_D))

    def products(self, vectors_TD: Tensor, places_n: IntArray | None = None) -> FloatArray:
        """The inner products of T vectors with some of them, or with all, of shape (T, n)."""
        vectors_TD = vectors_TD.detach().cpu().double()
        places_n = np.arange(self.count) if places_n is None else places_n
        if self.axes_M is not None:
            return np.asarray(vectors_TD[:, torch.from_numpy(self.axes_M[places_n])].numpy())
        columns = [vectors_TD @ self.vector(int(place)).double() for place in places_n]
        return np.asarray(torch.stack(columns, dim=1).numpy()) if columns else np.zeros((len(vectors_TD), 0))


@dataclass(frozen=True)
class PlantedGradients:
    """Gradients in the place of those of some examples, before they are clipped.

    Args:
        rows_M: the examples, as indices into the pool, ascending.
        gradient: the gradient of the m-th of them, of shape (D,).
    """

    rows_M: IntArray
    gradient: Callable[[int], Tensor]

    def among(self, rows_B: Tensor) -> list[tuple[int, Tensor]]:
        """Places in a batch and the gradients that belong there.

        Args:
            rows_B: the pool's indices of the batch.
        """
        rows = rows_B.cpu().numpy()
        where = np.searchsorted(self.rows_M, rows)
        found = np.flatnonzero(self.rows_M[np.minimum(where, len(self.rows_M) - 1)] == rows)
        return [(int(place), self.gradient(int(where[place]))) for place in found]
