"""A constant layer with a low-rank part beside it that is trained (Hu et al. 2022), and layers that share their weight."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from privfl.learning.models import Model

Frozen = Literal["parameter", "buffer", "everything", "nothing"]


class LowRank(nn.Module):
    """``W x + B A x``, of which W is fixed."""

    def __init__(self, frozen: str, inputs: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(inputs, 4, bias=False), nn.Linear(4, 32, bias=False)
        base = torch.randn(32, inputs, generator=torch.Generator().manual_seed(1)) / 8
        if frozen == "buffer":
            self.register_buffer("base", base)
        else:
            self.base = nn.Parameter(base, requires_grad=False)
        self.register_buffer("shift", torch.linspace(-1, 1, 32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) -> (N, 32)."""
        found: Tensor = linear(x, self.base) + self.b(self.a(x)) + self.shift
        return found


class LowRankNet(Model):
    """Which part is fixed, and how, is a setting."""

    frozen: Frozen = "parameter"

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """A layer of that kind, and a linear one; or two layers of one weight."""
        inputs = int(torch.Size(input_shape).numel())
        if self.frozen == "nothing":
            tied = nn.Sequential(nn.Flatten(), nn.Linear(inputs, inputs), nn.Tanh(), nn.Linear(inputs, inputs))
            tied[3].weight = tied[1].weight
            return nn.Sequential(tied, nn.Linear(inputs, classes))
        module = nn.Sequential(nn.Flatten(), LowRank(self.frozen, inputs), nn.ReLU(), nn.Linear(32, classes))
        return module.requires_grad_(False) if self.frozen == "everything" else module
