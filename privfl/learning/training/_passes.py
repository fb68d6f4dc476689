"""One pass of a flat batch through a cohort's model: losses, and a tape of records that yield every gradient."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from privfl.errors import ModelError
from privfl.learning.tasks import Task
from privfl.learning.training._conversion import CohortModel, convert
from privfl.learning.training._guards import STEPS, lent_randomness, unlikely, wave
from privfl.learning.training._rules import Record, Runs, Sums
from privfl.learning.training._rules.dropout import rate_of
from privfl.vectors import trained


def run_pass(
    model: CohortModel,
    weights: Sums,
    runs: Runs,
    x: Tensor,
    y: Tensor,
    share_N: Tensor | None = None,
    generators: Sequence[torch.Generator] = (),
) -> tuple[Tensor, list[Record]]:
    """Run a flat batch forward and backward through a cohort's model.

    Args:
        model: the cohort's model.
        weights: parameter name -> (K, *shape).
        runs: how the N examples fall to the K clients.
        x: the examples, shape (N, ...).
        y: their labels, shape (N, ...).
        share_N: factor of each example's loss, and so of its gradient, shape (N,); None: 1.
        generators: each client's stream for layers that draw.

    Returns:
        each example's loss, and one record for each layer with parameters.

    Raises:
        ModelError: a parameter took no part, or took part twice.
    """
    shared = model.shared
    shared.runs, shared.weights, shared.generators, shared.tape = runs, weights, generators, []
    losses_N = model.task.loss(model.module(x), y)
    (losses_N.sum() if share_N is None else losses_N @ share_N.to(losses_N.dtype)).backward()  # type: ignore[no-untyped-call]
    tape, shared.tape, shared.weights = _summed(shared.tape), [], {}
    names = sorted(name for record in tape for name in record.names)
    if names != sorted(weights):
        odd = sorted(name for name in {*names, *weights} if names.count(name) != 1)
        raise ModelError(f"{odd[0]} takes part {names.count(odd[0])} times in a pass; each parameter must take part once")
    return losses_N.detach(), tape


@torch.no_grad()
def _summed(tape: Sequence[Record]) -> list[Record]:
    """One record for each layer; if it was used more than once, of the sum of its gradients, given a rule for that."""
    by_key: dict[tuple[object, ...], list[Record]] = {}
    for record in tape:
        by_key.setdefault(record.key, []).append(record)
    found = list[Record]()
    for records in by_key.values():
        both = records[0].and_also(records[1:]) if len(records) > 1 else None
        found += records if both is None else [both]
    return found


@dataclass(frozen=True)
class Clipping:
    """Clipping of each example's gradient: as a whole to C, or each of L layers to C/√L (McMahan 2018, section 2.1)."""

    max_grad_norm: float
    scheme: Literal["flat", "per_layer"]

    def groups(self, names: Sequence[str]) -> list[list[int]]:
        """Indices of the parameters that are clipped together; a layer is a module with parameters of its own."""
        if self.scheme == "flat":
            return [list(range(len(names)))]
        layers: dict[str, list[int]] = {}
        for place, name in enumerate(names):
            layers.setdefault(name.rpartition(".")[0], []).append(place)
        return list(layers.values())


def clip_factors(tape: Sequence[Record], clipping: Clipping) -> tuple[list[Tensor], Tensor, Tensor]:
    """min(1, C / ‖g_i‖) for each example (Abadi et al. 2016, algorithm 1), in float64, record by record.

    If an example's gradient is not finite in some layer, it is set to zero in every record of the tape.

    Returns:
        the factors of each record, those of one group the same object; which gradients were clipped, and which were finite; all
        of shape (N,).
    """
    squares = [record.square_norms().double() for record in tape]
    groups = clipping.groups([record.of for record in tape])
    limit = clipping.max_grad_norm / math.sqrt(len(groups))
    norms = [torch.stack([squares[place] for place in group]).sum(0).sqrt() for group in groups]
    # Not isfinite(), which is four kernels; a norm is not below zero.
    finite_N = (torch.stack(norms) < torch.inf).all(0)
    # On a GPU, reading the answer would wait for all launched work; there the gradients are always dropped by mask.
    if finite_N.device.type != "cpu" or not bool(finite_N.all()):
        bad_N = ~finite_N
        for record in tape:
            record.drop(bad_N)
        norms = [norms_N.where(finite_N, 0.0) for norms_N in norms]
    of_group = [(limit / (norms_N + 1e-6)).clamp(max=1.0) for norms_N in norms]
    of_record = {place: factors_N for group, factors_N in zip(groups, of_group, strict=True) for place in group}
    factors = [of_record[place] for place in range(len(tape))]
    return factors, torch.stack([norms_N > limit for norms_N in norms]).any(0), finite_N


def require_same_gradients(model: nn.Module, cohort: CohortModel, x_B: Tensor, *, alone: bool) -> None:
    """Raise unless the cohort's model has the model's gradients, for two clients of different weights.

    The summed gradients of each client and, if examples are clipped, the norm of each example's gradient are compared
    with those that autograd finds for the model itself. Dropout is switched off meanwhile.

    Args:
        model: the model for one client.
        cohort: the cohort's model, converted from it.
        x_B: at least three examples, shape (B, ...), which should tell nothing about real ones.
        alone: whether each example's gradient is the one that it has alone in its batch, as when it is clipped; if not, the
            sum is that of the whole batch, the examples of which a layer may mix.

    Raises:
        ModelError: names the parameter, or says that a layer draws from PyTorch's global generator.
    """
    with _without_dropout(model, cohort):
        if _draws(model, x_B):
            raise ModelError("the model draws random numbers outside of nn.Dropout, and no client's stream can be lent to it")
        for step in STEPS:
            try:
                _compare(model, cohort, x_B, step, alone=alone)
            except ModelError as in_floats:
                try:
                    _compare_in_doubles(model, cohort.task, x_B, step, alone=alone)
                except (RuntimeError, TypeError, ValueError):
                    # A user's own model may hold float32 tensors that do not combine with float64.
                    raise in_floats from None


def _draws(model: nn.Module, x_B: Tensor) -> bool:
    """Whether a pass takes anything from PyTorch's generators, of the CPU or of the inputs' device."""

    def states() -> Tensor:
        there = [torch.cuda.get_rng_state(x_B.device)] if x_B.is_cuda else []
        return torch.cat([torch.get_rng_state(), *there])

    with lent_randomness(x_B.device):
        before = states()
        model(x_B.clone())
        return not torch.equal(states(), before)


@contextmanager
def _without_dropout(model: nn.Module, cohort: CohortModel) -> Iterator[None]:
    # Only layers that draw from a client's stream: any other layer that draws must be noticed.
    pairs = [(model.get_submodule(name), layer) for name, layer in cohort.drawing.items()]
    layers = [(layer, rate_of(one)) for one, other in pairs for layer in (one, other)]
    was = [getattr(layer, rate) for layer, rate in layers]
    try:
        for layer, rate in layers:
            setattr(layer, rate, 0.0)
        yield
    finally:
        for (layer, rate), value in zip(layers, was, strict=True):
            setattr(layer, rate, value)


def _compare_in_doubles(model: nn.Module, task: Task, x_B: Tensor, step: float, *, alone: bool) -> None:
    """Compare in float64, to decide after a difference in float32.

    A unit can be so close to the edge of a ReLU that rounding puts it on one side here and on the other there, which moves a
    gradient by a percent: one ResNet of eight layers in 25 has such a unit. In float64 the same code paths are
    computed 10⁸ times as exactly; an error in them stays as large as before.
    """
    twin = copy.deepcopy(model).double()
    cohort = convert(twin, task)
    cohort.shared.ways_of = next(model.parameters()).dtype
    with _without_dropout(twin, cohort):
        _compare(twin, cohort, x_B.double() if x_B.is_floating_point() else x_B, step, alone=alone)


def _compare(model: nn.Module, cohort: CohortModel, x_B: Tensor, step: float, *, alone: bool) -> None:
    y_B = unlikely(model, cohort.task, x_B)
    # Products take another code path if all clients have as many examples; each path is checked once.
    runs = Runs((len(x_B) - 1, 1) if step else (len(x_B) // 2, len(x_B) - len(x_B) // 2))
    named = {name: value.detach() + step * wave(value.detach()) for name, value in trained(model).items()}
    weights = {name: torch.stack([value, value * 0.75]) for name, value in named.items()}
    # Copies: a model may write into what it is given.
    _, tape = run_pass(cohort, weights, runs, x_B.clone(), y_B)
    sums = {name: torch.zeros_like(value) for name, value in weights.items()}
    with torch.no_grad():
        squares_N = torch.stack([record.square_norms() for record in tape]).sum(0)
        for record in tape:
            record.add(1.0, sums)
    if step and not bool(squares_N.isfinite().all()):
        # Some models have no finite gradients off their own weights, if a parameter stands under a root, say.
        return
    for k, (first, last) in enumerate(runs.spans):
        own = {name: value[k] for name, value in weights.items()}
        spans = [slice(i, i + 1) for i in range(first, last)] if alone else [slice(first, last)]
        rows = [_autograd(model, cohort.task, own, x_B[span].clone(), y_B[span]) for span in spans]
        for name in named:
            _require_close(name, sums[name][k], torch.stack([row[name] for row in rows]).sum(0))
        if not alone:
            continue
        norms_n = torch.stack([torch.stack([value.square().sum() for value in row.values()]).sum() for row in rows])
        _require_close("the norm of an example's gradient", squares_N[first:last].sqrt(), norms_n.sqrt())


def _autograd(model: nn.Module, task: Task, weights: Sums, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
    loss = task.loss(torch.func.functional_call(model, leaves, (x,)), y).sum()
    found = torch.autograd.grad(loss, list(leaves.values()))
    # An embedding table may be set to have a sparse gradient.
    return {name: gradient.to_dense() for name, gradient in zip(leaves, found, strict=True)}


def _require_close(what: str, found: Tensor, expected: Tensor) -> None:
    difference, size = (found - expected).norm(), expected.norm()
    if not difference <= 1e-3 * size + 1e-6:
        raise ModelError(
            f"{what}: the fused engine finds another gradient than autograd (off by {float(difference / (size + 1e-12)):.1%})"
        )
