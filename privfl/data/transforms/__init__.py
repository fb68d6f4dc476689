"""SHELF of transforms of a model's inputs: features and normalisation. The file's name is its name in a configuration.

``data.transforms`` lists them in the order in which they are applied, after the data are read and before they are divided among
clients. An item is one module with one class that derives from :class:`RowTransform`, if an example's result depends on that
example alone, or from :class:`Transform`. Only the former are free: a result that depends on other examples of the pool reveals
something about them, so that a promise must pay for the noised statistic that it is computed from.
"""

from __future__ import annotations

import functools
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privfl.config import DataConfig, TransformConfig
from privfl.data.federated import Examples, LoadedData
from privfl.data.input_store import InputStore
from privfl.data.transforms._cache import Key, cached
from privfl.errors import DataError
from privfl.seeding import Seed
from privfl.tables import narrow

_BATCH = 256


class Transform(TransformConfig, ABC):
    """The contract of this shelf."""

    @abstractmethod
    def apply(self, loaded: LoadedData, stream: Seed) -> LoadedData:
        """The data with other inputs.

        Args:
            loaded: the data after the transforms before this one.
            stream: source of the noise on a statistic of the pool. It is named by the data and by this transform's settings.

        Returns:
            the data; if noised statistics of the pool were used, ``statistics`` has their noise multipliers at its end.

        Raises:
            DataError: the data cannot be transformed so.
        """

    @abstractmethod
    def words(self) -> str:
        """The transform in a few words, for the page."""


class RowTransform(Transform, ABC):
    """A transform by which an example's result depends on that example alone, so that it costs no privacy."""

    costly: ClassVar[bool] = False
    """Whether results are worth a file in the cache."""

    packages: ClassVar[tuple[str, ...]] = ()
    """Packages of which a new version may give other results."""

    @abstractmethod
    def rows(self, x_B: Tensor) -> Tensor:
        """The transformed inputs, float32, of shape (B, ...), from inputs of shape (B, ...).

        Raises:
            DataError: inputs of that shape cannot be transformed so.
        """

    def apply(self, loaded: LoadedData, stream: Seed) -> LoadedData:  # noqa: ARG002
        """See the contract."""
        return _by_rows(loaded, (self,))


def transformed(loaded: LoadedData, config: DataConfig, stream: Seed) -> LoadedData:
    """The data after all transforms of these settings.

    Args:
        loaded: the data as they were read.
        config: their settings.
        stream: source of the noise on statistics of the pool.

    Raises:
        DataError: a transform does not fit the data.
    """
    items = [narrow(item, Transform) for item in config.transforms]
    for by_rows, group in itertools.groupby(items, lambda item: isinstance(item, RowTransform)):
        if by_rows:
            loaded = _by_rows(loaded, tuple(narrow(item, RowTransform) for item in group))
        else:
            for item in group:
                # Runs on other data, or with other settings, must not share the noise.
                loaded = item.apply(loaded, stream / loaded.digest() / item.model_dump_json())
    if not items:
        return loaded
    words = ", then ".join(item.words() for item in items)
    return replace(loaded, provenance=f"{loaded.provenance} Inputs were transformed by {words}.")


def inputs(loaded: LoadedData, kind: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The inputs of the pool and of the test part as numbers, shapes (N, ...) and (M, ...); images of bytes are converted.

    Raises:
        DataError: an example has several inputs.
    """
    _require_one_input(loaded, kind)
    found = [InputStore.of(part, loaded.pixels, torch.device("cpu"))[:].numpy() for part in (loaded.train, loaded.test)]
    return found[0], found[1]


def with_inputs(loaded: LoadedData, train: NDArray[np.float32], test: NDArray[np.float32]) -> LoadedData:
    """The same data with these inputs, float32, of shapes (N, ...) and (M, ...)."""
    return replace(loaded, train=Examples(train, loaded.train.y), test=Examples(test, loaded.test.y), pixels=None)


def _require_one_input(loaded: LoadedData, kind: str) -> None:
    if loaded.train.fields:
        names = ", ".join(field.name for field in loaded.train.fields)
        raise DataError(f"data.transforms: {kind!r} takes one input, and these examples have several ({names}); take it out")


def _by_rows(loaded: LoadedData, chain: Sequence[RowTransform]) -> LoadedData:
    """The data after transforms of single examples, which are applied batch by batch, so that little memory is needed."""
    _require_one_input(loaded, chain[0].kind)
    parts = (loaded.train, loaded.test)
    stores = [InputStore.of(part, loaded.pixels, torch.device("cpu")) for part in parts]
    shape = tuple(_rows(chain, stores[0][:2]).shape[1:])

    def fill(store: InputStore, out: NDArray[np.float32]) -> None:
        for begin in range(0, len(store), _BATCH):
            out[begin : begin + _BATCH] = _rows(chain, store[begin : begin + _BATCH]).numpy()

    made = []
    for store in stores:
        if any(item.costly for item in chain):
            packages = tuple(sorted({name for item in chain for name in item.packages}))
            settings = tuple(item.model_dump_json() for item in chain)
            key = Key(store.kept.numpy(), repr(loaded.pixels), settings, packages, (len(store), *shape))
            made.append(cached(key, functools.partial(fill, store)))
        else:
            made.append(np.empty((len(store), *shape), np.float32))
            fill(store, made[-1])
    return with_inputs(loaded, *made)


def _rows(chain: Sequence[RowTransform], x_B: Tensor) -> Tensor:
    for item in chain:
        x_B = item.rows(x_B)
    return x_B
