"""A recurrent network over tokens."""

from __future__ import annotations

from pydantic import PositiveInt
from torch import Tensor, nn

from privfl.learning.models import Model
from privfl.learning.models._sequences import length_of


class Lstm(Model):
    """Embedding, layers of LSTM, and a linear layer to a logit for each token at each place; for the task ``next_token``.

    The default settings are the character model of McMahan et al. 2017, section 3.

    Args:
        embedding: the width of a token's embedding.
        hidden: the width of a layer's state.
        layers: the number of layers.
    """

    embedding: PositiveInt = 8
    hidden: PositiveInt = 256
    layers: PositiveInt = 2

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """See the class."""
        length_of("lstm", input_shape)
        return _Tokens(self.embedding, self.hidden, self.layers, outputs)


class _Tokens(nn.Module):
    """Tokens of shape (B, T) to logits of shape (B, T, V)."""

    def __init__(self, embedding: int, hidden: int, layers: int, tokens: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.out = nn.Linear(hidden, tokens)

    def forward(self, x_BT: Tensor) -> Tensor:
        states_BTH, _ = self.lstm(self.embedding(x_BT.long()))
        logits_BTV: Tensor = self.out(states_BTH)
        return logits_BTV
