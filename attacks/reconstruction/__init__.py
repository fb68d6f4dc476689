"""SHELF of reconstruction attacks: which inputs, and which labels, did a client train on?

An item is one module with one class that derives from :class:`attacks.Attack` and answers the question ``reconstruction``; its
fields are its settings. An attack on an update, or on a sum of updates, derives from :class:`ReconstructionAttack`, which picks
the updates and turns the answer into a claim.

Suffixes: D parameters, R reconstructed examples.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from attacks import Attack
from privfl.adversaries import Adversary
from privfl.auditing.questions.reconstruction import Reconstructed, ReconstructionClaim
from privfl.data.input_store import InputStore
from privfl.errors import ConfigError, ViewError
from privfl.running.knowledge import Knowledge, Prospect
from privfl.running.views import ServerView, View


@dataclass(frozen=True, eq=False, repr=False)
class Target:
    """One update, or the mean of several, that is attacked.

    Args:
        round: from 0.
        clients: whose update it is; several for a sum.
        model_D: the global model that the round began with.
        update_D: the update, or the mean of several by their weights, local minus global model.
        weight: the weight of the client as a share of the largest client's; of a sum, the sum of the weights.
    """

    round: int
    clients: tuple[int, ...]
    model_D: Tensor
    update_D: Tensor
    weight: float

    def gradient(self, knowledge: Knowledge) -> Tensor:
        """The mean gradient of the examples at the global model, of length D, without weight decay.

        It is exact for one local step of SGD, and about that for several.
        """
        scale = knowledge.protocol.step_weight(self.round)
        assert scale, "require_possible refuses such an optimizer"
        return -self.update_D / scale - knowledge.protocol.training.weight_decay * self.model_D

    def size(self, knowledge: Knowledge) -> int:
        """The number of examples behind it at most: clients' sizes are public, and so are batches and local steps."""
        training, owned = knowledge.protocol.training, max(1, round(knowledge.protocol.largest * self.weight))
        if training.local_steps is None:
            return owned
        return min(owned, training.local_steps * training.batch_size * len(self.clients))


@dataclass(frozen=True, eq=False, repr=False)
class Found:
    """Reconstructed examples of one target.

    Args:
        inputs_R: inputs as the model takes them, of shape (R, ...); None: labels alone.
        labels_R: their labels, of shape (R,); None: inputs alone.
    """

    inputs_R: Tensor | None
    labels_R: Tensor | None = None


class ReconstructionAttack(Attack):
    """An attack on the updates of a round, or on their sum.

    Args:
        of: ``update``: the update of each client; ``sum``: the sum of a round's updates, which is all that secure aggregation
            shows.
        round: which round, from 0. Gradients of an untrained model give most away.
        clients: whose updates; none given means the first ``most`` that moved the model.
        most: how many updates.
    """

    adversary: ClassVar[Adversary] = "server"
    question: ClassVar[str] = "reconstruction"

    of: Literal["update", "sum"] = "update"
    round: NonNegativeInt = 0
    clients: Annotated[tuple[NonNegativeInt, ...], Field(strict=False)] = ()
    most: PositiveInt = 1

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.Attack`: the round has the clients, their updates are seen, and are linear in gradients."""
        if prospect.hides_updates and self.of == "update":
            raise ConfigError(
                f"aggregator: {self.kind!r} needs the update of each client, and this aggregator shows the server sums only; "
                f'attack the sum by attacks.run=[{{kind="{self.kind}",of="sum"}}], or set aggregator.kind = \'mean\''
            )
        if self.round >= len(prospect.cohorts):
            raise ConfigError(
                f"attacks.run: {self.kind!r} attacks round = {self.round}, and there are {len(prospect.cohorts)}, numbered "
                "from 0; lower it, or raise rounds"
            )
        cohort = prospect.cohorts[self.round]
        if absent := sorted(set(self.clients) - set(cohort)):
            raise ConfigError(
                f"attacks.run: {self.kind!r} attacks clients = {list(self.clients)}, and {absent[0]} takes no part in round "
                f"{self.round}; name others, such as {cohort[0] if cohort else 'those of another round'}"
            )
        training = prospect.protocol.training
        if prospect.protocol.step_weight(self.round) is None:
            raise ConfigError(
                f"training.optimizer = {training.optimizer.kind!r}: {self.kind!r} reads gradients off updates, and these are "
                "not linear in the gradients; set training.optimizer = 'sgd'"
            )
        super().require_possible(prospect)

    def run(self, view: View, knowledge: Knowledge) -> ReconstructionClaim:
        """See :class:`attacks.Attack`.

        Raises:
            ViewError: no such update moved the model.
        """
        assert isinstance(view, ServerView)
        made: dict[str, list[Reconstructed]] = {}
        for target in self.targets(view):
            for variant, found in self.reconstruct(target, knowledge).items():
                made.setdefault(variant, []).append(claimed(target, found, knowledge))
        if not made:
            raise ViewError(f"{self.kind!r}: no update of round {self.round} moved the model; attack another round")
        return ReconstructionClaim(made)

    def targets(self, view: ServerView) -> Iterator[Target]:
        """The updates that are attacked, or the sum; those that are not finite or moved nothing are left out."""
        survivors = view.survivors(self.round)
        if not survivors:
            return
        model_D = view.model_before(self.round)
        if self.of == "sum":
            sum_D, weight = view.sums(self.round)
            if _moved(sum_D):
                yield Target(self.round, tuple(survivors), model_D, (sum_D / weight).to(model_D.dtype), weight)
            return
        updates_KD, weights_K = view.updates(self.round)
        chosen = [k for k, client in enumerate(survivors) if not self.clients or client in self.clients]
        moved = [k for k in chosen if _moved(updates_KD[k])]
        for k in moved if self.clients else moved[: self.most]:
            yield Target(self.round, (survivors[k],), model_D, updates_KD[k], float(weights_K[k]))

    @abstractmethod
    def reconstruct(self, target: Target, knowledge: Knowledge) -> Mapping[str, Found]:
        """Variant -> the examples behind one target."""


def claimed(target: Target, found: Found, knowledge: Knowledge) -> Reconstructed:
    """The claim about one target: pixels from 0 to 1 if the data are images as bytes."""
    inputs_R, labels_R, store = found.inputs_R, found.labels_R, knowledge.population.x
    if inputs_R is not None and isinstance(store, InputStore):
        inputs_R = store.pixels_of(inputs_R.to(store.device))
    return Reconstructed(
        target.round,
        target.clients,
        None if inputs_R is None else inputs_R.detach().cpu().numpy(),
        None if labels_R is None else labels_R.cpu().numpy().astype(np.int64),
    )


def _moved(update_D: Tensor) -> bool:
    return bool(update_D.isfinite().all()) and bool(update_D.any())
