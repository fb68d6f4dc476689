"""A small character transformer, for what it costs to train. No data set here feeds it, so it is on no shelf."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention


class CharacterTransformer(nn.Module):
    """Pre-norm blocks over T characters, causal; the last position's output gives the logits of what comes next."""

    def __init__(self, length: int = 32, vocabulary: int = 80, width: int = 64, heads: int = 4, blocks: int = 2) -> None:
        super().__init__()
        self.characters = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        """Characters (B, T) -> logits (B, vocabulary)."""
        places = torch.arange(x.shape[1], device=x.device).expand_as(x)
        logits: Tensor = self.out(self.norm(self.blocks(self.characters(x) + self.places(places)))[:, -1])
        return logits


class Block(nn.Module):
    """Attention and a two-layer perceptron, each added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.attended = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        query, key, value = self.mix(self.before_attention(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.attended(attended)
        added: Tensor = x + self.narrow(gelu(self.wide(self.before_mlp(x))))
        return added
