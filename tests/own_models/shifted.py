"""A linear layer behind something that changes the inputs."""

from torch import Tensor, nn

from privfl.learning.models import Model


class ShiftedNet(nn.Module):
    """``W (x - 1/2)``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.last = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, outputs)."""
        found: Tensor = self.last(x.flatten(1) - 0.5)
        return found


class Shifted(Model):
    """The model of that."""

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """See the class."""
        inputs = 1
        for side in input_shape:
            inputs *= side
        return ShiftedNet(inputs, outputs)
