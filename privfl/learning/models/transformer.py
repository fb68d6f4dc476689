"""A causal transformer over tokens."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from privfl.learning.models import Model
from privfl.learning.models._sequences import length_of
from privfl.tables import contradiction


class Transformer(Model):
    """A causal transformer with a logit for each token at each place, for the task ``next_token`` (Radford et al. 2019, GPT-2).

    Embeddings of token and place, then layers of attention to earlier places and of two linear layers, with the norm first.

    Args:
        width: the width of the embeddings.
        heads: the number of heads of an attention; it divides the width.
        layers: the number of layers.
    """

    width: PositiveInt = 64
    heads: PositiveInt = 4
    layers: PositiveInt = 2

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise contradiction("heads", self.heads, f"must divide model.width = {self.width}; take 1, 2 or 4 heads")
        return self

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """See the class."""
        return _Causal(length_of("transformer", input_shape), self.width, self.heads, self.layers, outputs)


class _Causal(nn.Module):
    """Tokens of shape (B, T) to logits of shape (B, T, V)."""

    def __init__(self, places: int, width: int, heads: int, layers: int, tokens: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(tokens, width), nn.Embedding(places, width)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, tokens)

    def forward(self, x_BT: Tensor) -> Tensor:
        # A row for each example, as per-example gradients need it.
        at_BT = torch.arange(x_BT.shape[1], device=x_BT.device).expand(x_BT.shape[0], -1)
        logits_BTV: Tensor = self.out(self.norm(self.blocks(self.tokens(x_BT.long()) + self.places(at_BT))))
        return logits_BTV


class _Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.projections, self.joined = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.between, self.wide, self.narrow = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BTW: Tensor) -> Tensor:
        x_BTW = x_BTW + self.joined(self._attended(self.projections(self.before(x_BTW))))
        changed: Tensor = self.narrow(gelu(self.wide(self.between(x_BTW))))
        return x_BTW + changed

    def _attended(self, all_BTP: Tensor) -> Tensor:
        """Each place's mean of the values of places up to it."""
        # (B, T, 3, heads, W / heads) -> three of (B, heads, T, W / heads)
        split = all_BTP.reshape(*all_BTP.shape[:2], 3, self.heads, all_BTP.shape[2] // (3 * self.heads)).permute(2, 0, 3, 1, 4)
        return scaled_dot_product_attention(split[0], split[1], split[2], is_causal=True).transpose(1, 2).flatten(2)
