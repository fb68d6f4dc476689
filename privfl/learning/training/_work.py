"""The terms of :class:`LocalWork` in a cohort: one row for each client, added to gradients and put back after a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from privfl.learning.training import LocalWork


class CohortWork:
    """The works of K clients, stacked.

    Memory is taken only for the vectors that some client has. Drifts of zeros and masks of ones count as none: such a cohort
    takes the path of plain training, and its results are the same to the bit.

    Args:
        works: one for each client.
        global_D: the round's global model.
        rows: memory of that name, shape (clients, D), of the type and on the device of ``global_D``.
    """

    def __init__(self, works: Sequence[LocalWork], global_D: Tensor, rows: Callable[[str, int], Tensor]) -> None:
        def stacked(name: str, vectors: Sequence[Tensor | None], otherwise: Tensor | float) -> Tensor | None:
            if all(vector_D is None for vector_D in vectors):
                return None
            stacked_KD = rows(name, len(vectors))
            for row_D, vector_D in zip(stacked_KD, vectors, strict=True):
                row_D.copy_(torch.as_tensor(otherwise) if vector_D is None else vector_D)
            return stacked_KD

        require_shapes(works, len(global_D))
        if any(work.contrast is not None for work in works):
            raise ValueError("a contrastive term was given, which only the opacus engine computes")
        self._global_D = global_D
        self.start_KD = stacked("start", [work.start_D for work in works], global_D)
        drift_KD = stacked("drift", [work.drift_D for work in works], 0.0)
        self._drift_KD = drift_KD if drift_KD is not None and bool(drift_KD.any()) else None
        self._centre_KD = stacked("centre", [work.centre_D for work in works], global_D)
        moves_KD = stacked("mask", [work.mask_D for work in works], 1.0)
        self._still_KD = moves_KD == 0 if moves_KD is not None and not bool(moves_KD.all()) else None
        strengths = [work.mu for work in works]
        self._mu = strengths[0]
        self._mu_K1 = None if len({*strengths}) == 1 else global_D.new_tensor(strengths)[:, None]

    @property
    def plain(self) -> bool:
        """Whether a step is that of the settings alone."""
        return self._drift_KD is None and self._still_KD is None and self._mu_K1 is None and not self._mu

    def add_to(self, gradients_KD: Tensor, weights_KD: Tensor) -> None:
        """Add drift and pull, in place, for the first so many clients."""
        clients = len(gradients_KD)
        if self._drift_KD is not None:
            gradients_KD.add_(self._drift_KD[:clients])
        if self._mu_K1 is None and not self._mu:
            return
        off_KD = weights_KD - (self._global_D if self._centre_KD is None else self._centre_KD[:clients])
        if self._mu_K1 is None:
            gradients_KD.add_(off_KD, alpha=self._mu)
        else:
            gradients_KD.addcmul_(off_KD, self._mu_K1[:clients])

    def put_back(self, weights_KD: Tensor) -> None:
        """Reset the entries that do not move to the start's values, in place, for the first so many clients."""
        if self._still_KD is not None:
            clients = len(weights_KD)
            start_KD = self._global_D if self.start_KD is None else self.start_KD[:clients]
            torch.where(self._still_KD[:clients], start_KD, weights_KD, out=weights_KD)


def require_shapes(works: Sequence[LocalWork], size: int) -> None:
    """Raise unless every vector has the model's length.

    Raises:
        ValueError: names the field and both lengths.
    """
    for work in works:
        for name, vector_D in work.vectors.items():
            if tuple(vector_D.shape) != (size,):
                raise ValueError(f"{name} has shape {tuple(vector_D.shape)}; the model has {size} parameters")
