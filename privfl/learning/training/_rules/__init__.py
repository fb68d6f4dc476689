"""Rules of the fused engine: how one kind of layer runs for many clients at once, each with weights of its own.

The examples of a whole cohort go through the model as one flat batch of N, one client's run of examples after another's.
A layer without parameters does not see the difference (some are replaced all the same, to draw for each client or to be
faster). A layer with parameters is replaced by a :class:`CohortLayer`, which takes the weights of all K clients and, in the
backward pass, leaves a :class:`Record` from which both the norm of every example's gradient and any weighted sum of these
gradients can be had: one backward pass is enough for clipping ("book-keeping", Bu et al. 2023, arXiv 2210.00038).

Each rule is a file; :mod:`privfl.learning.training._conversion` finds the rule for a layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from inspect import signature
from itertools import accumulate, pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from privfl.errors import ModelError

Sums = Mapping[str, Tensor]
"""Parameter name -> (K, *shape), to be added to."""


@dataclass(frozen=True)
class Runs:
    """How a flat batch of N examples falls to K clients: ``sizes[k]`` examples of client k, in order. A run may be empty."""

    sizes: tuple[int, ...]

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """First and one past the last example of each client."""
        return tuple(pairwise(accumulate(self.sizes, initial=0)))

    @cached_property
    def examples(self) -> int:
        """How many there are, N."""
        return sum(self.sizes)

    @cached_property
    def even(self) -> bool:
        """Whether all runs are of one length, so that (N, ...) can be viewed as (K, N / K, ...)."""
        return len(set(self.sizes)) == 1

    def clients(self, device: torch.device) -> Tensor:
        """The client of each example, shape (N,); not to be changed."""
        return _clients(self.sizes, device)

    def sums(self, values_N: Tensor) -> Tensor:
        """Each client's sum over its examples, shape (K,)."""
        if self.even:
            return values_N.view(len(self.sizes), -1).sum(1)
        return values_N.new_zeros(len(self.sizes)).index_add_(0, self.clients(values_N.device), values_N)


@lru_cache(maxsize=64)
def _clients(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    # Every layer of a pass asks, and mostly every step.
    clients_K = torch.arange(len(sizes), device=device)
    if len(set(sizes)) == 1:
        # A GPU is not waited for, as it would be if it were sent the sizes.
        return clients_K.repeat_interleave(sizes[0])
    return torch.repeat_interleave(clients_K, torch.tensor(sizes, device=device), output_size=sum(sizes))


class Record(ABC):
    """Record that a layer leaves in the backward pass: it yields norms and weighted sums of examples' gradients."""

    names: tuple[str, ...]

    @property
    def of(self) -> str:
        """The name of one of the parameters that the gradients are of, which identifies the layer."""
        return self.names[0]

    @property
    def key(self) -> tuple[object, ...]:
        """Key that the records of one parameter share, in a layer that was used more than once."""
        return type(self), self.names

    def and_also(self, others: Sequence[Any]) -> Record | None:  # noqa: ARG002
        """The record of the sum of this gradient and those of others with its key; None: there is no rule for that sum."""
        return None

    @abstractmethod
    def square_norms(self) -> Tensor:
        """The squared L2 norm of each example's gradient over all parameters of the layer, shape (N,)."""

    @abstractmethod
    def drop(self, bad_N: Tensor) -> None:
        """Make the gradients of these examples zero: one that overflowed may hold infinities, and 0 · ∞ is no number."""

    @abstractmethod
    def add(self, factors: Tensor | float, sums: Sums) -> None:
        """Add Σ_i factor_i · g_i over each client's examples to ``sums``; the factors have shape (N,), or are one for all."""


@dataclass
class Pass:
    """State that all layers share while one piece of a cohort's step goes through the model."""

    runs: Runs = Runs(())
    weights: Sums = field(default_factory=dict)
    generators: Sequence[torch.Generator] = ()
    tape: list[Record] = field(default_factory=list)
    product_dtype: torch.dtype | None = None
    # Dtype whose code path is taken; None: the input's dtype.
    ways_of: torch.dtype | None = None
    # A tensor that requires a gradient, so that a layer whose input requires none still has a backward pass.
    anchor: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))


class CohortLayer(nn.Module, ABC):
    """A layer that runs for K clients at once. It has no parameters of its own; they are in ``shared.weights``.

    Frozen parameters are constants, the same for every client. Their gradients are not computed.
    """

    rate: ClassVar[str] = ""
    """The name of the setting that holds the probability of a zero; empty if the layer draws nothing."""

    def __init__(self, layer: nn.Module, prefix: str, shared: Pass) -> None:
        """Take the settings of a layer and the places of its parameters.

        Args:
            layer: the layer to run for many clients.
            prefix: the layer's name in its model; empty for the model itself.
            shared: the same object for all layers of a model.
        """
        super().__init__()
        own = dict(layer.named_parameters())
        self.names = {name: f"{prefix}.{name}" if prefix else name for name, value in own.items() if value.requires_grad}
        self.constants = {name: value.detach() for name, value in own.items() if not value.requires_grad}
        self.shared = shared
        self._first = next(iter(signature(layer.forward).parameters), "")
        # Settings that a model may ask its layers for, ``in_features`` and the like.
        plain = {name: value for name, value in vars(layer).items() if isinstance(value, int | float | str | tuple)}
        vars(self).update({name: value for name, value in plain.items() if not hasattr(self, name)})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's forward pass; its input may come by the name that PyTorch gives it.

        Raises:
            ModelError: the rows of its input are not the batch's examples, so that they would be taken for other clients'.
        """
        if not args and self._first in kwargs:
            args = (kwargs.pop(self._first),)
        if args and (self.names or self.constants):
            self.require_rows(args[0])
        return super().__call__(*args, **kwargs)

    def require_rows(self, x: Tensor) -> None:
        """Raise unless the input has a row for each example: a row would be taken for another client's.

        Raises:
            ModelError: says how many there are.
        """
        require_rows(type(self).__name__.removeprefix("Cohort"), len(x), self.shared.runs.examples)

    @staticmethod
    @abstractmethod
    def takes(layer: nn.Module) -> bool:
        """Whether the rule is for this layer, with the settings that it has."""

    def weight(self, own: str) -> Tensor | None:
        """The parameter of that own name for all K clients, shape (K, *shape); None if the layer has none."""
        if own in self.constants:
            return self.constants[own].expand(len(self.shared.runs.sizes), *self.constants[own].shape)
        return self.shared.weights[self.names[own]] if own in self.names else None

    def trained(self, **own: str) -> dict[str, str]:
        """The names of those of some parameters that are trained, each by the part that it has in a record."""
        return {part: self.names[name] for part, name in own.items() if name in self.names}


def require_rows(layer: str, rows: int, examples: int) -> None:
    """See :meth:`CohortLayer.require_rows`."""
    if rows != examples:
        raise ModelError(
            f"{layer}: {examples} examples came as {rows} rows; keep the batch first, and whole, in every layer "
            "(batch_first=True in attention and recurrent layers; what is the same for all, by .expand(len(x), -1))"
        )


def whole(x: Tensor) -> Tensor:
    """The same numbers in the same memory, as a tensor that is no view: a model cannot write into a rule's view.

    Residual networks do write (``h += x``). It is not for tensors that are kept for a backward pass.
    """
    # PyTorch's own operation for a new tensor that is given away, as in its linear layers.
    given: Tensor = torch.ops.aten._unsafe_view(x, x.shape)
    return given
