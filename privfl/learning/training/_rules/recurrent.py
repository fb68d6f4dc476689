"""The rules for recurrent layers: ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN``, as PyTorch's users write them.

They may have any number of layers and either or both directions. The batch may be first or second, sequences packed
or of one length, with or without a state to start from. Everything but one layer in one direction is the same for all
kinds, and here. Shapes: N examples, T steps, I inputs, H hidden units, O = H times the kind's gates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from privfl.errors import ModelError
from privfl.learning.training._rules import CohortLayer, require_rows
from privfl.learning.training._rules.dropout import dropped
from privfl.learning.training._rules.lstm import lstm_steps
from privfl.learning.training._rules.products import Product

State = tuple[Tensor, ...]
"""The state of a layer: the hidden state, and for an LSTM the cell too."""


def next_state(mode: str, of_input: Tensor, of_state: Tensor, state: State) -> State:
    """One step of a cell: the pre-activations of input and state, (N, O) each, and the state before -> the state after.

    The equations are those of ``nn.RNNCell``, ``nn.GRUCell`` and ``nn.LSTMCell``.
    """
    if mode.startswith("RNN"):
        z = of_input + of_state
        return (z.relu() if mode == "RNN_RELU" else z.tanh(),)
    if mode == "GRU":
        (reset_x, update_x, new_x), (reset_h, update_h, new_h) = (z.chunk(3, dim=1) for z in (of_input, of_state))
        reset, update = (reset_x + reset_h).sigmoid(), (update_x + update_h).sigmoid()
        new = (new_x + reset * new_h).tanh()
        # h' = (1 − u) n + u h
        return (new + update * (state[0] - new),)
    let_in, forget, new, let_out = (of_input + of_state).chunk(4, dim=1)
    cell = forget.sigmoid() * state[1] + let_in.sigmoid() * new.tanh()
    return let_out.sigmoid() * cell.tanh(), cell


class Recurrent(nn.Module, ABC):
    """Base of all recurrent layers, with the settings of the layer that it is made of."""

    mode: str
    num_layers: int
    hidden_size: int
    proj_size: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool

    @abstractmethod
    def product(self, of: str, suffix: str, x_NTP: Tensor) -> Tensor:
        """The product with the matrix of inputs, states or outputs (``ih``, ``hh``, ``hr``), (N, T, P) -> (N, T, O)."""

    @abstractmethod
    def drop(self, x_NTH: Tensor) -> Tensor:
        """Dropout between two layers."""

    def steps(self, x_NTI: Tensor, suffix: str, start: State | None) -> tuple[Tensor, ...]:
        """One layer in one direction over all steps, from a state or from zeros; its parameters' names end in ``suffix``.

        Returns:
            the states after each step, (N, T, H), and of an LSTM the cells.
        """
        widths = (self.proj_size or self.hidden_size, self.hidden_size)[: 1 + (self.mode == "LSTM")]
        state = start or tuple(x_NTI.new_zeros(len(x_NTI), width) for width in widths)
        found = []
        for of_input_NO in self.product("ih", suffix, x_NTI).unbind(1):
            state = next_state(self.mode, of_input_NO, self.product("hh", suffix, state[0].unsqueeze(1)).squeeze(1), state)
            if self.proj_size:
                state = (self.product("hr", suffix, state[0].unsqueeze(1)).squeeze(1), *state[1:])
            found.append(state)
        return tuple(torch.stack(of_steps, dim=1) for of_steps in zip(*found, strict=True))

    def flatten_parameters(self) -> None:
        """Models may ask for it; there is nothing to do."""

    def run(self, given: Tensor | PackedSequence, hx: Any = None) -> tuple[Tensor | PackedSequence, Any]:
        """PyTorch's forward pass: each step's state, and the last states, (layers · directions, N, H), of an LSTM cells too.

        Raises:
            ModelError: the input is no batch of sequences.
        """
        x, lengths_N = self._unpacked(given)
        start: list[Tensor] | None = None
        if hx is not None:
            start = list(hx) if isinstance(hx, tuple | list) else [hx]
        directions = ("", "_reverse") if self.bidirectional else ("",)
        last: list[tuple[Tensor, ...]] = []
        for number in range(self.num_layers):
            found = []
            for way, direction in enumerate(directions):
                here = number * len(directions) + way
                begin = None if start is None else tuple(of_all[here] for of_all in start)
                ordered = _reversed(x, lengths_N) if direction else x
                every = self.steps(ordered, f"_l{number}{direction}", begin)
                last.append(tuple(_ends(of_steps, lengths_N) for of_steps in every))
                found.append(_reversed(every[0], lengths_N) if direction else every[0])
            x = torch.cat(found, dim=2) if self.bidirectional else found[0]
            if self.dropout and self.training and number + 1 < self.num_layers:
                x = self.drop(x)
        ends = [torch.stack(of_layers) for of_layers in zip(*last, strict=True)]
        return self._packed(x, given, lengths_N), ends[0] if len(ends) == 1 else tuple(ends)

    def _unpacked(self, given: Tensor | PackedSequence) -> tuple[Tensor, Tensor | None]:
        """(N, T, I), and the length of each sequence if they are packed."""
        if isinstance(given, PackedSequence):
            x, lengths_N = pad_packed_sequence(given, batch_first=True)
            return x, lengths_N.to(x.device)
        if given.dim() != 3 or not given.shape[1 if self.batch_first else 0]:
            raise ModelError(
                f"nn.{self.mode.partition('_')[0]} is given {tuple(given.shape)}; the fused engine takes batches of sequences, "
                "(examples, steps ≥ 1, inputs)"
            )
        return given if self.batch_first else given.transpose(0, 1), None

    def _packed(self, x_NTH: Tensor, given: Tensor | PackedSequence, lengths_N: Tensor | None) -> Tensor | PackedSequence:
        """The output in the input's form, in memory that nothing else needs: a model may write into it."""
        if not isinstance(given, PackedSequence):
            return (x_NTH if self.batch_first else x_NTH.transpose(0, 1)).clone(memory_format=torch.contiguous_format)
        assert lengths_N is not None
        if given.sorted_indices is not None:
            x_NTH, lengths_N = x_NTH[given.sorted_indices], lengths_N[given.sorted_indices]
        packed = pack_padded_sequence(x_NTH, lengths_N.cpu(), batch_first=True)
        return PackedSequence(packed.data, packed.batch_sizes, given.sorted_indices, given.unsorted_indices)


def _reversed(x_NTI: Tensor, lengths_N: Tensor | None) -> Tensor:
    """Each sequence from its end to its beginning; its padding stays behind it."""
    if lengths_N is None:
        return x_NTI.flip(1)
    step_T = torch.arange(x_NTI.shape[1], device=x_NTI.device)
    back_NT = lengths_N[:, None] - 1 - step_T
    return x_NTI.gather(1, torch.where(back_NT >= 0, back_NT, step_T)[:, :, None].expand_as(x_NTI))


def _ends(x_NTH: Tensor, lengths_N: Tensor | None) -> Tensor:
    """The last step of each sequence, (N, H)."""
    if lengths_N is None:
        return x_NTH[:, -1]
    return x_NTH[torch.arange(len(x_NTH), device=x_NTH.device), lengths_N - 1]


class CohortRecurrent(CohortLayer, Recurrent):
    """The recurrent layer of client k over the sequences of client k."""

    rate: ClassVar[str] = "dropout"

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """See the contract; any settings are taken."""
        return type(layer) in (nn.LSTM, nn.GRU, nn.RNN)

    def require_rows(self, x: Tensor | PackedSequence) -> None:
        """See the contract; the batch may come second."""
        place = 1 if x.data.dim() == 3 and not self.batch_first else 0
        rows = int(x.batch_sizes[0]) if isinstance(x, PackedSequence) else x.shape[place]
        require_rows(f"nn.{self.mode.partition('_')[0]}", rows, self.shared.runs.examples)

    def forward(self, x: Tensor | PackedSequence, hx: Any = None) -> tuple[Tensor | PackedSequence, Any]:
        """See :meth:`Recurrent.run`."""
        return self.run(x, hx)

    def drop(self, x_NTH: Tensor) -> Tensor:
        """From each client's own stream."""
        return dropped(x_NTH, self.dropout, self.shared)

    def steps(self, x_NTI: Tensor, suffix: str, start: State | None) -> tuple[Tensor, ...]:
        """See the contract."""
        by_hand = self.mode == "LSTM" and not self.proj_size
        return lstm_steps(self, x_NTI, suffix, start) if by_hand else super().steps(x_NTI, suffix, start)

    def product(self, of: str, suffix: str, x_NTP: Tensor) -> Tensor:
        """See the contract; the gradients of all uses of a matrix are summed."""
        part = _Part(self, f"weight_{of}{suffix}", f"bias_{of}{suffix}")
        weight_KOP, bias_KO = (self.weight(f"{kind}_{of}{suffix}") for kind in ("weight", "bias"))
        assert weight_KOP is not None
        bias_KGO = None if bias_KO is None else bias_KO.unsqueeze(1)
        out: Tensor = Product.apply(x_NTP.unsqueeze(1), self.shared.anchor, part, weight_KOP.unsqueeze(1), bias_KGO)  # type: ignore[no-untyped-call]
        return out.squeeze(1)


class _Part:
    """One product of a layer that has several: the names of its weight and bias."""

    def __init__(self, layer: CohortLayer, weight: str, bias: str) -> None:
        self.shared, self.names = layer.shared, layer.trained(weight=weight, bias=bias)


class Unrolled(Recurrent):
    """A recurrent layer with the same parameters, step by step, in operations that ``torch.func`` bears."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        for name in ("mode", "num_layers", "hidden_size", "proj_size", "bias", "batch_first", "dropout", "bidirectional"):
            setattr(self, name, getattr(layer, name))
        for name, value in layer.named_parameters(recurse=False):
            self.register_parameter(name, value)

    def forward(self, x: Tensor | PackedSequence, hx: Any = None) -> tuple[Tensor | PackedSequence, Any]:
        """See :meth:`Recurrent.run`."""
        return self.run(x, hx)

    def drop(self, x_NTH: Tensor) -> Tensor:
        """From PyTorch's generator."""
        return dropout(x_NTH, self.dropout)

    def product(self, of: str, suffix: str, x_NTP: Tensor) -> Tensor:
        """See the contract."""
        return linear(x_NTP, getattr(self, f"weight_{of}{suffix}"), getattr(self, f"bias_{of}{suffix}", None))


def unrolled(layer: nn.Module) -> nn.Module:
    """The layer, with each recurrent layer in it put into such a form; it is changed."""
    if CohortRecurrent.takes(layer):
        assert isinstance(layer, nn.RNNBase)
        return Unrolled(layer)
    # Not named_children(), which leaves out a layer that it met before.
    for name, child in list(layer._modules.items()):
        if child is not None:
            setattr(layer, name, unrolled(child))
    return layer
