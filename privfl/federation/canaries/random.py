"""Random canaries: inputs that no example of the data looks like."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from privfl.data.federated import IntArray
from privfl.federation.canaries import Canaries, Site


class Random(Canaries):
    """Inputs of which each number is that of another random example at the same place, with a random example's label.

    So each number has a value that the data have there, in bytes as in float32, and all of them together have no pattern.
    """

    def examples(self, site: Site, rows_M: IntArray, generator: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        """See :class:`privfl.federation.canaries.Canaries`."""
        pool, count = site.data.pool, len(rows_M)
        flat = pool.x.reshape(len(pool), -1)
        places = generator.integers(0, len(pool), (count, flat.shape[1]))
        x_M = np.take_along_axis(flat, places, axis=0).reshape(count, *pool.x.shape[1:])
        return x_M, pool.y[generator.integers(0, len(pool), count)]
