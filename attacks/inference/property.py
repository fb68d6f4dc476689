"""A property of a client's examples from its update, or of a cohort's from the sum (Melis et al. 2019, "Exploiting unintended
feature leakage in collaborative learning", section 4.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor
from torch.nn.functional import adaptive_max_pool1d

from attacks import Attack
from attacks._local import LocalTraining
from privfl.adversaries import Adversary
from privfl.auditing.questions.property import Asked, PropertyClaim
from privfl.errors import ConfigError, ViewError
from privfl.running.knowledge import Knowledge, Prospect
from privfl.running.views import ServerView, View

_POOLED: Final = 64
"""So many features are left of each parameter tensor."""

Target = tuple[tuple[int, ...], list[float], Tensor]
"""The clients behind an update or a sum, their weights, and the update or sum."""


class Property(Attack):
    """Do most of a client's examples have a property, such as one class?

    In each of the first ``rounds`` rounds the server simulates the training of clients from the model of the round, on its own
    fresh examples, drawn so that half of these clients have the property. A random forest (100 trees, at least 5 examples to
    split and in a leaf) learns to tell their updates apart and is asked about those that arrived. The features are the entries
    of the update over its norm, max pooled to 64 numbers for each parameter tensor. The simulation is without noise and clip.

    Args:
        of: ``update``: the update of each client; ``sum``: the sum of a round's updates, which is all that secure aggregation
            shows. The property is then that of all of the cohort's examples together.
        label: the class that counts.
        column: in place of the class, the place of a number among an example's inputs, from 0.
        above: the number counts if it is above this.
        share: a client has the property if more than this share of its examples counts.
        rounds: how many rounds, from the first.
        simulated: how many updates or sums are simulated for each round.

    Variants:
        ``update`` or ``sum``: the probability by the forest; of a client the mean over the rounds in which its update arrived.
    """

    adversary: ClassVar[Adversary] = "server"

    question: ClassVar[str] = "property"

    threat: ClassVar[str] = "A server that sees updates, or their sums, wants to know a property of all of a client's data."

    needs: ClassVar[str] = "each client's update or the sums, fresh examples with and without the property"

    cost: ClassVar[str] = "the local training of the simulated clients in each round"

    of: Literal["update", "sum"] = "update"
    label: NonNegativeInt = 0
    column: NonNegativeInt | None = None
    above: float = 0.5
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    rounds: PositiveInt = 5
    simulated: Annotated[int, Field(ge=20)] = 100

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.Attack`: updates are seen, and the class or column exists."""
        if prospect.hides_updates and self.of == "update":
            raise ConfigError(
                f"aggregator: {self.kind!r} needs the update of each client, and this aggregator shows the server sums only; "
                f'attack the sums by attacks.run=[{{kind="{self.kind}",of="sum"}}], or set aggregator.kind = \'mean\''
            )
        width = prospect.input_shape
        if self.column is not None and (len(width) != 1 or self.column >= width[0]):
            raise ConfigError(
                f"attacks.run: {self.kind!r} has column = {self.column}, and an example's inputs have the shape {width}; name "
                "a place in a table's row, or set label"
            )
        super().require_possible(prospect)

    def run(self, view: View, knowledge: Knowledge) -> PropertyClaim:
        """See :class:`attacks.Attack`.

        Raises:
            ConfigError: fresh examples are alike in what counts.
            ViewError: no update arrived in these rounds.
        """
        assert isinstance(view, ServerView)
        asked = Asked(label=self.label, column=self.column, above=self.above, share=self.share)
        counts_P = self._counts(asked, knowledge)
        found: dict[tuple[int, ...], list[float]] = {}
        for number in view.rounds()[: self.rounds]:
            targets = [one for one in self._targets(view, number) if one[2].isfinite().all() and one[2].any()]
            if not targets:
                continue
            generator = torch.Generator().manual_seed(number)
            training = LocalTraining(knowledge, number, view.model_before(number))
            forest = self._learned(training, counts_P, [one[1] for one in targets], generator)
            features = np.stack([self._features(knowledge, one[2]) for one in targets])
            has = forest.predict_proba(features)[:, list(forest.classes_).index(1)]
            for (clients, _, _), probability in zip(targets, has, strict=True):
                # Two sums of the same clients have one truth.
                found.setdefault(clients, []).append(float(probability))
        if not found:
            raise ViewError(
                f"{self.kind!r}: no finite update arrived in the first {self.rounds} rounds; raise its setting rounds"
            )
        scores_T = np.array([np.mean(probabilities) for probabilities in found.values()])
        return PropertyClaim(asked, list(found), {self.of: scores_T})

    def _targets(self, view: ServerView, number: int) -> Iterator[Target]:
        survivors = view.survivors(number)
        if not survivors:
            return
        if self.of == "sum":
            sum_D, weight = view.sums(number)
            # Under secure aggregation the server knows sizes, which are public; here their mean stands for each.
            yield tuple(survivors), [weight / len(survivors)] * len(survivors), sum_D.float()
            return
        updates_KD, weights_K = view.updates(number)
        for client, update_D, weight in zip(survivors, updates_KD, weights_K.tolist(), strict=True):
            yield (client,), [weight], update_D

    def _counts(self, asked: Asked, knowledge: Knowledge) -> NDArray[np.bool_]:
        """Whether each fresh example counts."""
        population = knowledge.population
        x = population.x[:].cpu().numpy() if asked.column is not None else np.zeros((len(population), 1))
        counts_P = asked.of(x, population.y_N)
        if counts_P.ndim != 1 or counts_P.all() or not counts_P.any():
            raise ConfigError(
                f"attacks.run: {self.kind!r} asks whether {asked.words()}, and all fresh examples are alike in that; name "
                "another class by label, or a column and above"
            )
        return counts_P

    def _learned(
        self, training: LocalTraining, counts_P: NDArray[np.bool_], weights: list[list[float]], generator: torch.Generator
    ) -> RandomForestClassifier:
        """A forest that tells simulated updates with the property from those without."""
        has = [bool(at % 2) for at in range(self.simulated)]
        features = [
            self._features(training.knowledge, self._simulated(training, counts_P, one, weights[at % len(weights)], generator))
            for at, one in enumerate(has)
        ]
        forest = RandomForestClassifier(100, min_samples_leaf=5, min_samples_split=5, random_state=0)
        return forest.fit(np.stack(features), np.array(has, dtype=np.int64))

    def _simulated(
        self,
        training: LocalTraining,
        counts_P: NDArray[np.bool_],
        has: bool,
        weights: list[float],
        generator: torch.Generator,
    ) -> Tensor:
        """The update of a simulated client, or the sum of a simulated cohort, of length D."""
        low, high = (self.share, 1.0) if has else (0.0, self.share)
        of_all = low + (high - low) * float(torch.rand(1, generator=generator))
        sides = [torch.from_numpy(np.flatnonzero(counts_P == side)) for side in (True, False)]
        population, total_D = training.knowledge.population, torch.zeros(0)
        for weight in weights:
            owned = training.owned(weight)
            counted = round(of_all * owned)
            rows_n = torch.cat(
                [
                    side[torch.randint(len(side), (size,), generator=generator)]
                    for side, size in zip(sides, (counted, owned - counted), strict=True)
                ]
            )
            y_n = torch.from_numpy(population.y_N[rows_n.numpy()]).to(population.x.device)
            update_D = training.update(population.x[rows_n.to(population.x.device)], y_n, owned, generator)
            total_D = weight * update_D + (total_D if len(total_D) else 0.0)
        return total_D

    def _features(self, knowledge: Knowledge, update_D: Tensor) -> NDArray[np.float32]:
        """The update over its norm, with 64 numbers left of each longer tensor."""
        parts = knowledge.network.layout.unflatten(update_D.float() / update_D.norm().clamp_min(1e-30))
        pooled = [_pooled(part.flatten()) for part in parts.values()]
        features: NDArray[np.float32] = torch.cat(pooled).nan_to_num().numpy()
        return features


def _pooled(part: Tensor) -> Tensor:
    return part if len(part) <= _POOLED else adaptive_max_pool1d(part[None, None], _POOLED)[0, 0]
