"""Crafted canaries: inputs that a model which never saw them gets as wrong as it can (in the spirit of arXiv 2412.01756)."""

from __future__ import annotations

import copy
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor, nn

from privfl.data.federated import Examples, IntArray
from privfl.data.input_store import InputStore
from privfl.errors import ConfigError
from privfl.federation.canaries import Canaries, Site, classes_of
from privfl.learning.training._guards import lent_randomness
from privfl.vectors import trained

_STEPS: Final = 200
"""The number of steps that train the reference model."""

_BATCH: Final = 64
"""The number of examples in each of them."""

_LR: Final = 0.1
"""The learning rate of the reference model, with a momentum of 0.9."""

_REACH: Final = 3.0
"""The number of ranges of the data by which steps of one sign would move a number, were it not kept in range."""


class Crafted(Canaries):
    """Mislabelled examples whose inputs are moved, in ``steps`` steps, to a place of the largest loss of a reference model.

    The reference model is the run's own, trained on the test split, which belongs to no client. Each number of an input is
    moved by the sign of its gradient and stays within the range that it has in the data.
    """

    steps: PositiveInt = 30

    def examples(self, site: Site, rows_M: IntArray, generator: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        """See :class:`privfl.federation.canaries.Canaries`.

        Raises:
            ConfigError: the labels are no classes, or the data have several inputs.
        """
        classes, data = classes_of(site, self.kind), site.data
        if data.pool.fields:
            raise ConfigError(
                f"canaries.kind = {self.kind!r}: these data have several inputs; set canaries.kind = 'mislabelled' or 'random'"
            )
        y_M = (data.pool.y[rows_M] + generator.integers(1, max(classes, 2), len(rows_M))) % classes
        store = _store(site, data.pool.x[rows_M], y_M)
        ends = _store(site, np.stack([data.pool.x.min(axis=0), data.pool.x.max(axis=0)]), y_M[:2])[:]
        with lent_randomness(torch.device("cpu")):
            x_M = self._moved(site, _reference(site, generator), store[:], torch.from_numpy(y_M), ends)
        if data.pixels is None:
            return x_M.numpy(), y_M
        return store.pixels_of(x_M).mul(255).round().clamp(0, 255).to(torch.uint8).numpy(), y_M

    def _moved(self, site: Site, reference: nn.Module, x_M: Tensor, y_M: Tensor, ends: Tensor) -> Tensor:
        """The inputs after all steps; ``ends`` are the least and the largest value of each number."""
        low, high = torch.minimum(*ends), torch.maximum(*ends)
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


def _store(site: Site, x: NDArray[Any], y: NDArray[Any]) -> InputStore:
    return InputStore.of(Examples(x, y), site.data.pixels, torch.device("cpu"))


def _reference(site: Site, generator: np.random.Generator) -> nn.Module:
    """The run's model, trained on the test split, in evaluation mode."""
    module, test = copy.deepcopy(site.module).cpu().train(), site.data.test
    store, y = _store(site, test.x, test.y), torch.from_numpy(test.y)
    optimizer = torch.optim.SGD(trained(module).values(), lr=_LR, momentum=0.9)
    for _ in range(_STEPS):
        rows_B = torch.from_numpy(generator.integers(0, len(test), _BATCH))
        optimizer.zero_grad()
        site.task.loss(module(store[rows_B]), y[rows_B]).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return module.eval()
