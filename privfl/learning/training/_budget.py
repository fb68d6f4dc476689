"""How many clients and examples fit the memory budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from privfl.errors import ConfigError
from privfl.learning.training._conversion import CohortModel
from privfl.learning.training._passes import run_pass
from privfl.learning.training._rules import Record, Runs, Sums

_MIB = 2**20

_CPU_BUDGET = 192
"""Default budget on a CPU in MiB. Less is slower for layers that are dear to call, more for large blocks (measured)."""

_ROWS = 3
"""Vectors of length D that are counted for each client: weights, noisy gradient sum, momentum."""


@dataclass(frozen=True)
class Limits:
    """How many clients train together, and how many examples go through the model together."""

    clients: int
    examples: int

    def clients_with(self, rows: int) -> int:
        """How many clients train together if each needs that many vectors of length D more."""
        return max(1, self.clients * _ROWS // (_ROWS + rows))

    @classmethod
    def measure(cls, model: CohortModel, weights: Sums, x_B: Tensor, budget: int | None) -> Limits:
        """Measure the memory of an example by sending some through the model.

        Args:
            model: the cohort's model.
            weights: for one client, parameter name -> (1, *shape).
            x_B: examples of the right shape, B ≥ 1.
            budget: MiB; None: 192 on a CPU, half of a GPU's memory, and more if one client and one example need more.
                It does not depend on free memory: the place of a batch's cut shows in a result's last bits.

        Raises:
            ConfigError: the budget is too small for one client and one example.
        """
        client = _ROWS * sum(value.nbytes for value in weights.values())
        example = example_bytes(model, weights, x_B)
        least = -(-(client + example) // _MIB)
        if budget is None:
            half = torch.cuda.get_device_properties(x_B.device).total_memory // 2 // _MIB if x_B.is_cuda else _CPU_BUDGET
            budget = max(half, least)
        if budget < least:
            raise ConfigError(
                f"training.memory_budget = {budget}: one client of this model takes {client / _MIB:.1f} MiB and one example "
                f"{example / _MIB:.1f} MiB; give at least {least}"
            )
        # Half for the clients' rows and half for examples, but never less than one of each.
        whole, half = budget * _MIB, budget * _MIB // 2
        return cls(max(1, min(half, whole - example) // client), max(1, min(half, whole - client) // example))


def example_bytes(model: CohortModel, weights: Sums, x_B: Tensor) -> int:
    """Bytes that one example takes between its forward pass and its clipped sum."""
    kept: dict[int, int] = {value.untyped_storage().data_ptr(): 0 for value in weights.values()}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    runs, generators = Runs((len(x_B),)), [torch.Generator(x_B.device)]
    shared = model.shared
    shared.runs, shared.weights, shared.generators = runs, weights, generators
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        outputs = model.module(x_B)
    y_B = model.task.unlikely(outputs.detach())
    _, tape = run_pass(model, weights, runs, x_B, y_B, generators=generators)
    with torch.no_grad():
        for record in tape:
            record.square_norms()
    return (sum(kept.values()) + sum(map(_held_bytes, tape))) // len(x_B)


def _held_bytes(record: Record) -> int:
    found = list(vars(record).values())
    for value in list(found):
        found.extend(value.values() if isinstance(value, dict) else ())
    return sum(value.nbytes for value in found if isinstance(value, Tensor))
