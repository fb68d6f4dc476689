"""Models with PyTorch's own defaults, layers that are used more than once, and parameters and cells of a user's own."""

from collections.abc import Callable
from typing import Any

import torch
from engines import CLASSES, FLAT, IMAGE, LINE, LONG, VOCABULARY, WORDS
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Sequences(nn.Module):
    """A recurrent layer of which everything is used: each step's state and the last states."""

    def __init__(self, layer: nn.RNNBase, start: bool = False) -> None:
        super().__init__()
        width = (layer.proj_size or layer.hidden_size) * (1 + layer.bidirectional)
        self.first, self.cells, self.out, self.start = nn.Linear(15, 3), layer, nn.Linear(width, CLASSES), start

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        given = x if self.cells.batch_first else x.transpose(0, 1)
        states, last = self.cells(given, self.state(x)) if self.start else self.cells(input=given)
        states = states if self.cells.batch_first else states.transpose(0, 1)
        ends = last if isinstance(last, tuple) else (last, last)
        both = torch.cat([ends[0].sum(0), ends[1].square().sum(0)], 1)[:, : self.out.in_features]
        logits: Tensor = self.out(states.square().sum(1) + both)
        return logits

    def state(self, x: Tensor) -> Any:
        """One to start from, which has a gradient."""
        layers = self.cells.num_layers * (1 + self.cells.bidirectional)
        one = torch.cat([x[:, 0]] * 2, 1)[:, : self.cells.hidden_size].expand(layers, -1, -1)
        return (one, one.sin()) if self.cells.mode == "LSTM" else one


class Packed(nn.Module):
    """Texts of different lengths, packed; of their states the sum is taken, and the last ones."""

    def __init__(self, cells: nn.RNNBase) -> None:
        super().__init__()
        self.table, self.cells, self.out = nn.Embedding(VOCABULARY, 3), cells, nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        lengths = (x != 0).sum(1).clamp(min=1).cpu()
        here = self.table(x)
        here = here if self.cells.batch_first else here.transpose(0, 1)
        packed = pack_padded_sequence(here, lengths, self.cells.batch_first, enforce_sorted=False)
        states, last = self.cells(packed)
        padded, _ = pad_packed_sequence(states, batch_first=True)
        h = last[1] if isinstance(last, tuple) else last
        logits: Tensor = self.out(padded.sum(1)[:, :4] + h.prod(0))
        return logits


class Attending(nn.Module):
    """Attention with keys and values of widths of their own."""

    def __init__(self, attention: nn.MultiheadAttention, turned: bool = False) -> None:
        super().__init__()
        self.table, self.heads, self.out, self.turned = nn.Embedding(VOCABULARY, 8), attention, nn.Linear(8, CLASSES), turned

    def forward(self, x: Tensor) -> Tensor:
        query = self.table(x)
        key, value = query[..., : self.heads.kdim].tanh(), query[..., : self.heads.vdim].sin()
        if self.turned:
            query, key, value = (one.transpose(0, 1) for one in (query, key, value))
        mixed, _ = self.heads(query=query, key=key, value=value, need_weights=False)
        logits: Tensor = self.out((mixed.transpose(0, 1) if self.turned else mixed).mean(1))
        return logits


class Looped(nn.Module):
    """A cell that is called for every step."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell, self.out = cell, nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 5)
        for step in x.unbind(1):
            h = self.cell(step, h)
        logits: Tensor = self.out(h)
        return logits


class Twice(nn.Module):
    """One layer used twice, one of them before and after."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.out = layer, nn.LazyLinear(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.layer(input=self.layer(x).tanh()).flatten(1))
        return logits


class TwoTexts(nn.Module):
    """Words and their neighbours by one table, and attention by the same heads twice."""

    def __init__(self, attends: bool = False) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(VOCABULARY, 8), nn.Linear(8, CLASSES)
        self.heads = heads() if attends else None

    def forward(self, x: Tensor) -> Tensor:
        here = self.table(x) * self.table(x.roll(1, 1))[:, :5].sin()
        for _ in range(2 if self.heads is not None else 0):
            assert self.heads is not None
            here = here + self.heads(here, here, here)[0].tanh()
        logits: Tensor = self.out(here.mean(1))
        return logits


class Pair(nn.Module):
    """A layer of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.both = nn.Linear(6, 3), nn.Linear(6, 2), nn.Bilinear(3, 2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.both(self.a(input=x), input2=self.b(x))
        return logits


class Listed(nn.Module):
    """Parameters in a list and in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ParameterList([torch.linspace(0.5, 1.5, 6), torch.ones(6)])
        self.shifts, self.out = nn.ParameterDict({"a": torch.zeros(6)}), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for scale in self.scales:
            x = torch.tanh(x * scale) + self.shifts["a"]
        logits: Tensor = self.out(x)
        return logits


class OwnToken(nn.Module):
    """A token of its own in front of a sequence, and a recurrent layer behind."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.token, self.gru = nn.Parameter(torch.randn(1, 1, 15)), nn.GRU(15, 8, 2, dropout=dropout, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, dropout=dropout, batch_first=True)
        self.drop, self.out = nn.Dropout(dropout), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.gru(torch.cat([self.token.expand(len(x), -1, -1), x], 1))
        logits: Tensor = self.out(self.drop(self.encoder(states)[:, -1]))
        return logits


def cells(kind: Callable[..., nn.RNNBase], **changes: Any) -> nn.RNNBase:
    return kind(3, 4, **{"num_layers": 2, "batch_first": True, **changes})


def heads(**changes: Any) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(8, 2, **{"batch_first": True, **changes})


def _normalised() -> nn.Module:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5, bias=False))
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(5, CLASSES))


TRAINED: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "gru": (LINE, lambda: Sequences(cells(nn.GRU))),
    "gru, both ways, batch second, from a state": (
        LINE,
        lambda: Sequences(cells(nn.GRU, bidirectional=True, batch_first=False), start=True),
    ),
    "gru without bias": (LINE, lambda: Sequences(cells(nn.GRU, bias=False, num_layers=1))),
    "gru, packed": (WORDS, lambda: Packed(cells(nn.GRU, bidirectional=True))),
    "gru, dropout": (LINE, lambda: Sequences(cells(nn.GRU, dropout=1.0))),
    "rnn": (LONG, lambda: Sequences(cells(nn.RNN))),
    "rnn, relu, both ways, from a state": (
        LINE,
        lambda: Sequences(cells(nn.RNN, nonlinearity="relu", bidirectional=True), start=True),
    ),
    "rnn, packed, batch second": (WORDS, lambda: Packed(cells(nn.RNN, batch_first=False))),
    "lstm, both ways, from a state": (LINE, lambda: Sequences(cells(nn.LSTM, bidirectional=True), start=True)),
    "lstm, batch second": (LINE, lambda: Sequences(cells(nn.LSTM, batch_first=False))),
    "lstm, packed": (WORDS, lambda: Packed(cells(nn.LSTM, bidirectional=True))),
    "lstm, dropout": (LINE, lambda: Sequences(cells(nn.LSTM, dropout=1.0))),
    "heads, widths of their own": (WORDS, lambda: Attending(heads(kdim=5, vdim=3))),
    "heads, widths of their own, no bias": (WORDS, lambda: Attending(heads(kdim=5, bias=False))),
    "heads, batch second": (WORDS, lambda: Attending(heads(batch_first=False), turned=True)),
    "lstm, projected": (LINE, lambda: Sequences(cells(nn.LSTM, proj_size=2, bidirectional=True), start=False)),
    "heads, keys of their own": (WORDS, lambda: Attending(heads(add_bias_kv=True, add_zero_attn=True))),
    "heads, dropout": (WORDS, lambda: Attending(heads(dropout=1.0))),
    "cell": (LINE, lambda: Looped(nn.GRUCell(15, 5))),
    "linear, twice": (LINE, lambda: Twice(nn.Linear(15, 15))),
    "convolution, twice": (IMAGE, lambda: Twice(nn.Conv2d(2, 2, 3, padding=1))),
    "norm, twice": (FLAT, lambda: Twice(nn.LayerNorm(6))),
    "table, twice": (WORDS, TwoTexts),
    "heads, twice": (WORDS, lambda: TwoTexts(attends=True)),
    "two inputs": (FLAT, Pair),
    "lists of parameters": (FLAT, Listed),
    "a token": (LINE, OwnToken),
    "weight norm": (FLAT, _normalised),
}
