"""The base of canaries that are directions."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from privfl.data.federated import Examples, IntArray
from privfl.data.input_store import InputStore
from privfl.errors import ConfigError
from privfl.federation.canaries import Canaries, Site
from privfl.learning.training._directions import Directions
from privfl.learning.training._guards import lent_randomness
from privfl.tables import Size
from privfl.vectors import Layout, trained

Shape = Literal["dirac", "random"]

_EXAMPLES: Final = 64
"""So many examples of the test split say along which axes gradients are small."""


class DirectedCanaries(Canaries):
    """Canaries of ``scale`` clipping norms, each in a direction of its own: an axis (``dirac``), or a ``random`` one."""

    directed: ClassVar[bool] = True

    direction: Shape = "dirac"
    scale: Size = 10.0

    def examples(self, site: Site, rows_M: IntArray, generator: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:  # noqa: ARG002
        """See :class:`privfl.federation.canaries.Canaries`: the examples that are there, of which nothing is used."""
        return site.data.pool.x[rows_M], site.data.pool.y[rows_M]

    def directions(self, site: Site) -> Directions:
        """See :class:`privfl.federation.canaries.Canaries`.

        Axes are those along which examples of the test split, which belong to no client, have the smallest gradients before the
        first round: real examples are to disturb a canary as little as they can.

        Raises:
            ConfigError: there are fewer axes than canaries.
        """
        size, stream = Layout.of(site.module).size, site.seed / "directions"
        if self.direction == "random":
            return Directions(self.count, size, stream)
        if self.count > size:
            raise ConfigError(
                f"canaries.count = {self.count}: must be at most {size}, an axis for each parameter of the model; lower it, or "
                "set canaries.direction = 'random'"
            )
        # A stable sort of a random order, so that equals are drawn at random.
        drawn_D = stream.numpy().permutation(size)
        quiet_D = drawn_D[np.argsort(_squares(site)[drawn_D], kind="stable")]
        return Directions(self.count, size, stream, stream.numpy().permutation(quiet_D[: self.count]))


def _squares(site: Site) -> NDArray[np.float64]:
    """The sum of squares of some test examples' gradients by parameter, of shape (D,), in evaluation mode."""
    test, module = site.data.test, copy.deepcopy(site.module).cpu().eval()
    some = Examples(test.x[:_EXAMPLES], test.y[:_EXAMPLES])
    x, y = InputStore.of(some, site.data.pixels, torch.device("cpu"))[:], torch.from_numpy(some.y)
    total, weights = np.zeros(Layout.of(module).size), list(trained(module).values())
    for place in range(len(some)):
        with lent_randomness(x.device):
            loss = site.task.loss(module(x[place : place + 1]), y[place : place + 1]).sum()
        found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        total += np.square(torch.cat([one.detach().to_dense().flatten() for one in found]).double().numpy())
    return np.nan_to_num(total, nan=np.inf)
