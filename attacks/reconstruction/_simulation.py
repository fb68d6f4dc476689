"""A client's local training as a function of its examples, through which gradients flow (the idea of Zhu et al. 2023,
"Surrogate model extension (SME)", with every local step unrolled).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attacks.reconstruction import Target
from privfl.running.knowledge import Knowledge

Loss = Callable[[Tensor, Tensor], Tensor]
"""The mean loss of a batch, from its outputs and the places of its examples."""


@dataclass(frozen=True, eq=False)
class Simulation:
    """Local training by SGD with momentum and weight decay, from the model that a target began with.

    The batches are consecutive examples; those of the client are unknown.

    Args:
        module: the model, in evaluation mode.
        weights: its trained parameters.
        rates: the learning rate of each step.
        batch: the size of a batch.
        momentum: ρ.
        weight_decay: λ.
    """

    module: nn.Module
    weights: dict[str, Tensor]
    rates: list[float]
    batch: int
    momentum: float
    weight_decay: float

    @classmethod
    def of(cls, target: Target, knowledge: Knowledge, steps: int, dtype: torch.dtype) -> Simulation:
        """The training of a client that takes so many steps.

        Args:
            target: the client's update.
            knowledge: the architecture and the settings of training.
            steps: the number of steps.
            dtype: the type in which it is computed.
        """
        network, training = knowledge.network, knowledge.protocol.training
        module = network.at(target.model_D.to(knowledge.population.x.device)).to(dtype)
        named = network.layout.unflatten(target.model_D.to(knowledge.population.x.device, dtype))
        weights = {name: value.clone().requires_grad_() for name, value in named.items()}
        rates = knowledge.protocol.rates(target.round, steps)
        return cls(module, weights, rates, training.batch_size, training.momentum, training.weight_decay)

    @property
    def scale(self) -> float:
        """The sum of the learning rates: an update is about minus this times a gradient."""
        return sum(self.rates)

    def gradient(self, x_n: Tensor, loss: Loss) -> Tensor:
        """Minus the update over :attr:`scale`, of length D: of one step the gradient itself, with weight decay."""
        weights, velocity = self.weights, dict[str, Tensor]()
        places_n = torch.arange(len(x_n), device=x_n.device)
        for step, rate in enumerate(self.rates):
            places_B = places_n.roll(-step * self.batch)[: self.batch]
            outputs = functional_call(self.module, weights, (x_n[places_B],))
            found = torch.autograd.grad(
                loss(outputs, places_B), list(weights.values()), create_graph=True, allow_unused=True, materialize_grads=True
            )
            moved = dict[str, Tensor]()
            for (name, weight), gradient in zip(weights.items(), found, strict=True):
                decayed = gradient + self.weight_decay * weight if self.weight_decay else gradient
                velocity[name] = self.momentum * velocity[name] + decayed if name in velocity else decayed
                moved[name] = weight - rate * velocity[name]
            weights = moved
        if len(self.rates) == 1:
            # The difference of two weights would be rounded more.
            return torch.cat([velocity[name].flatten() for name in self.weights])
        return torch.cat([(self.weights[name] - weights[name]).flatten() for name in self.weights]) / self.scale


def gradient_seen(target: Target, simulation: Simulation) -> Tensor:
    """Minus the update that was seen over the same scale, of length D."""
    first = next(iter(simulation.weights.values()))
    return -target.update_D.to(first.device, first.dtype) / simulation.scale
