"""What every engine must be sure of before it trains a model privately."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from opacus.utils.module_utils import trainable_modules
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from privfl.errors import ModelError


def require_per_example(model: nn.Module, known: Callable[[nn.Module], bool] = lambda _: False) -> None:
    """Raise unless each example's output, and so its gradient, depends on that example alone.

    Opacus' validator lets a BatchNorm pass whose affine parameters are absent or frozen, though it mixes the batch.

    Args:
        model: what is to be trained.
        known: which layers the engine has rules for: Opacus refuses some only because its hooks do not bear them.

    Raises:
        ModelError: names the layer and what to use instead.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ModelError(
                f"{name} is a {type(module).__name__}, which mixes the examples of a batch: no per-example clipping is sound; "
                "replace it by GroupNorm, or set privacy.kind = 'none'"
            )
    mistakes = [
        mistake
        for _, module in trainable_modules(model)
        if type(module) in ModuleValidator.VALIDATORS and not known(module)
        for mistake in ModuleValidator.VALIDATORS[type(module)](module)
    ]
    if mistakes:
        raise ModelError(f"Opacus cannot train this model privately: {str(mistakes[0]).splitlines()[0]}")


@torch.no_grad()
def require_no_mixing(model: nn.Module, x_1: Tensor) -> None:
    """Raise when an example's logits change with its neighbour in the batch: what no list of layer types can rule out.

    Args:
        model: in training mode.
        x_1: one example, shape (1, ...).

    Raises:
        ModelError: some layer mixes the examples of a batch.
    """
    state = torch.get_rng_state()
    logits = []
    for neighbour in (torch.zeros_like(x_1), torch.ones_like(x_1)):
        torch.set_rng_state(state)
        logits.append(model(torch.cat([x_1, neighbour]))[0])
    if not torch.allclose(logits[0], logits[1], rtol=1e-4, atol=1e-5):
        raise ModelError(
            "an example's output depends on the other examples of its batch, so no per-example clipping is sound; "
            "find the layer that mixes the batch and replace it, or set privacy.kind = 'none'"
        )


def probe_like(x: Tensor, count: int) -> Tensor:
    """Inputs of the shape of real ones that tell nothing about them, so that no check depends on private data.

    Returns:
        shape (count, ...), values of a sine; zeros and ones where real ones are integers.
    """
    shape = (count, *x.shape[1:])
    numbers = torch.arange(math.prod(shape), dtype=x.dtype, device=x.device)
    return (numbers.sin() if x.is_floating_point() else numbers % 2).view(shape)
