"""Named inputs: several inputs of one example, packed into one row of float32 and unpacked again without loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privfl.errors import DataError

_EXACT = 2**24
"""All integers up to this magnitude are exact in float32."""


@dataclass(frozen=True)
class Field:
    """One input: its name, its shape for one example, and whether it is int64 (else float32)."""

    name: str
    shape: tuple[int, ...]
    whole: bool

    @property
    def size(self) -> int:
        """The number of a row's elements that it takes."""
        return math.prod(self.shape)


def packed(inputs: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], tuple[Field, ...]]:
    """Pack the inputs into one row for each example.

    Args:
        inputs: name -> array of shape (N, ...), float32 or int64.

    Returns:
        The rows, shape (N, sum of the inputs' sizes), float32, with the inputs in the order of their names; and the inputs'
        names, shapes and types in that order.

    Raises:
        DataError: an input cannot be packed; the message names it and the remedy.
    """
    fields = tuple(_field(name, inputs[name]) for name in sorted(inputs))
    if not fields:
        raise DataError("the inputs of an example are an empty dictionary; give at least one, {name: array}")
    lengths = {len(inputs[field.name]) for field in fields}
    if len(lengths) != 1:
        found = ", ".join(f"{field.name}: {len(inputs[field.name])}" for field in fields)
        raise DataError(f"the inputs have other numbers of examples ({found}); give each a row for each example")
    rows = [inputs[field.name].reshape(*lengths, field.size).astype(np.float32) for field in fields]
    return np.concatenate(rows, axis=1), fields


def unpacked(rows_B: Tensor, fields: Iterable[Field], names: Sequence[str]) -> dict[str, Tensor]:
    """Unpack some inputs of a batch.

    Args:
        rows_B: shape (B, row size), as :func:`packed` returns them.
        fields: all inputs of a row, in order.
        names: the inputs to return, in this order.

    Returns:
        name -> shape (B, ...), int64 if the field is whole, else of the type of the rows.
    """
    found, place = dict[str, Tensor](), 0
    for field in fields:
        part = rows_B[:, place : place + field.size].reshape(len(rows_B), *field.shape)
        found[field.name] = part.to(torch.int64) if field.whole else part
        place += field.size
    return {name: found[name] for name in names}


def _field(name: str, values: NDArray[Any]) -> Field:
    if not isinstance(values, np.ndarray) or values.ndim == 0:
        raise DataError(f"input {name!r} is a {type(values).__name__}; it must be a NumPy array with a row for each example")
    if not name.isidentifier():
        raise DataError(f"input {name!r}: its name is no Python name; rename it, for the model takes it as a keyword")
    if values.dtype not in (np.float32, np.int64):
        kinds = "np.float32) if these are numbers, np.int64) if they are words or categories"
        raise DataError(f"input {name!r} is {values.dtype}; it must be float32 or int64: .astype({kinds}")
    whole = values.dtype == np.int64
    if whole and len(values) and int(np.abs(values).max()) > _EXACT:
        raise DataError(
            f"input {name!r} has integers beyond {_EXACT}; np.unique(..., return_inverse=True)[1] numbers them anew"
        )
    return Field(name, values.shape[1:], whole)
