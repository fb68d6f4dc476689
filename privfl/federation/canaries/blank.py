"""Blank canaries: inputs with nothing in them but one mark, which no two of them share (Nasr et al. 2021, section 4)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from privfl.data.federated import IntArray
from privfl.errors import ConfigError
from privfl.federation.canaries import Canaries, Site


class Blank(Canaries):
    """Inputs that are the least of the data everywhere but in one place, where they are the largest; labels of random examples.

    Without a mark all of them would be one example, which is found or not found as a whole.
    """

    def examples(self, site: Site, rows_M: IntArray, generator: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        """See :class:`privfl.federation.canaries.Canaries`.

        Raises:
            ConfigError: an input has fewer numbers than there are canaries, or the data have several inputs.
        """
        pool, count = site.data.pool, len(rows_M)
        numbers = int(np.prod(pool.x.shape[1:]))
        if pool.fields:
            raise ConfigError(f"canaries.kind = {self.kind!r}: these data have several inputs; set canaries.kind = 'random'")
        if count > numbers:
            raise ConfigError(
                f"canaries.count = {count}: must be at most {numbers}, one mark for each number of an input; lower it, or set "
                "canaries.kind = 'random'"
            )
        x_MF = np.full((count, numbers), pool.x.min(), pool.x.dtype)
        x_MF[np.arange(count), generator.permutation(numbers)[:count]] = pool.x.max()
        return x_MF.reshape(count, *pool.x.shape[1:]), pool.y[generator.integers(0, len(pool), count)]
