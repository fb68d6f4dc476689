"""Inputs whose gradient is like the one that was seen, found by optimisation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from attacks.reconstruction import Found, ReconstructionAttack, Target
from attacks.reconstruction._labels import labels_of, require_classes
from attacks.reconstruction._simulation import Loss, Simulation, gradient_seen
from privfl.errors import ConfigError
from privfl.running.knowledge import Knowledge, Prospect, Protocol
from privfl.seeding import Seed

_FRESH: Final = 1000
"""So many fresh inputs say how large and how small the numbers of an input are."""

_MOST_STEPS: Final = 64
"""So many local steps are simulated at most; each takes as much memory and time as a gradient."""


class MatchingAttack(ReconstructionAttack):
    """An attack that looks for inputs with a like gradient.

    Args:
        steps: the number of steps of the search.
        lr: their length.
        restarts: how many searches, from other beginnings; the one with the smallest distance counts.
        examples: how many examples; None: as many as the client's public size, its batch and its steps say.
        simulated_steps: how many local steps of the client are unrolled in the search; None: as many as it takes.
        seed: of the beginnings.
    """

    steps: PositiveInt = 1000
    lr: PositiveFloat = 0.1
    restarts: PositiveInt = 1
    examples: PositiveInt | None = None
    simulated_steps: PositiveInt | None = None
    seed: NonNegativeInt = 0

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.Attack`: the local steps can be simulated, and the task is one that the attack knows."""
        self.require_task(prospect)
        steps = self.local_steps(prospect.protocol, prospect.protocol.largest)
        if self.of == "sum" and steps > 1:
            raise ConfigError(
                f"training.local_steps: {self.kind!r} matches the sum of gradients, and clients that take {steps} local steps "
                "send something else; set training.local_steps = 1, or its simulated_steps = 1 to take the sum for a gradient"
            )
        if steps > _MOST_STEPS:
            raise ConfigError(
                f"attacks.run: {self.kind!r} would simulate {steps} local steps, and {_MOST_STEPS} is the most; set its "
                "simulated_steps, or training.local_steps, lower"
            )
        super().require_possible(prospect)

    def require_task(self, prospect: Prospect) -> None:
        """Refuse a task that the attack cannot compute the loss of.

        Raises:
            ConfigError: that.
        """
        require_classes(prospect.network, self.kind)

    def local_steps(self, protocol: Protocol, examples: int) -> int:
        """The number of local steps that are simulated for a client of so many examples."""
        training = protocol.training
        taken = training.local_steps or (training.local_epochs or 0) * -(-examples // training.batch_size)
        return self.simulated_steps or taken

    def problem(self, target: Target, knowledge: Knowledge, dtype: torch.dtype = torch.float32) -> Problem:
        """The search for the examples behind one target."""
        size = self.examples or target.size(knowledge)
        simulation = Simulation.of(target, knowledge, self.local_steps(knowledge.protocol, size), dtype)
        if self.of == "sum":
            # One step on all clients' examples together, whatever the batch of one of them is.
            simulation = Simulation(**{**vars(simulation), "batch": size})
        low, high = bounds(knowledge)
        return Problem(simulation, gradient_seen(target, simulation), size, low.to(dtype), high.to(dtype))

    def beginnings(self, problem: Problem, target: Target) -> Iterator[torch.Generator]:
        """A generator for each search."""
        for restart in range(self.restarts):
            name = Seed(self.seed) / self.kind / target.round / "clients" / "-".join(map(str, target.clients)) / restart
            yield name.torch(problem.low.device)


@dataclass(frozen=True, eq=False)
class Problem:
    """One search.

    Args:
        simulation: the gradient as a function of inputs.
        seen_D: the gradient that was seen.
        size: n, how many examples.
        low: the smallest value of each number of an input; of an image, of each channel.
        high: the largest.
    """

    simulation: Simulation
    seen_D: Tensor
    size: int
    low: Tensor
    high: Tensor

    def noise(self, generator: torch.Generator) -> Tensor:
        """Return n inputs of independent normal numbers."""
        shape = (self.size, *self.low.shape)
        noise_n: Tensor = torch.randn(shape, generator=generator, device=self.low.device).to(self.low.dtype)
        return noise_n

    def cosine(self, x_n: Tensor, loss: Loss) -> Tensor:
        """1 minus the cosine between the gradient of these inputs and the one that was seen."""
        found_D = self.simulation.gradient(x_n, loss)
        cosine: Tensor = (found_D @ self.seen_D) / (found_D.norm() * self.seen_D.norm()).clamp(min=1e-30)
        return 1 - cosine

    def squares(self, x_n: Tensor, loss: Loss) -> Tensor:
        """The squared distance between the two."""
        return (self.simulation.gradient(x_n, loss) - self.seen_D).square().sum()


def bounds(knowledge: Knowledge) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of each number of fresh inputs, of an input's shape; of images, of each channel."""
    x_n = knowledge.population.x[: min(_FRESH, len(knowledge.population))]
    low, high = x_n.amin(0), x_n.amax(0)
    if is_image(low):
        low, high = (low.amin((1, 2), keepdim=True).expand_as(low), high.amax((1, 2), keepdim=True).expand_as(high))
    return low, high


def is_image(one: Tensor) -> bool:
    """Whether an input has the shape of an image, (1 or 3, height, width)."""
    return one.dim() == 3 and one.shape[0] in (1, 3)


def total_variation(x_n: Tensor) -> Tensor:
    """The mean absolute difference of neighbouring pixels, over both directions added; 0 for inputs that are no images."""
    if not is_image(x_n[0]):
        return x_n.new_zeros(())
    return x_n.diff(dim=-1).abs().mean() + x_n.diff(dim=-2).abs().mean()


class ImageMatching(MatchingAttack):
    """A search by Adam over inputs in their box, with labels that are found beforehand."""

    by_sign: ClassVar[bool] = False
    """Whether Adam is given the signs of the gradient alone."""

    def reconstruct(self, target: Target, knowledge: Knowledge) -> dict[str, Found]:
        """See :class:`attacks.reconstruction.ReconstructionAttack`."""
        problem = self.problem(target, knowledge)
        labels_R = labels_of(target, knowledge, problem.size).to(problem.low.device)
        losses = knowledge.network.task.loss

        def loss(outputs: Tensor, places_B: Tensor) -> Tensor:
            return losses(outputs, labels_R[places_B]).mean()

        tries = [self.search(problem, generator, loss) for generator in self.beginnings(problem, target)]
        best_R, _ = min(tries, key=lambda one: one[1])
        return {"inputs": Found(best_R, labels_R)}

    def search(self, problem: Problem, generator: torch.Generator, loss: Loss) -> tuple[Tensor, float]:
        """One search: the inputs with the smallest objective, and that."""
        x_n = problem.noise(generator).requires_grad_()
        optimizer = torch.optim.Adam([x_n], lr=self.lr)
        # The steps go down at 3/8, 5/8 and 7/8 of the search (Geiping et al. 2020, appendix B).
        falls = [round(self.steps * eighths / 8) for eighths in (3, 5, 7)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, falls, gamma=0.1)
        best_n, least = x_n.detach().clone(), float("inf")
        for _ in range(self.steps):
            value = self.objective(problem, x_n, loss)
            (gradient,) = torch.autograd.grad(value, x_n)
            if (now := float(value.detach())) < least:
                best_n, least = x_n.detach().clone(), now
            x_n.grad = gradient.sign() if self.by_sign else gradient
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                x_n.copy_(torch.clamp(x_n, problem.low, problem.high))
        return best_n, least

    @abstractmethod
    def objective(self, problem: Problem, x_n: Tensor, loss: Loss) -> Tensor:
        """The value that is made small."""
