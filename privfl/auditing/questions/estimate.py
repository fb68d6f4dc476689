"""Estimate: about how large is ε? The numbers here are no bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from privfl.auditing.bound import PrivacyCurve
from privfl.auditing.estimates import last_iterate_epsilon, one_shot_epsilon, two_gaussian_epsilon
from privfl.auditing.questions import Arrays, Claim, Claims, Finding, Question, Truth
from privfl.auditing.questions._claims import require_canaries, scored
from privfl.auditing.questions._scores import ScoresClaim
from privfl.errors import DataError
from privfl.tables import Frozen

WITHOUT_PROMISE = 1e-5
"""The δ of the estimates if the run promises nothing."""


@dataclass(frozen=True)
class EstimateClaim(ScoresClaim):
    """A score for each canary, or its cosine.

    Args:
        scores: as of :class:`privfl.auditing.questions._scores.ScoresClaim`.
        dimensions: D, if the scores are cosines in D dimensions; else 0.
    """

    dimensions: int = 0

    def arrays(self, attack: str) -> dict[str, NDArray[Any]]:
        """``attack: variant`` -> scores, and ``dimensions``."""
        return {**super().arrays(attack), "dimensions": np.array(self.dimensions)}

    @classmethod
    def from_arrays(cls, attack: str, arrays: Arrays) -> Self:
        """The claim that :meth:`arrays` gave."""
        rest = {name: array for name, array in arrays.items() if name != "dimensions"}
        return cls(ScoresClaim.from_arrays(attack, rest).scores, int(arrays["dimensions"]))

    def checked(self, attack: str, candidates: int) -> Self:
        """See :class:`privfl.auditing.questions._scores.ScoresClaim`."""
        return type(self)(ScoresClaim(self.scores).checked(attack, candidates).scores, self.dimensions)


class EstimateRecord(Frozen):
    """An estimate of ε; None, with the reason, if there is none."""

    attack: str
    variant: str
    rounds: list[int]
    method: str
    epsilon: float | None
    reason: str | None = None


class EstimateFinding(Finding):
    """Point estimates of ε at ``delta``. None of them is a bound.

    ``last_iterate`` is about what an attack on the final model of DP-SGD can reach (Steinke et al. 2025), the largest over the
    clients, from the settings alone; None if the run is another mechanism. ``promised`` is the ε of the run.
    """

    canaries: int
    promised: float | None
    delta: float
    last_iterate: float | None
    estimates: list[EstimateRecord]

    def rounds_by_attack(self) -> dict[str, tuple[int, ...]]:
        """See :class:`privfl.auditing.questions.Finding`."""
        return {one.attack: tuple(one.rounds) for one in self.estimates}


class Estimate(Question):
    """A point estimate of ε from the canaries' scores: two Gaussians (one-shot: of cosines, one of them known beforehand)."""

    kind: str = "estimate"
    claim: ClassVar[type[Claim]] = EstimateClaim
    finding: ClassVar[type[Finding]] = EstimateFinding

    def require_possible(self, truth: Truth) -> None:
        """See :class:`privfl.auditing.questions.Question`: there are canaries of both kinds."""
        require_canaries(truth)

    def evaluate(self, claims: Claims, truth: Truth, promise: PrivacyCurve | None) -> EstimateFinding:
        """See :class:`privfl.auditing.questions.Question`."""
        member_N, delta = truth.candidate_members, WITHOUT_PROMISE if promise is None else promise.delta
        size = {attack: _dimensions(made.claim) for attack, made in claims.by_attack.items()}
        records = []
        for attack, variant, rounds, scores_N in scored(claims):
            method, value, reason = "one_shot" if size[attack] else "two_gaussians", None, None
            try:
                if size[attack]:
                    value = one_shot_epsilon(scores_N[member_N], size[attack], delta)
                else:
                    value = two_gaussian_epsilon(scores_N, member_N, delta)
            except DataError as error:
                reason = str(error)
            records.append(
                EstimateRecord(attack=attack, variant=variant, rounds=rounds, method=method, epsilon=value, reason=reason)
            )
        family = None if promise is None else promise.noise
        last = [] if family is None else [last_iterate_epsilon(family.promised, *one, delta) for one in family.samples]
        return EstimateFinding(
            question=self.kind,
            adversary=claims.adversary,
            shadow_models=claims.shadow_models,
            canaries=len(member_N),
            promised=None if promise is None else promise.epsilon,
            delta=delta,
            last_iterate=max(last, default=None),
            estimates=records,
        )


def _dimensions(claim: Claim) -> int:
    assert isinstance(claim, EstimateClaim)
    return claim.dimensions
