"""Clustered regression: made-up clients in groups, each with a linear function of its own (Ghosh et al. 2020, section 6.1)."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from privfl.data.datasets import About, MadeUp
from privfl.data.federated import Examples, LoadedData
from privfl.seeding import Seed

Rows = NDArray[np.float64]


class ClusteredRegression(MadeUp):
    """x ~ N(0, I), shape (N, F); y = ⟨w_g, x⟩ + N(0, ``noise``²), with the w_g of the client's group.

    w_g has entries 0 or 1 by fair coins, scaled so that ‖w_g‖ = ``separation``. Client k is in group k modulo ``groups``. Each
    client has ``examples`` examples, and there are as many test examples of each group. Task: ``regression``. If the groups are
    found and learned, the test error is little more than ``noise``.

    Args:
        people: the number of clients, which are natural clients.
        groups: the number of groups.
        examples: the number of examples of a client.
        features: F.
        separation: the norm of each w_g.
        noise: the standard deviation of the labels around their function.
    """

    about: ClassVar[About] = About(
        title="clustered regression, groups of clients with linear functions of their own",
        train=None,
        test=None,
        classes=None,
        licence="made up",
        homepage="https://arxiv.org/abs/2006.04088",
    )

    people: PositiveInt = 100
    groups: Annotated[int, Field(ge=1, le=100)] = 2
    examples: PositiveInt = 100
    features: PositiveInt = 100
    separation: PositiveFloat = 0.5
    noise: NonNegativeFloat = 0.1

    def read(self) -> LoadedData:
        """Draw the data; the same settings give the same bytes."""
        draw = (Seed(self.draw_seed) / "data" / "clustered_regression").numpy()
        group_K = np.arange(self.people, dtype=np.int64) % self.groups
        owner_N = np.repeat(np.arange(self.people, dtype=np.int64), self.examples)
        test_group_T = np.repeat(np.arange(self.groups, dtype=np.int64), self.examples)
        weights_GF = self.functions()
        x_NF, y_N = self._drawn(weights_GF[group_K[owner_N]], draw)
        x_TF, y_T = self._drawn(weights_GF[test_group_T], draw)
        return LoadedData(
            train=Examples(x_NF, y_N),
            test=Examples(x_TF, y_T),
            classes=(),
            provenance=f"Drawn by the rule of Ghosh et al. (2020), {self.groups} groups, from the seed {self.draw_seed}; the "
            "authors' own draw is another one.",
            natural_N=owner_N,
            natural_names=tuple(f"client {number}" for number in range(self.people)),
            group_K=group_K,
            test_group_T=test_group_T,
        )

    def functions(self) -> Rows:
        """w_g of each group, shape (groups, F)."""
        draw = (Seed(self.draw_seed) / "data" / "clustered_regression" / "functions").numpy()
        coins_GF = (draw.random((self.groups, self.features)) < 0.5).astype(np.float64)
        # A function without any 1 would have no length.
        coins_GF[np.arange(self.groups), draw.integers(self.features, size=self.groups)] = 1.0
        scaled_GF: Rows = coins_GF * (self.separation / np.linalg.norm(coins_GF, axis=1, keepdims=True))
        return scaled_GF

    def _drawn(self, weights_NF: Rows, draw: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        x_NF = draw.standard_normal(weights_NF.shape, dtype=np.float32)
        y_N = (x_NF * weights_NF).sum(1) + self.noise * draw.standard_normal(len(x_NF))
        return x_NF, y_N.astype(np.float32)
