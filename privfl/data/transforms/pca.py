"""Principal components of the inputs, from a covariance with noise that the promise pays for."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from privfl.data.federated import LoadedData
from privfl.data.transforms import Transform, inputs, with_inputs
from privfl.data.transforms._statistics import noised_covariance
from privfl.errors import DataError
from privfl.seeding import Seed


class Pca(Transform):
    """Flattened inputs are projected onto the first principal directions of the pool: (N, ...) -> (N, components).

    The directions are the eigenvectors of Σ a aᵀ with the largest eigenvalues, with a the inputs scaled to norm 1 (Abadi et al.
    2016, section 5.2). The inputs that are projected are not scaled.

    Args:
        components: number of directions, at most the number of inputs.
        noise_multiplier: noise on each entry of Σ a aᵀ; None: none, which no promise allows.
    """

    reads_pool: ClassVar[bool] = True

    components: PositiveInt
    noise_multiplier: PositiveFloat | None = None

    def apply(self, loaded: LoadedData, stream: Seed) -> LoadedData:
        """See the class."""
        train, test = (part.reshape(len(part), -1) for part in inputs(loaded, self.kind))
        if self.components > train.shape[1]:
            raise DataError(
                f"data.transforms: components = {self.components} of 'pca' must be at most {train.shape[1]}, the number of "
                "inputs; lower it"
            )
        covariance = noised_covariance(train.astype(np.float64), self.noise_multiplier or 0.0, stream.numpy())
        _, vectors = np.linalg.eigh(covariance)
        directions = vectors[:, ::-1][:, : self.components]
        # The sign of an eigenvector is arbitrary, and differs between libraries.
        largest = directions[np.abs(directions).argmax(axis=0), np.arange(self.components)]
        projection = (directions * np.sign(largest)).astype(np.float32)
        spent = () if self.noise_multiplier is None else (self.noise_multiplier,)
        return replace(with_inputs(loaded, train @ projection, test @ projection), statistics=(*loaded.statistics, *spent))

    def words(self) -> str:
        """See the contract."""
        noise = "without noise" if self.noise_multiplier is None else f"with noise multiplier {self.noise_multiplier:g}"
        return f"projection onto {self.components} principal components of the pool, {noise}"
