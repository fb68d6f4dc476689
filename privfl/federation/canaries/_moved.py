"""Canaries that are mislabelled examples whose inputs are moved, within the range of the data."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privfl.data.federated import Examples, IntArray
from privfl.data.input_store import InputStore
from privfl.errors import ConfigError
from privfl.federation.canaries import Canaries, Site, classes_of
from privfl.learning.training._guards import lent_randomness


class MovedCanaries(Canaries):
    """Mislabelled examples, moved by :meth:`moved`."""

    def examples(self, site: Site, rows_M: IntArray, generator: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        """See :class:`privfl.federation.canaries.Canaries`.

        Raises:
            ConfigError: the labels are no classes, or the data have several inputs, or tokens.
        """
        classes, data = classes_of(site, self.kind), site.data
        if data.pool.fields:
            raise ConfigError(
                f"canaries.kind = {self.kind!r}: these data have several inputs; set canaries.kind = 'mislabelled' or 'random'"
            )
        if any(isinstance(one, nn.Embedding) for one in site.module.modules()):
            raise ConfigError(f"canaries.kind = {self.kind!r}: inputs are tokens, which cannot be moved; set 'mislabelled'")
        y_M = (data.pool.y[rows_M] + generator.integers(1, max(classes, 2), len(rows_M))) % classes
        store = store_of(site, data.pool.x[rows_M], y_M)
        ends = store_of(site, np.stack([data.pool.x.min(axis=0), data.pool.x.max(axis=0)]), y_M[:2])[:]
        low, high = torch.minimum(*ends), torch.maximum(*ends)
        with lent_randomness(torch.device("cpu")):
            x_M = self.moved(site, store[:], torch.from_numpy(y_M), (low, high), generator)
        if data.pixels is None:
            return x_M.numpy(), y_M
        return store.pixels_of(x_M).mul(255).round().clamp(0, 255).to(torch.uint8).numpy(), y_M

    @abstractmethod
    def moved(
        self, site: Site, x_M: Tensor, y_M: Tensor, ends: tuple[Tensor, Tensor], generator: np.random.Generator
    ) -> Tensor:
        """The inputs where they are moved to.

        Args:
            site: where the canaries go.
            x_M: the inputs before.
            y_M: their labels, which are wrong.
            ends: the least and the largest value of each number in the data.
            generator: of these draws alone.
        """


def store_of(site: Site, x: NDArray[Any], y: NDArray[Any]) -> InputStore:
    """Inputs as the run's models take them."""
    return InputStore.of(Examples(x, y), site.data.pixels, torch.device("cpu"))
