"""Crafted canaries: inputs that a model which never saw them gets as wrong as it can (in the spirit of arXiv 2412.01756)."""

from __future__ import annotations

import copy
from typing import Final

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from privfl.federation.canaries import Site
from privfl.federation.canaries._moved import MovedCanaries, store_of
from privfl.vectors import trained

_STEPS: Final = 200
"""The number of steps that train the reference model."""

_BATCH: Final = 64
"""The number of examples in each of them."""

_LR: Final = 0.1
"""The learning rate of the reference model, with a momentum of 0.9."""

_REACH: Final = 3.0
"""The number of ranges of the data by which steps of one sign would move a number, were it not kept in range."""


class Crafted(MovedCanaries):
    """Mislabelled examples whose inputs are moved, in ``steps`` steps, to a place of the largest loss of a reference model.

    The reference model is the run's own, trained on the test split, which belongs to no client. Each number of an input is
    moved by the sign of its gradient and stays within the range that it has in the data.
    """

    steps: PositiveInt = 30

    def moved(
        self, site: Site, x_M: Tensor, y_M: Tensor, ends: tuple[Tensor, Tensor], generator: np.random.Generator
    ) -> Tensor:
        """See :class:`privfl.federation.canaries._moved.MovedCanaries`."""
        reference, (low, high) = _reference(site, generator), ends
        step = (high - low) * (_REACH / self.steps)
        for _ in range(self.steps):
            parts = []
            for some_B, label_B in zip(torch.split(x_M, _BATCH), torch.split(y_M, _BATCH), strict=True):
                input_B = some_B.clone().requires_grad_()
                loss = site.task.loss(reference(input_B), label_B).sum()
                (gradient_B,) = torch.autograd.grad(loss, input_B)
                parts.append(torch.clamp(some_B + step * gradient_B.sign(), low, high))
            x_M = torch.cat(parts)
        return x_M


def _reference(site: Site, generator: np.random.Generator) -> nn.Module:
    """The run's model, trained on the test split, in evaluation mode."""
    module, test = copy.deepcopy(site.module).cpu().train(), site.data.test
    store, y = store_of(site, test.x, test.y), torch.from_numpy(test.y)
    optimizer = torch.optim.SGD(trained(module).values(), lr=_LR, momentum=0.9)
    for _ in range(_STEPS):
        rows_B = torch.from_numpy(generator.integers(0, len(test), _BATCH))
        optimizer.zero_grad()
        site.task.loss(module(store[rows_B]), y[rows_B]).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return module.eval()
