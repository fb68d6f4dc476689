"""How good a model is: accuracy and loss with intervals, and how they are spread over clients."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from privfl import processes
from privfl.auditing import clopper_pearson
from privfl.data.input_store import Inputs
from privfl.errors import ModelError
from privfl.learning.models._tanh import tanh_by_sigmoid
from privfl.records import Interval, Spread
from privfl.vectors import load_vector

_BATCH = 250
"""Of a network with large maps a larger batch takes twice as long, as it leaves the caches (measured)."""

_GPU_BATCH = 2000
"""A GPU has to be given enough to do at once (not measured)."""


def prepared(model: nn.Module) -> nn.Module:
    """The model in the form that a CPU evaluates fastest; to rounding, its outputs stay.

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


def logits(model: nn.Module, vector_D: Tensor, x: Inputs | Tensor) -> Tensor:
    """The model's logits in evaluation mode, on a CPU by as many threads as this process was given.

    Each thread has whole batches and a copy of the model, so that neither their number nor their order shows in the result.

    Args:
        model: scratch space of the right architecture.
        vector_D: the parameters to use.
        x: N inputs.

    Returns:
        shape (N, classes), on the device of ``x``.
    """
    load_vector(model, vector_D)
    model.eval()
    size = _BATCH if x.device.type == "cpu" else _GPU_BATCH
    # Of nothing, one batch of nothing, which has the right shape.
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
def _outputs(model: nn.Module, x: Inputs | Tensor, batches: Sequence[slice]) -> list[Tensor]:
    # Whether gradients are kept is each thread's own setting.
    return [model(x[batch]) for batch in batches]


def correct(logits_NC: Tensor, y_N: Tensor) -> Tensor:
    """Which examples are labelled correctly, of shape (N,). An example that overflows is not: it must not end a run."""
    return (logits_NC.argmax(1) == y_N) & logits_NC.isfinite().all(dim=1)


def accuracy(logits_NC: Tensor, y_N: Tensor, level: float = 0.95) -> Interval:
    """Share of correct predictions, with the exact interval of Clopper & Pearson (1934)."""
    count, right = len(y_N), int(correct(logits_NC, y_N).sum())
    low, high = clopper_pearson(right, count, level)
    return Interval(value=right / count, low=float(low), high=float(high), n=count, level=level)


def mean_loss(logits_NC: Tensor, y_N: Tensor, level: float = 0.95) -> Interval:
    """Mean cross entropy in nats, with the normal interval (the central limit theorem over examples).

    Raises:
        ModelError: no example's loss is finite; the model diverged.
    """
    loss_N = cross_entropy(logits_NC.double(), y_N, reduction="none").cpu().numpy()
    loss_N = loss_N[np.isfinite(loss_N)]
    if len(loss_N) == 0:
        raise ModelError("the model's outputs are not finite, training diverged; lower training.lr")
    mean = float(loss_N.mean())
    half = float(stats.norm.ppf((1 + level) / 2) * loss_N.std(ddof=1) / np.sqrt(len(loss_N))) if len(loss_N) > 1 else 0.0
    return Interval(value=mean, low=mean - half, high=mean + half, n=len(loss_N), level=level)


def client_spread(logits_NC: Tensor, y_N: Tensor, owner_N: NDArray[np.int64]) -> Spread | None:
    """Accuracy on each client's own examples, spread over the clients that have any.

    Returns:
        None where there is no example.
    """
    if len(owner_N) == 0:
        return None
    correct_N = correct(logits_NC, y_N).cpu().numpy()
    counts = np.bincount(owner_N)
    shares = np.bincount(owner_N, weights=correct_N)[counts > 0] / counts[counts > 0]
    return spread(shares)


def spread(values: Sequence[float] | NDArray[np.float64]) -> Spread:
    """Minimum, 10th, 50th and 90th percentile, maximum."""
    points = np.percentile(np.asarray(values, dtype=np.float64), [0, 10, 50, 90, 100])
    return Spread(**dict(zip(("minimum", "p10", "median", "p90", "maximum"), map(float, points), strict=True)))
