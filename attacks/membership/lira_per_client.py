"""LiRA on local models: the local model of each client beside models that the server trains in that client's place (the test of
Carlini et al. 2022 with the variance of Brännvall 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from attacks._local import LocalTraining
from attacks.membership import BoolArray, FloatArray
from attacks.membership._scores import bavaria_t, normal
from attacks.membership._sides import Side, Sides
from attacks.membership._updates import OnUpdates, SeenRound, evenly, mean_scores, seen_rounds
from privfl.auditing.questions.membership import MembershipClaim
from privfl.errors import ViewError
from privfl.running.knowledge import Knowledge
from privfl.running.views import ServerView, View


class LiraPerClient(OnUpdates):
    """Does a client's local model treat an example like models that were trained in its place with it, or without it?

    In some rounds, taken evenly over the run, the server trains ``shadows`` local models for each client from the model of the
    round, by the public settings. Each is trained on a random half of the client's candidates. Fresh examples stand for the
    client's others, which the server does not know. The shadow models of the run are models of all clients and are not used.
    The simulation is without noise and clip.

    Args:
        rounds: how many rounds.
        shadows: how many local models for each client and round.

    Variants:
        ``BaVarIA-t``: the log-ratio of the two predictives, as in ``membership/bavaria``; the mean over rounds.
        ``fixed variance``: the log-ratio of two normals with one variance for each side.
    """

    question: ClassVar[str] = "membership"

    threat: ClassVar[str] = "A server that sees each client's update and trains others in its place wants to know its examples."

    needs: ClassVar[str] = "each client's update, fresh examples"

    cost: ClassVar[str] = "the local training of the simulated clients in some rounds"

    rounds: PositiveInt = 2
    shadows: Annotated[int, Field(ge=2)] = 16

    def run(self, view: View, knowledge: Knowledge) -> MembershipClaim:
        """See :class:`attacks.Attack`.

        Raises:
            ViewError: no update was finite.
        """
        assert isinstance(view, ServerView)
        chosen = evenly([number for number in view.rounds() if view.survivors(number)], self.rounds)
        found = mean_scores(self._scores(seen) for seen in seen_rounds(view, knowledge) if seen.number in chosen)
        if not found:
            raise ViewError(
                f"{self.kind!r}: no round has finite updates of candidates' clients; run it with a lower training.lr"
            )
        return MembershipClaim(found)

    def _scores(self, seen: SeenRound) -> Mapping[str, FloatArray]:
        """The scores of one round; NaN for the examples of clients whose update did not arrive."""
        place_N, generator = seen.places, torch.Generator().manual_seed(seen.number)
        target_N = np.full(len(place_N), np.nan)
        shadow_SN, member_SN = np.zeros((self.shadows, len(place_N))), np.zeros((self.shadows, len(place_N)), np.bool_)
        for place, update_D in enumerate(seen.updates_KD):
            rows_n = np.flatnonzero(place_N == place)
            if len(rows_n) and update_D.isfinite().all():
                target_N[rows_n] = confidence(seen, update_D, rows_n)
                shadow_SN[:, rows_n], member_SN[:, rows_n] = self._trained(seen, place, rows_n, generator)
        rows_n = np.flatnonzero(np.isfinite(target_N) & np.isfinite(shadow_SN).all(0))
        if not len(rows_n):
            return {}
        shadow_Sn, member_Sn = shadow_SN[:, rows_n], member_SN[:, rows_n]
        inside, outside = Side.of(shadow_Sn, member_Sn), Side.of(shadow_Sn, ~member_Sn)
        target_n = target_N[rows_n]
        fixed_n = normal(target_n, inside.mean_N, inside.variance) - normal(target_n, outside.mean_N, outside.variance)
        made = {"BaVarIA-t": bavaria_t(Sides(target_n, shadow_Sn, inside, outside)), "fixed variance": fixed_n}
        scores = {variant: np.full(len(place_N), np.nan) for variant in made}
        for variant, score_n in made.items():
            scores[variant][rows_n] = score_n
        return scores

    def _trained(
        self, seen: SeenRound, place: int, rows_n: NDArray[np.int64], generator: torch.Generator
    ) -> tuple[FloatArray, BoolArray]:
        """The confidence of local models in one client's candidates, and who of them was trained on, both of shape (S, n)."""
        knowledge = seen.knowledge
        training = LocalTraining(knowledge, seen.number, seen.model_D)
        owned = training.owned(float(seen.weights_K[place]))
        # Every candidate is in half of the models, so that both sides are there.
        order_Sn = torch.rand(self.shadows, len(rows_n), generator=generator).argsort(0).numpy()
        member_Sn: BoolArray = order_Sn < self.shadows // 2
        candidates, population, found = knowledge.candidates, knowledge.population, []
        for member_n in member_Sn:
            others = torch.randperm(len(population), generator=generator)[: max(owned - len(rows_n), 1)]
            inside = torch.from_numpy(rows_n[member_n])
            x = [one.x[at.to(one.x.device)] for one, at in ((candidates, inside), (population, others))]
            y = np.concatenate([candidates.y_N[inside.numpy()], population.y_N[others.numpy()]])
            update_D = training.update(torch.cat(x), torch.from_numpy(y).to(x[0].device), owned, generator)
            found.append(confidence(seen, update_D, rows_n))
        return np.stack(found), member_Sn


def confidence(seen: SeenRound, update_D: torch.Tensor, rows_n: NDArray[np.int64]) -> FloatArray:
    """The confidence φ of the local model that an update leads to in some candidates, of shape (n,)."""
    network, candidates = seen.knowledge.network, seen.knowledge.candidates
    x_n = candidates.x[torch.from_numpy(rows_n).to(candidates.x.device)]
    return network.task.confidence(network.logits(seen.model_D + update_D, x_n), candidates.y_N[rows_n])
