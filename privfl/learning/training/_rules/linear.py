"""The rule for ``nn.Linear``, over any number of positions."""

from __future__ import annotations

from torch import Tensor, nn

from privfl.learning.training._rules import CohortLayer, whole
from privfl.learning.training._rules.products import Product


class CohortLinear(CohortLayer):
    """``x W_kᵀ + b_k`` for the examples of client k."""

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """See the contract."""
        return type(layer) is nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """(N, *, inputs) -> (N, *, outputs)."""
        weight_KOP, bias_KO = self.weight("weight"), self.weight("bias")
        assert weight_KOP is not None
        a_NGLP = x.reshape(len(x), 1, -1, x.shape[-1])
        bias_KGO = None if bias_KO is None else bias_KO.unsqueeze(1)
        out: Tensor = Product.apply(a_NGLP, self.shared.anchor, self, weight_KOP.unsqueeze(1), bias_KGO)  # type: ignore[no-untyped-call]
        return whole(out.view(*x.shape[:-1], weight_KOP.shape[1]))
