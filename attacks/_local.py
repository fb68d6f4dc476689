"""Local training as a server simulates it: from the model of a round, on examples of its own, by the public settings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from privfl.learning.optimizers import optimizer_of
from privfl.privacy.sampling import shuffled_batches
from privfl.running.knowledge import Knowledge
from privfl.vectors import to_vector, trained


@dataclass(frozen=True, eq=False)
class LocalTraining:
    """The training of clients in one round, as plain minimisation of the loss: without clip, noise and an algorithm's terms.

    Args:
        knowledge: the architecture and the settings of training.
        round: from 0.
        model_D: the global model that the round began with.
    """

    knowledge: Knowledge
    round: int
    model_D: Tensor

    def owned(self, weight: float) -> int:
        """How many examples a client of that weight owns: sizes are public."""
        return max(1, round(self.knowledge.protocol.largest * weight))

    def update(self, x_n: Tensor, y_n: Tensor, owned: int, generator: torch.Generator) -> Tensor:
        """The update of a client, local minus global model, of length D.

        The model is in evaluation mode, so that no layer draws at random.

        Args:
            x_n: the inputs on which it trains.
            y_n: their labels, on the same device.
            owned: how many examples it owns, which the number of its steps follows from.
            generator: draws the batches; of the CPU.
        """
        network, protocol = self.knowledge.network, self.knowledge.protocol
        training, optimizer = protocol.training, optimizer_of(protocol.training)
        steps = training.local_steps or (training.local_epochs or 0) * -(-owned // training.batch_size)
        module = network.at(self.model_D.to(x_n.device))
        weights = list(trained(module).values())
        states = [{slot: torch.zeros_like(one) for slot in optimizer.slots(training)} for one in weights]
        batches = shuffled_batches(len(y_n), training.batch_size, steps, generator)
        for taken, (batch, rate) in enumerate(zip(batches, protocol.rates(self.round, steps), strict=True)):
            here = batch.to(x_n.device)
            loss = network.task.loss(module(x_n[here]), y_n[here]).mean()
            found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
            with torch.no_grad():
                for weight, gradient, state in zip(weights, found, states, strict=True):
                    optimizer.step(training, weight, gradient, state, rate, taken)
        return to_vector(module).cpu() - self.model_D.cpu()
