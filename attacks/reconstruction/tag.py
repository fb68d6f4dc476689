"""Text whose gradient is that of an update, by way of its embeddings (Deng et al. 2021, "TAG: gradient attack on
transformer-based language models", equation 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from attacks.reconstruction import Found, Target
from attacks.reconstruction._labels import labels_of, require_classes
from attacks.reconstruction._matching import MatchingAttack, Problem
from privfl.errors import ConfigError, ViewError
from privfl.learning.tasks.next_token import NextToken
from privfl.running.knowledge import Knowledge, Network, Prospect


class Tag(MatchingAttack):
    """Minimise ‖difference of gradients‖² + l1 · |difference of gradients| over embeddings, by Adam.

    A token is the one whose embedding is nearest. Labels are found beforehand for a task of classes, and with the text for a
    task of next tokens. The gradient of the table of embeddings itself is not matched. It gives away which tokens are in the
    text at all, since no other row of it moves.

    Args:
        l1: the weight of the sum of absolute differences.
        max_norm: the norm to which a longer gradient of the search is scaled down.

    Variants:
        ``nearest``: the nearest of all tokens.
        ``nearest that moved``: the nearest of those whose embedding the update moved.
    """

    threat: ClassVar[str] = "A server that sees updates wants the text behind them, and the model begins with embeddings."

    needs: ClassVar[str] = "each client's update, or sums; a model of tokens; few examples in a batch"

    cost: ClassVar[str] = "two passes forward and backward in each step of the search"

    lr: PositiveFloat = 0.05
    l1: Annotated[float, Field(ge=0)] = 0.1
    max_norm: PositiveFloat = 1.0

    def require_task(self, prospect: Prospect) -> None:
        """See :class:`attacks.reconstruction._matching.MatchingAttack`: tokens, and the next of them or a class."""
        network = prospect.network
        if _embedding(network.module) is None:
            raise ConfigError(
                f"model: {self.kind!r} needs a model of tokens, which has a torch.nn.Embedding, and this one has none; "
                "attack it with 'reconstruction/inverting_gradients'"
            )
        if not isinstance(network.task, NextToken):
            require_classes(network, self.kind)

    def reconstruct(self, target: Target, knowledge: Knowledge) -> dict[str, Found]:
        """See :class:`attacks.reconstruction.ReconstructionAttack`."""
        problem = self.problem(target, knowledge)
        text = _Text.of(knowledge.network, problem, self.kind, knowledge.population.x[:2])
        next_token = isinstance(knowledge.network.task, NextToken)
        labels_R = None if next_token else labels_of(target, knowledge, problem.size).to(problem.low.device)
        tries = [self.search(text, generator, knowledge, labels_R) for generator in self.beginnings(problem, target)]
        vectors_RTE, _ = min(tries, key=lambda one: one[1])
        moved_V = text.part(problem.seen_D).abs().sum(1) > 0
        every_V = torch.ones_like(moved_V)
        variants = {"nearest": every_V, "nearest that moved": moved_V if bool(moved_V.any()) else every_V}
        return {name: Found(text.nearest(vectors_RTE, allowed_V), labels_R) for name, allowed_V in variants.items()}

    def search(
        self, text: _Text, generator: torch.Generator, knowledge: Knowledge, labels_R: Tensor | None
    ) -> tuple[Tensor, float]:
        """One search: the embeddings with the smallest objective, of shape (R, T, E), and that."""
        vectors = text.noise(generator).requires_grad_()
        wanted, losses = [vectors], knowledge.network.task.loss
        if labels_R is None:
            shape = (text.problem.size, *knowledge.network.outputs)
            wanted.append(torch.randn(shape, generator=generator, device=vectors.device).requires_grad_())

        def loss(outputs: Tensor, places_B: Tensor) -> Tensor:
            if labels_R is not None:
                return losses(outputs, labels_R[places_B]).mean()
            return -(wanted[1][places_B].softmax(-1) * log_softmax(outputs, -1)).sum(-1).mean()

        optimizer = torch.optim.Adam(wanted, lr=self.lr)
        best, least = vectors.detach().clone(), float("inf")
        for _ in range(self.steps):
            off_D = text.matched(text.problem.simulation.gradient(vectors, loss) - text.problem.seen_D)
            value = off_D.square().sum() + self.l1 * off_D.abs().sum()
            found = torch.autograd.grad(value, wanted)
            if (now := float(value.detach())) < least:
                best, least = vectors.detach().clone(), now
            for one, gradient in zip(wanted, found, strict=True):
                one.grad = gradient
            nn.utils.clip_grad_norm_(wanted, self.max_norm)
            optimizer.step()
        return best, least


@dataclass(frozen=True, eq=False)
class _Text:
    """A search over embeddings in the place of tokens.

    Args:
        problem: the search; its model takes embeddings, of shape (n, T, E).
        name: the parameter that is the table of embeddings; empty if it is not trained.
        network: the architecture.
        table_VE: the embeddings of all tokens.
        places: T, the number of tokens of a text.
    """

    problem: Problem
    name: str
    network: Network
    table_VE: Tensor
    places: int

    @classmethod
    def of(cls, network: Network, problem: Problem, kind: str, x_n: Tensor) -> _Text:
        """Let the model of a problem take embeddings.

        Raises:
            ViewError: its first embedding does not take the tokens as they are.
        """
        module = problem.simulation.module
        found = _embedding(module)
        assert found is not None
        name, layer = found
        seen = list[Tensor]()
        probe = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        module(x_n)
        probe.remove()
        if len(seen) != 1 or seen[0].shape != x_n.shape or not bool((seen[0] == x_n).all()):
            raise ViewError(
                f"{kind!r}: the model's embedding does not take its inputs as they are, tokens of shape (n, places)"
            )
        given = list[Tensor]()

        def take(_: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
            given[:] = [inputs[0]]
            return x_n.new_zeros(inputs[0].shape[:2])

        module.register_forward_pre_hook(take)
        layer.register_forward_hook(lambda *_: given[0])
        weight = f"{name}.weight" if name else "weight"
        named = problem.simulation.weights
        table_VE = named[weight].detach() if weight in named else layer.weight.detach()
        return cls(problem, weight if weight in named else "", network, table_VE, x_n.shape[1])

    def noise(self, generator: torch.Generator) -> Tensor:
        """Embeddings of normal numbers, as large as those of tokens are."""
        shape = (self.problem.size, self.places, self.table_VE.shape[1])
        return torch.randn(shape, generator=generator, device=self.table_VE.device) * self.table_VE.std()

    def part(self, vector_D: Tensor) -> Tensor:
        """The entries of the table of embeddings, of shape (V, E); zeros if it is not trained."""
        return self.network.layout.unflatten(vector_D)[self.name] if self.name else torch.zeros_like(self.table_VE)

    def matched(self, vector_D: Tensor) -> Tensor:
        """All entries but those."""
        named = self.network.layout.unflatten(vector_D)
        return torch.cat([one.flatten() for name, one in named.items() if name != self.name])

    def nearest(self, vectors_RTE: Tensor, allowed_V: Tensor) -> Tensor:
        """The nearest allowed token of each embedding, of shape (R, T)."""
        off_RTV = torch.cdist(vectors_RTE, self.table_VE.expand(len(vectors_RTE), -1, -1))
        return off_RTV.masked_fill(~allowed_V, torch.inf).argmin(-1)


def _embedding(module: nn.Module) -> tuple[str, nn.Embedding] | None:
    """The first embedding of a model, with its name."""
    return next(((name, one) for name, one in module.named_modules() if isinstance(one, nn.Embedding)), None)
