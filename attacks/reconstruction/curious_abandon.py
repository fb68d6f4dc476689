"""Trap weights: units that fire on few inputs (Boenisch et al. 2023, "When the Curious Abandon Honesty: Federated Learning Is
Not Private", section 5).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor

from attacks._layers import ReluLayer
from attacks.reconstruction._asked import AskedReconstruction
from attacks.reconstruction._quotients import quotients
from privfl.running.knowledge import Knowledge


class CuriousAbandon(AskedReconstruction):
    """Divide the rows of a first layer whose units fire on few inputs.

    Half of the weights of a unit are −|N(0, 1/4)|, the other half the same values times −``factor``, all shuffled, so that its
    output is below 0 on most inputs. A unit that fires on one input of a batch has that input in its gradient, as in
    ``reconstruction/first_layer``. The bias takes off the smallest inputs among fresh data, which are 0 for pixels that begin
    at 0.

    Variants:
        ``quotients``: the distinct quotients, those that most rows agree on first.
    """

    threat: ClassVar[str] = (
        "A server writes the first layer so that each unit fires on few inputs, and reads these off its gradient."
    )

    needs: ClassVar[str] = "a round that it asks for; fresh data; a first layer that is linear with a ReLU"

    cost: ClassVar[str] = "a division"

    factor: PositiveFloat | None = None
    """The length of the positive weights as a share of the negative ones, 0.95 in the paper; None: for each unit, so that it
    fires on one of n fresh inputs, with n the number of examples of the largest client, or of a cohort of such."""

    def written(self, model_D: Tensor, layer: ReluLayer, knowledge: Knowledge, examples: int) -> Tensor:
        """See :class:`attacks.reconstruction._asked.AskedReconstruction`."""
        generator, (units, inputs) = torch.Generator().manual_seed(0), (layer.units, layer.inputs)
        fresh_PF = knowledge.population.x[torch.arange(len(knowledge.population))].flatten(1).float().cpu()
        smallest_F = fresh_PF.amin(0)
        half = inputs // 2
        sizes_HF = 0.5 * torch.randn(units, half, generator=generator).abs()
        order_HF = torch.rand(units, inputs, generator=generator).argsort(1)
        negative_HF = torch.zeros(units, inputs).scatter(1, order_HF[:, :half], sizes_HF)
        positive_HF = torch.zeros(units, inputs).scatter(1, order_HF[:, half : 2 * half], sizes_HF)
        if self.factor is None:
            # A unit fires if what its weights take off is less than the factor of what they add.
            against_PH, in_favour_PH = ((fresh_PF - smallest_F) @ part_HF.T for part_HF in (negative_HF, positive_HF))
            ratio_PH = against_PH / in_favour_PH.clamp(min=torch.finfo(torch.float32).tiny)
            factor_H = ratio_PH.kthvalue(max(1, len(ratio_PH) // examples), dim=0).values
        else:
            factor_H = torch.full((units,), self.factor)
        weight_HF = factor_H[:, None] * positive_HF - negative_HF
        return layer.written(model_D, weight_HF, -weight_HF @ smallest_F)

    def read(self, weight_HF: Tensor, bias_H: Tensor) -> Mapping[str, Tensor]:
        """See :class:`attacks.reconstruction._asked.AskedReconstruction`."""
        return {"quotients": quotients(weight_HF, bias_H)}
