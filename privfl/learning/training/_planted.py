"""Planted gradients in the backward pass of the fused engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from privfl.learning.training._rules import Record, Sums


@dataclass(eq=False)
class PlantedRecord(Record):
    """The parts of planted gradients that belong to one parameter, by their E entries that are not zero.

    Args:
        names: the parameter.
        count: N, the number of examples in the pass.
        at_E: the example of each entry.
        client_E: its client.
        column_E: the entry of the flattened parameter.
        value_E: its value.
    """

    names: tuple[str, ...]
    count: int
    at_E: Tensor
    client_E: Tensor
    column_E: Tensor
    value_E: Tensor

    def square_norms(self) -> Tensor:
        """See :class:`privfl.learning.training._rules.Record`; zero for examples that are not planted."""
        return self.value_E.new_zeros(self.count).index_add_(0, self.at_E, self.value_E.square())

    def drop(self, bad_N: Tensor) -> None:
        """See :class:`privfl.learning.training._rules.Record`."""
        self.value_E = self.value_E.masked_fill(bad_N[self.at_E], 0.0)

    def add(self, factors: Tensor | float, sums: Sums) -> None:
        """See :class:`privfl.learning.training._rules.Record`."""
        scaled_E = self.value_E * (factors[self.at_E].to(self.value_E.dtype) if isinstance(factors, Tensor) else factors)
        flat_KF = sums[self.names[0]].flatten(1)
        assert flat_KF.data_ptr() == sums[self.names[0]].data_ptr(), "a view, or the sum would be lost"
        flat_KF.index_put_((self.client_E, self.column_E), scaled_E, accumulate=True)


def planted_records(
    found: Sequence[tuple[int, int, Tensor]], count: int, names: Sequence[str], numels: Sequence[int], device: torch.device
) -> list[Record]:
    """A record for each parameter.

    Args:
        found: place among the examples of the pass, place of its client, and gradient of shape (D,), of each that is planted.
        count: N, the number of examples in the pass.
        names: the parameters.
        numels: the number of entries of each.
        device: the device of the pass.
    """
    columns = [gradient_D.nonzero()[:, 0] for _, _, gradient_D in found]
    lengths = torch.tensor([len(column) for column in columns])
    column_E = torch.cat(columns)
    value_E = torch.cat([gradient_D[column] for (_, _, gradient_D), column in zip(found, columns, strict=True)])
    at_E = torch.tensor([at for at, _, _ in found]).repeat_interleave(lengths)
    client_E = torch.tensor([client for _, client, _ in found]).repeat_interleave(lengths)
    records, begin = list[Record](), 0
    for name, numel in zip(names, numels, strict=True):
        here_E = (column_E >= begin) & (column_E < begin + numel)
        parts = (at_E[here_E], client_E[here_E], column_E[here_E] - begin, value_E[here_E])
        records.append(PlantedRecord((name,), count, *(part.to(device) for part in parts)))
        begin += numel
    return records
