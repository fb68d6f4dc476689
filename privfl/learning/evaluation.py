"""A model's outputs in evaluation, and how a task's headline is spread over clients."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privfl import processes
from privfl.data.input_store import InputStore
from privfl.learning.models._tanh import tanh_by_sigmoid
from privfl.learning.tasks import Task
from privfl.records import Spread
from privfl.vectors import load_vector

_BATCH = 250
"""Examples in a batch on a CPU; with large maps a larger one leaves the caches and takes twice as long (measured)."""

_GPU_BATCH = 2000
"""Examples in a batch on a GPU, which has to be given enough to do at once (not measured)."""


def prepared(model: nn.Module) -> nn.Module:
    """The model in the form that a CPU evaluates fastest; its outputs are the same up to rounding.

    Convolutions and poolings take half as long with channels last, group norms several times as long. The model is changed.
    """
    first = any(isinstance(layer, nn.GroupNorm) for layer in model.modules())
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Tanh:
                setattr(parent, name, _Tanh())
    layout = torch.contiguous_format if first else torch.channels_last
    changed: nn.Module = model.to(memory_format=layout)  # type: ignore[call-overload]
    return changed


class _Tanh(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        fast = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()
        return tanh_by_sigmoid(x) if fast else x.tanh()


def logits(model: nn.Module, vector_D: Tensor, x: InputStore | Tensor) -> Tensor:
    """The model's outputs in evaluation mode, on a CPU by as many threads as this process was given.

    Each thread has whole batches and a copy of the model, so that neither their number nor their order shows in the result.

    Args:
        model: scratch space of the right architecture.
        vector_D: the parameters to use.
        x: N inputs.

    Returns:
        shape (N, ..., O), on the device of ``x``.
    """
    load_vector(model, vector_D)
    model.eval()
    size = _BATCH if x.device.type == "cpu" else _GPU_BATCH
    # Keep one empty batch so that the output has the right shape.
    batches = [slice(start, start + size) for start in range(0, max(len(x), 1), size)]
    threads = min(processes.threads(), len(batches)) if x.device.type == "cpu" else 1
    if threads == 1:
        return torch.cat(_outputs(model, x, batches))
    found: list[Tensor] = [vector_D] * len(batches)
    with ThreadPoolExecutor(threads) as pool:
        shares = [pool.submit(_outputs, copy.deepcopy(model), x, batches[first::threads]) for first in range(threads)]
        for first, share in enumerate(shares):
            found[first::threads] = share.result()
    return torch.cat(found)


@torch.no_grad()
def _outputs(model: nn.Module, x: InputStore | Tensor, batches: Sequence[slice]) -> list[Tensor]:
    # Whether gradients are kept is each thread's own setting.
    return [model(x[batch]) for batch in batches]


def client_values(task: Task, outputs: Tensor, y: Tensor, owner_N: NDArray[np.int64]) -> dict[int, float]:
    """The task's headline on each client's own examples.

    Returns:
        client -> value, for the clients that have an example whose output is finite.
    """
    if len(owner_N) == 0:
        return {}
    above_N, below_N = (part.cpu().double().numpy() for part in task.tallies(outputs, y))
    finite_N = np.isfinite(above_N) & np.isfinite(below_N)
    above_K, below_K = (np.bincount(owner_N[finite_N], weights=part[finite_N]) for part in (above_N, below_N))
    any_K = below_K > 0
    values = task.scaled(above_K[any_K] / below_K[any_K])
    return dict(zip(np.flatnonzero(any_K).tolist(), map(float, values), strict=True))


def client_spread(task: Task, outputs: Tensor, y: Tensor, owner_N: NDArray[np.int64]) -> Spread | None:
    """The task's headline on each client's own examples, spread over the clients that have any.

    Returns:
        None if there is no example, or none whose output is finite.
    """
    found = client_values(task, outputs, y, owner_N)
    return spread(list(found.values())) if found else None


def spread(values: Sequence[float] | NDArray[np.float64]) -> Spread:
    """Minimum, 10th, 50th and 90th percentile, maximum, mean."""
    values_K = np.asarray(values, dtype=np.float64)
    points = dict(
        zip(("minimum", "p10", "median", "p90", "maximum"), np.percentile(values_K, [0, 10, 50, 90, 100]), strict=True)
    )
    return Spread(**{name: float(point) for name, point in points.items()}, mean=float(values_K.mean()))
