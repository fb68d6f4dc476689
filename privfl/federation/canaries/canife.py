"""CANIFE: inputs whose gradient is as far as can be from those of other examples (Maddock, Sablayrolles & Stock 2023)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.func import functional_call, grad, vmap

from privfl.federation.canaries import Site
from privfl.federation.canaries._moved import MovedCanaries, store_of
from privfl.vectors import trained

_BATCHES: Final = 100
"""The number of test batches whose mean gradients a canary avoids, as in the paper."""

_BATCH: Final = 32
"""The number of examples in each of them."""

_NUMBERS: Final = 2**20
"""The numbers in the gradients of the canaries that are moved together."""

_REACH: Final = 2.0
"""The number of ranges of the data by which steps of one sign would move a number, were it not kept in range."""


class Canife(MovedCanaries):
    """Mislabelled examples whose inputs are moved, in ``steps`` steps, until their gradients are nearly orthogonal to others'.

    The statistic of an audit of a noised sum is its inner product with the canary's gradient. The real examples of the sum
    are in it as well, and hide the canary the less, the smaller their gradients are in its direction. For a canary with
    gradient g the inputs minimise

        D · mean_j cos²(g, u_j) + max(0, 1 − ‖g‖/norm)²

    with u_j the mean gradients of 100 batches of the test split, which belongs to no client, and ``norm`` the clipping norm or
    more. The paper crafts a canary anew for the model of each round; here all are crafted for the model before the first, and
    are planted once. Each number of an input stays within the range that it has in the data.
    """

    steps: PositiveInt = 100
    norm: PositiveFloat = 1.0

    def moved(
        self, site: Site, x_M: Tensor, y_M: Tensor, ends: tuple[Tensor, Tensor], generator: np.random.Generator
    ) -> Tensor:
        """See :class:`privfl.federation.canaries._moved.MovedCanaries`: by the sign of the gradient, in ever smaller steps."""
        gradients = _gradients(site)
        avoided_JD = _avoided(site, gradients, generator)

        def objective(x_B: Tensor, y_B: Tensor) -> Tensor:
            gradient_BD = gradients(x_B, y_B)
            norm_B = torch.linalg.vector_norm(gradient_BD, dim=1)
            cosine_BJ = gradient_BD @ avoided_JD.T / norm_B.clamp(min=1e-12)[:, None]
            short_B = torch.relu(1 - norm_B / self.norm)
            total: Tensor = gradient_BD.shape[1] * cosine_BJ.square().mean(1).sum() + short_B.square().sum()
            return total

        size = max(1, _NUMBERS // avoided_JD.shape[1])
        parts = zip(torch.split(x_M, size), torch.split(y_M, size), strict=True)
        return torch.cat([self._descended(objective, x_B, y_B, ends) for x_B, y_B in parts])

    def _descended(
        self, objective: Callable[[Tensor, Tensor], Tensor], x_B: Tensor, y_B: Tensor, ends: tuple[Tensor, Tensor]
    ) -> Tensor:
        low, high = ends
        for step in range(self.steps):
            input_B = x_B.clone().requires_grad_()
            (slope_B,) = torch.autograd.grad(objective(input_B, y_B), input_B)
            size = 2 * _REACH / self.steps * (1 - step / self.steps)
            x_B = torch.clamp(x_B - size * (high - low) * slope_B.sign(), low, high)
        return x_B


def _gradients(site: Site) -> Callable[[Tensor, Tensor], Tensor]:
    """Inputs and labels -> the gradient of each example's loss at the model before the first round, of shape (B, D)."""
    module = copy.deepcopy(site.module).cpu().eval()
    weights = {name: parameter.detach() for name, parameter in trained(module).items()}

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return site.task.loss(functional_call(module, weights, (x[None],)), y[None]).sum()

    each = vmap(grad(loss), in_dims=(None, 0, 0))

    def gradients(x_B: Tensor, y_B: Tensor) -> Tensor:
        return torch.cat([one.flatten(1) for one in each(weights, x_B, y_B).values()], dim=1)

    return gradients


def _avoided(site: Site, gradients: Callable[[Tensor, Tensor], Tensor], generator: np.random.Generator) -> Tensor:
    """Unit vectors along the mean gradients of batches of the test split, of shape (J, D)."""
    test = site.data.test
    store, y = store_of(site, test.x, test.y), torch.from_numpy(test.y)
    rows = torch.from_numpy(generator.integers(0, len(test), (_BATCHES, _BATCH)))
    mean_JD = torch.stack([gradients(store[rows_B], y[rows_B]).mean(0) for rows_B in rows])
    unit_JD: Tensor = mean_JD / torch.linalg.vector_norm(mean_JD, dim=1, keepdim=True).clamp(min=1e-12)
    return unit_JD
