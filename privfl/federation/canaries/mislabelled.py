"""Mislabelled canaries: real examples, each with a label that is not its own (Steinke, Nasr & Jagielski 2023, section 6)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from privfl.data.federated import IntArray
from privfl.federation.canaries import Canaries, Site, classes_of


class Mislabelled(Canaries):
    """The examples whose places are taken, each with another class than its own, all of which are equally likely.

    A model fits such an example only if it was trained on it, so that the loss tells it apart.
    """

    def examples(self, site: Site, rows_M: IntArray, generator: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        """See :class:`privfl.federation.canaries.Canaries`."""
        classes, pool = classes_of(site, self.kind), site.data.pool
        shift_M = generator.integers(1, max(classes, 2), len(rows_M))
        return pool.x[rows_M], (pool.y[rows_M] + shift_M) % classes
