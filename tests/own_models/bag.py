"""Models of tokens: a class or the next token, from embeddings."""

from typing import Literal

from torch import Tensor, nn

from privfl.learning.models import Model


class Texts(nn.Module):
    """Embeddings, a tanh layer over all places, and an output for all of them or for each."""

    def __init__(self, tokens: int, places: int, outputs: int, each: bool) -> None:
        super().__init__()
        self.table, self.each = nn.Embedding(tokens, 8), each
        self.hidden, self.last = nn.Linear(8 * places, 32), nn.Linear(32, places * outputs if each else outputs)
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, T) tokens -> (N, outputs) or (N, T, outputs)."""
        hidden = self.hidden(self.table(x.long()).flatten(1)).tanh()
        logits: Tensor = self.last(hidden)
        return logits.view(*x.shape, self.outputs) if self.each else logits


class Bag(Model):
    """The model of that."""

    tokens: int = 50
    kind_of_output: Literal["class", "each"] = "class"

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """See the class."""
        return Texts(self.tokens, input_shape[0], outputs, self.kind_of_output == "each")
