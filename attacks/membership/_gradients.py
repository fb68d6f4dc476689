"""Gradients of single examples, compared with an update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from attacks.membership import FloatArray
from privfl.running.knowledge import Candidates, Network
from privfl.vectors import trained

_NUMBERS: Final = 2**24
"""So many numbers of gradients are in memory at once: 64 MiB of float32."""

Named = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Gradients:
    """The gradient of each candidate's loss, at one model, in evaluation mode.

    Args:
        network: the architecture.
        candidates: the examples.
        model_D: the model's parameters.
    """

    network: Network
    candidates: Candidates
    model_D: Tensor

    def cosines(self, update_D: Tensor, rows_n: NDArray[np.int64]) -> FloatArray:
        """The cosine between minus an update and the gradient of each example, of shape (n,).

        An update is what was added to the model. Training goes against the gradient, so that the cosine of an example that
        was trained on is expected to be positive. It is 0 where a norm is 0 or not finite.

        Args:
            update_D: the update.
            rows_n: which candidates.
        """
        x = self.candidates.x
        module = self.network.at(self.model_D.to(x.device))
        layout = self.network.layout
        towards = {name: part.double() for name, part in layout.unflatten(-update_D.to(x.device)).items()}
        gradients = _gradients_of(module, self.network.task.loss)
        at_once = max(1, _NUMBERS // layout.size)
        found = [np.zeros(0)]
        for start in range(0, len(rows_n), at_once):
            part_n = rows_n[start : start + at_once]
            y_n = torch.from_numpy(self.candidates.y_N[part_n]).to(x.device)
            found.append(_cosines(gradients(x[torch.from_numpy(part_n).to(x.device)], y_n), towards))
        return np.concatenate(found)


def _cosines(gradients: Named, towards: Named) -> FloatArray:
    """Of shape (n,); each gradient of shape (n, ...)."""
    products_n = sum(gradients[name].flatten(1).double() @ part.flatten() for name, part in towards.items())
    squares_n = sum(gradients[name].flatten(1).double().square().sum(1) for name in towards)
    norm = sum(part.square().sum() for part in towards.values())
    assert isinstance(products_n, Tensor)
    cosines_n = products_n / (squares_n * norm) ** 0.5
    return np.asarray(cosines_n.nan_to_num(0.0, 0.0, 0.0).cpu().numpy(), dtype=np.float64)


def _gradients_of(module: nn.Module, losses: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Named]:
    """A function from n inputs and labels to their gradients by parameter, of shape (n, ...)."""
    parameters = {name: value.detach() for name, value in trained(module).items()}

    def loss(parameters: Named, x: Tensor, y: Tensor) -> Tensor:
        return losses(functional_call(module, parameters, (x[None],)), y[None])[0]

    together = vmap(grad(loss), in_dims=(None, 0, 0))

    def gradients(x_n: Tensor, y_n: Tensor) -> Named:
        try:
            found: Named = together(parameters, x_n, y_n)
        except RuntimeError:
            # Some layers, recurrent ones among them, take no batch of batches.
            each = [grad(loss)(parameters, x, y) for x, y in zip(x_n, y_n, strict=True)]
            found = {name: torch.stack([one[name] for one in each]) for name in parameters}
        return found

    return gradients
