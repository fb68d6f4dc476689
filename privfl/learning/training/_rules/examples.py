"""The record of layers whose per-example gradients are small enough, or strange enough, to be written out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from privfl.learning.training._rules import Record, Runs, Sums
from privfl.learning.training._rules.products import add_rows, square_lengths, without


class ExamplesRecord(Record):
    """Every example's gradient of every parameter, written out, each of shape (N, numel)."""

    def __init__(self, runs: Runs, gradients: dict[str, Tensor]) -> None:
        self.runs, self.gradients, self.names = runs, gradients, tuple(gradients)

    def and_also(self, others: Sequence[ExamplesRecord]) -> ExamplesRecord:
        """See the contract."""
        every = [one.gradients for one in (self, *others)]
        return ExamplesRecord(
            self.runs, {name: sum((one[name] for one in every[1:]), every[0][name]) for name in self.gradients}
        )

    def square_norms(self) -> Tensor:
        """See the contract."""
        squares = [square_lengths(gradient) for gradient in self.gradients.values()]
        return sum(squares[1:], start=squares[0])

    def drop(self, bad_N: Tensor) -> None:
        """See the contract."""
        self.gradients = {name: without(gradient, bad_N) for name, gradient in self.gradients.items()}

    def add(self, factors: Tensor | float, sums: Sums) -> None:
        """See the contract."""
        for name, gradient in self.gradients.items():
            add_rows(self.runs, gradient, factors, sums[name].view(len(sums[name]), -1))
