"""An imprint module: bins that inputs fall into, each with a gradient of its own (Fowl et al. 2022, "Robbing the Fed: Directly
Obtaining Private Data in Federated Learning with Modified Models", ICLR).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from attacks._layers import ReluLayer
from attacks.reconstruction._asked import AskedReconstruction
from privfl.running.knowledge import Knowledge

_SMALL: Final = 1e-7
"""A bin whose gradient is smaller than this share of all bins' together is taken to be empty."""


class Imprint(AskedReconstruction):
    """Take differences of neighbouring rows of a first layer that sorts inputs into bins.

    All k units of the first layer measure the same, a weighted mean of the input, and their biases are minus its quantiles
    among fresh data, so that unit j fires on all inputs in bin j and above. The layer behind treats all units alike. The
    difference of the gradients of two neighbouring units is that of one bin, and an input that is alone in its bin is that
    difference over the difference of the biases' gradients: exactly, if the client takes one local step.

    With n inputs behind an update or a sum, n(1 − 1/k)^(n−1) are expected to be alone. A secure sum is no obstacle, nor is the
    binding of the model into its masks, as all clients are sent one model.

    Variants:
        ``bins``: an input for each bin that is not empty.
    """

    threat: ClassVar[str] = (
        "A server that sees sums only writes the first layer so that inputs stand in its gradient as they are."
    )

    needs: ClassVar[str] = "a round that it asks for; fresh data; a first layer that is linear with a ReLU"

    cost: ClassVar[str] = "a division"

    def written(self, model_D: Tensor, layer: ReluLayer, knowledge: Knowledge, examples: int) -> Tensor:  # noqa: ARG002
        """See :class:`attacks.reconstruction._asked.AskedReconstruction`."""
        fresh_PF = knowledge.population.x[torch.arange(len(knowledge.population))].flatten(1).double().cpu()
        # By their plain means, inputs of few levels would tie.
        uneven_F = 0.5 + torch.rand(layer.inputs, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        measure_F = uneven_F / layer.inputs
        at_H = _quantiles(fresh_PF @ measure_F, layer.units)
        width = float(at_H[-1] - at_H[0]) or 1.0
        # The first unit fires on everything. All units together move an output by less than 1.
        at_H[0] -= 10 * width
        scale = 1 / (20 * width * layer.units)
        weight_HF = (scale * measure_F).float().expand(layer.units, -1)
        return _behind(layer.written(model_D, weight_HF, -scale * at_H.float()), layer, knowledge)

    def read(self, weight_HF: Tensor, bias_H: Tensor) -> Mapping[str, Tensor]:
        """See :class:`attacks.reconstruction._asked.AskedReconstruction`."""
        nothing = torch.zeros_like(bias_H[:1])
        bin_H = bias_H - torch.cat([bias_H[1:], nothing])
        bin_HF = weight_HF - torch.cat([weight_HF[1:], torch.zeros_like(weight_HF[:1])])
        filled_H = bin_H.abs() > _SMALL * bin_H.abs().sum()
        return {"bins": bin_HF[filled_H] / bin_H[filled_H, None]}


def _quantiles(values_P: Tensor, count: int) -> Tensor:
    """The quantiles 0, 1/count, 2/count and so on, of shape (count,), from order statistics that are averaged with neighbours.

    By themselves, with few examples to a bin, they make bins of uneven probability, in which fewer inputs are alone.
    """
    smooth_P = gaussian_filter1d(np.sort(values_P.numpy()), sigma=np.sqrt(len(values_P)) / 2, mode="nearest")
    return torch.from_numpy(np.quantile(smooth_P, np.arange(count) / count))


def _behind(model_D: Tensor, layer: ReluLayer, knowledge: Knowledge) -> Tensor:
    """The model whose next linear layer treats all units alike, in a way that no example's gradient is 0."""
    linear = [name for name, one in knowledge.network.module.named_modules() if isinstance(one, nn.Linear)]
    following = linear[linear.index(layer.name) + 1 :]
    if not following:
        return model_D
    own_D = model_D.clone()
    parts = layer.layout.unflatten(own_D)
    weight = parts[f"{following[0]}.weight"]
    outputs = len(weight)
    # Between −2 and −1, or 1 and 2: no label's weight is their mean. Units of a hidden layer are to fire: all of them are 1.
    alternate = torch.tensor([(-1.0) ** place * (1 + place / outputs) for place in range(outputs)])
    weight.copy_((alternate if len(following) == 1 else torch.ones(outputs))[:, None].expand_as(weight))
    bias = parts.get(f"{following[0]}.bias")
    if bias is not None:
        bias.fill_(0.0 if len(following) == 1 else 1.0)
    return own_D
