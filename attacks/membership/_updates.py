"""Membership from the update of each client: a score of each example in each round, and their mean over rounds."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks import Attack
from attacks.membership import FloatArray
from attacks.membership._sides import surprise
from privfl.adversaries import Adversary
from privfl.auditing.questions.membership import MembershipClaim
from privfl.errors import ConfigError, ViewError
from privfl.running.knowledge import Candidates, Knowledge, Measured, Network, OwnMeasured, Prospect
from privfl.running.views import ServerView, View


@dataclass(frozen=True, eq=False, repr=False)
class SeenRound:
    """One round as the server sees it that is sent single updates.

    Args:
        number: from 0.
        clients: the K clients whose updates arrived.
        model_D: the global model that the round began with.
        updates_KD: their updates, local minus global model.
        weights_K: their weights.
        knowledge: the examples that the server brings.
    """

    number: int
    clients: list[int]
    model_D: Tensor
    updates_KD: Tensor
    weights_K: Tensor
    knowledge: Knowledge

    @property
    def places(self) -> NDArray[np.int64]:
        """The row of each candidate's client among the K, of shape (N,); −1 if its update did not arrive."""
        return self.knowledge.candidates.places(self.clients)

    @property
    def own(self) -> OwnMeasured:
        """The measures of each candidate beside the update of its own client."""
        return self.knowledge.measures.own(self.number, self.clients, self.model_D, self.updates_KD)

    @property
    def every(self) -> Measured:
        """The measures of each candidate beside each update."""
        return self.knowledge.measures.every(self.number, self.clients, self.model_D, self.updates_KD)


def losses(knowledge: Knowledge, vector_D: Tensor, rows_n: NDArray[np.int64] | None = None) -> FloatArray:
    """The losses of some candidates, or of all, at a model, in evaluation mode; a task's loss is log(1 + e^−confidence)."""
    network: Network = knowledge.network
    candidates: Candidates = knowledge.candidates
    if rows_n is None:
        x, y_n = candidates.x, candidates.y_N
    else:
        x, y_n = candidates.x[torch.from_numpy(rows_n).to(candidates.x.device)], candidates.y_N[rows_n]
    return surprise(network.task.confidence(network.logits(vector_D, x), y_n))


def seen_rounds(view: View, knowledge: Knowledge) -> Iterator[SeenRound]:
    """The rounds in which an update arrived."""
    assert isinstance(view, ServerView)
    for number in view.rounds():
        clients = view.survivors(number)
        if clients:
            updates_KD, weights_K = view.updates(number)
            yield SeenRound(number, clients, view.model_before(number), updates_KD, weights_K, knowledge)


class OnUpdates(Attack):
    """An attack that is given the update of each client; no shadow models."""

    adversary: ClassVar[Adversary] = "server"

    needs: ClassVar[str] = "each client's update"

    cost: ClassVar[str] = "a pass forward and backward over the candidates in each round"

    on_sums: ClassVar[str] = "attack the sums with 'membership/gradient_cosine_sum'"
    """The way out if the server sees sums only."""

    least_clients: ClassVar[int] = 1
    """How many updates of one round it compares."""

    @property
    def compares(self) -> bool:
        """Whether it asks for each candidate beside each update."""
        return self.least_clients > 1

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.Attack`: the server sees single updates, and enough of them."""
        if prospect.hides_updates:
            raise ConfigError(
                f"aggregator: {self.kind!r} needs the update of each client, and this aggregator shows the server sums only; "
                f"set aggregator.kind = 'mean', or {self.on_sums}"
            )
        largest = max(map(len, prospect.cohorts))
        if largest < self.least_clients:
            raise ConfigError(
                f"cohort: {self.kind!r} compares the updates of at least {self.least_clients} clients of one round, and here a "
                f"round has at most {largest}; make the cohort larger"
            )
        super().require_possible(prospect)


class UpdatesAttack(OnUpdates):
    """A membership attack on the update of each client.

    The score of a variant is its mean over the rounds that say something about the example. If none does, because the update of
    its client never arrived or was not finite, the score is the median of the others'.
    """

    question: ClassVar[str] = "membership"

    def run(self, view: View, knowledge: Knowledge) -> MembershipClaim:
        """See :class:`attacks.Attack`.

        Raises:
            ViewError: no round had enough updates.
        """
        rounds = (seen for seen in seen_rounds(view, knowledge) if len(seen.clients) >= self.least_clients)
        found = mean_scores(map(self.score, rounds))
        if not found:
            raise ViewError(
                f"{self.kind!r}: no round has the finite updates of {self.least_clients} or more clients; "
                "run it with a larger cohort, or a lower training.lr"
            )
        return MembershipClaim(found)

    @abstractmethod
    def score(self, seen: SeenRound) -> Mapping[str, FloatArray]:
        """Variant -> one score for each candidate, of shape (N,), higher means member; NaN if the round says nothing of it."""


def evenly(rounds: Sequence[int], most: int) -> list[int]:
    """So many of some rounds at most, taken evenly, the first and the last among them."""
    places = np.linspace(0, len(rounds) - 1, min(most, len(rounds))).round().astype(int)
    return [rounds[place] for place in places]


def mean_scores(rounds: Iterable[Mapping[str, FloatArray]]) -> dict[str, FloatArray]:
    """The mean over rounds of each variant's scores.

    Args:
        rounds: variant -> scores of shape (N,), round by round; one that is not finite says nothing of its example.

    Returns:
        variant -> scores; the median if no round says anything of an example. Nothing at all if none says anything of any.
    """
    totals: dict[str, FloatArray] = {}
    counts: dict[str, FloatArray] = {}
    for scores in rounds:
        for variant, scores_N in scores.items():
            sound_N, nothing_N = np.isfinite(scores_N), np.zeros(len(scores_N))
            totals[variant] = totals.get(variant, nothing_N) + np.where(sound_N, scores_N, 0.0)
            counts[variant] = counts.get(variant, nothing_N) + sound_N
    if not any(count_N.any() for count_N in counts.values()):
        return {}
    return {variant: _means(totals[variant], counts[variant]) for variant in totals}


def _means(total_N: FloatArray, count_N: FloatArray) -> FloatArray:
    """The means; the median of them where there is nothing to take a mean of."""
    mean_N = total_N / np.maximum(count_N, 1)
    return np.where(count_N > 0, mean_N, np.median(mean_N[count_N > 0]) if count_N.any() else 0.0)
