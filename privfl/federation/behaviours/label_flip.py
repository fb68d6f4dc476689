"""Label flipping: some clients train on wrong labels (Fang et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from privfl.errors import ConfigError
from privfl.federation.behaviours._share import SharedBehaviour


class LabelFlip(SharedBehaviour):
    """Label flipping: class y becomes C − 1 − y for all examples of such a client. C is the number of classes."""

    def labels(self, y: Tensor, classes: int) -> Tensor:
        """The flipped labels C − 1 − y.

        Raises:
            ConfigError: the task has no class labels.
        """
        if y.dtype != torch.int64 or y.ndim != 1 or classes < 2:
            raise ConfigError(
                f"behaviour.kind = {self.kind!r}: needs one class of several for each example, and labels of this task are "
                f"{str(y.dtype).removeprefix('torch.')} of shape (N{', ...' if y.ndim > 1 else ','}); set 'sign_flip'"
            )
        return classes - 1 - y
