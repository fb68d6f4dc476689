"""Label skew by sorting all but a share of the examples."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from privfl.data.partitions import IntArray, Partition


class Similarity(Partition):
    """A share of the examples is dealt at random, the rest sorted by class and dealt in blocks (Karimireddy 2020, section 7).

    The paper writes s % similarity for a ``share`` of s / 100 (after Hsieh et al. 2020). With 0 each block has few classes, and
    with 1 the partition is even at random.
    """

    by_class: ClassVar[bool] = True

    share: Annotated[float, Field(ge=0, le=1)]

    def owners(
        self,
        labels_N: IntArray,
        natural_N: IntArray | None,  # noqa: ARG002
        clients: int,
        generator: np.random.Generator,
    ) -> IntArray:
        """Deal round(``share`` N) examples in turn; cut the others, sorted by class, into K blocks of one size.

        Sizes of two clients differ by at most two.
        """
        shuffled = generator.permutation(len(labels_N))
        even = round(self.share * len(labels_N))
        rest = shuffled[even:][np.argsort(labels_N[shuffled[even:]], kind="stable")]
        owner_N = np.empty_like(labels_N)
        owner_N[shuffled[:even]] = np.arange(even) % clients
        owner_N[rest] = np.arange(len(rest)) * clients // max(1, len(rest))
        return owner_N

    def words(self) -> str:
        """See :class:`Partition`."""
        return f"{self.share:.0%} dealt evenly at random, the rest sorted by class and dealt in blocks"
