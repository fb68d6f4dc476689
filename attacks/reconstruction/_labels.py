"""The labels behind a gradient, from the bias of the last layer."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from attacks.reconstruction import Target
from attacks.reconstruction._layers import trained_layers
from privfl.errors import ConfigError
from privfl.learning.tasks.classification import Classification
from privfl.running.knowledge import Knowledge, Network

_FRESH: Final = 1000
"""So many fresh examples estimate the mean prediction of the model."""


def require_classes(network: Network, kind: str) -> None:
    """Refuse a model whose last layer does not give a logit for each class.

    Raises:
        ConfigError: names the task or the model.
    """
    if not isinstance(network.task, Classification):
        raise ConfigError(f"task.kind = {network.task.kind!r}: {kind!r} finds classes; set task.kind = 'classification'")
    name, layer = trained_layers(network.module)[-1]
    if not isinstance(layer, nn.Linear) or layer.out_features != network.outputs[-1]:
        raise ConfigError(
            f"model: {kind!r} needs a last layer that is linear, with an output for each class, and {name or 'this model'} "
            f"is a {type(layer).__name__}; set model.kind = 'mlp', 'cnn' or 'logistic'"
        )


def labels_of(target: Target, knowledge: Knowledge, examples: int) -> Tensor:
    """The labels of so many examples, of shape (R,), in ascending order.

    The gradient of the last bias is G_c = mean(p_c − [y = c]). For one example the only negative entry is that of its label
    (Zhao et al. 2020, "iDLG", section 3.2). For R the label c comes R (p̄_c − G_c) times, with p̄ the mean prediction, here that
    for fresh examples, rounded so that the counts add up to R. Without a bias the row sums of the weight's gradient replace it,
    divided by the mean sum of the features, which must not be negative, as behind a ReLU.
    """
    network = knowledge.network
    name, layer = trained_layers(network.module)[-1]
    named = network.layout.unflatten(target.gradient(knowledge))
    fresh, features = _seen(network, name, target.model_D, knowledge)
    bias = named.get(f"{name}.bias" if name else "bias")
    if bias is None or not isinstance(layer, nn.Linear) or layer.bias is None:
        bias = named[f"{name}.weight" if name else "weight"].sum(1) / features.sum(1).mean().clamp(min=1e-12).to(
            target.update_D.device
        )
    gradient_C = bias.double().cpu().numpy()
    if examples == 1:
        return torch.tensor([int(gradient_C.argmin())])
    share_C = np.maximum(fresh.softmax(1).mean(0).double().cpu().numpy() - gradient_C, 0.0)
    wanted_C = examples * share_C / share_C.sum() if share_C.sum() > 0 else np.full(len(share_C), examples / len(share_C))
    count_C = np.floor(wanted_C).astype(np.int64)
    rest = np.argsort(count_C - wanted_C, kind="stable")[: examples - count_C.sum()]
    count_C[rest] += 1
    return torch.from_numpy(np.repeat(np.arange(len(count_C)), count_C))


@torch.no_grad()
def _seen(network: Network, name: str, model_D: Tensor, knowledge: Knowledge) -> tuple[Tensor, Tensor]:
    """The logits of fresh examples, and the features that the last layer takes."""
    x_n = knowledge.population.x[: min(_FRESH, len(knowledge.population))]
    module, seen = network.at(model_D.to(x_n.device)), list[Tensor]()
    module.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits: Tensor = module(x_n)
    return logits, seen[-1]
