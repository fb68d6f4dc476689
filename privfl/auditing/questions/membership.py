"""Membership question: was this example trained on?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from privfl.adversaries import Adversary
from privfl.auditing.bound import PrivacyCurve
from privfl.auditing.evaluation import AttackEvaluation, best_scores, evaluate, require_both_kinds
from privfl.auditing.false_positives import FalsePositives, example_rates
from privfl.auditing.questions import Arrays, AttackClaim, Claim, Claims, Finding, Question, Truth
from privfl.auditing.questions._details import ExposedMember, Grouping, exposed, groupings
from privfl.auditing.questions._scores import ScoresClaim
from privfl.auditing.roc import Estimate, OperatingPoint
from privfl.records import Curve, Interval
from privfl.tables import Frozen

FloatArray = NDArray[np.float64]


_COUNTS: Final = " | accused"
"""Ends the name of an array of false positives; its last row is the number of models."""


@dataclass(frozen=True)
class MembershipClaim(ScoresClaim):
    """A score for each candidate, by the name of each variant of the attack: higher means member.

    Args:
        scores: as of :class:`privfl.auditing.questions._scores.ScoresClaim`.
        false_positives: variant -> the false positives of each candidate, by shadow models that play the target; may be empty.
    """

    false_positives: Mapping[str, FalsePositives] = field(default_factory=dict)

    def arrays(self, attack: str) -> dict[str, NDArray[Any]]:
        """``attack: variant`` -> scores, and ``attack: variant | accused`` -> counts of false positives and of models."""
        counted = {
            f"{attack}: {variant}{_COUNTS}": np.vstack([one.accused_FN, one.models_N])
            for variant, one in self.false_positives.items()
        }
        return {**super().arrays(attack), **counted}

    @classmethod
    def from_arrays(cls, attack: str, arrays: Arrays) -> Self:
        """The claim from the arrays that :meth:`arrays` gave."""
        scores = {name: array for name, array in arrays.items() if not name.endswith(_COUNTS)}
        counted = {
            name.removeprefix(f"{attack}: ").removesuffix(_COUNTS): FalsePositives(array[:-1], array[-1])
            for name, array in arrays.items()
            if name.endswith(_COUNTS)
        }
        return cls(ScoresClaim.from_arrays(attack, scores).scores, counted)

    def checked(self, attack: str, candidates: int) -> Self:
        """See :class:`privfl.auditing.questions._scores.ScoresClaim`."""
        return type(self)(ScoresClaim(self.scores).checked(attack, candidates).scores, self.false_positives)


class RateAt(Frozen):
    """True-positive rate at one false-positive rate; ``tpr`` is None, with a reason, if the sample cannot resolve it."""

    fpr: float
    tpr: Interval | None
    reason: str | None = None


class ExampleRatesRecord(Frozen):
    """The false-positive rates of single examples (:class:`privfl.auditing.false_positives.ExampleRates`).

    ``fpr`` is the nominal rate over all examples, ``pooled`` the rate that the threshold has. ``models`` is the least number of
    models that were not trained on an example, each of which played the target.
    """

    fpr: float
    pooled: float
    worst: Interval
    worst_by_chance: float
    spread: Interval
    never: float
    models: int


class AttackRecord(Frozen):
    """Figures of one variant of one attack, on all candidates.

    ``rounds`` are the rounds whose views it used; none if it used the final model only. ``asked`` is the number of further
    rounds that a malicious server asked for, which the ledger does not price. ``roc_fpr`` and ``roc_tpr`` are the
    ROC curve, thinned for drawing. ``exceeds_bound`` is True if, at one of the ``rates``, the attack exceeded the bound of
    the promised ε by more than chance (corrected for all variants and rates of this adversary); None if nothing is promised
    against this adversary. ``examples`` are the false-positive rates of single examples; None if they were not counted, or if
    ties leave no threshold.
    """

    attack: str
    variant: str
    question: str
    adversary: Adversary
    rounds: list[int]
    asked: int = 0
    auc: Interval
    balanced_accuracy: float
    rates: list[RateAt]
    roc_fpr: Curve
    roc_tpr: Curve
    exceeds_bound: bool | None
    examples: ExampleRatesRecord | None = None


class BestAttack(Frozen):
    """The attack that was best on one half of the candidates, measured on the other half.

    All figures are from the candidates that did not choose it, ``candidates`` in number: the only figures that stand for the
    best attack, since those of its :class:`AttackRecord` include the candidates on which it was lucky. ``headline_fpr`` is the
    false-positive rate that stands for all: 1 % if these candidates resolve it, or else the lowest that they do.
    ``epsilon_lower`` is a lower bound on ε at confidence ``level`` (one-run audit, Steinke 2023). ``epsilon_ceiling`` is the
    bound if every guess had been right; no larger ε could have been refuted (about ln(r/3) for r guesses).
    """

    attack: str
    variant: str
    candidates: int
    auc: Interval
    rates: list[RateAt]
    headline_fpr: float
    roc_fpr: Curve
    roc_tpr: Curve
    epsilon_lower: float
    epsilon_ceiling: float
    level: float
    delta: float


class MembershipFinding(Finding):
    """The finding about the membership attacks of one adversary.

    ``groupings`` has the figures of the best attack by class, by client and by the data's own groups. ``exposed`` lists the
    members that it ranks highest, with their inputs if these are images; it is empty if ``attacks.exposed`` is 0.
    """

    members: int
    nonmembers: int
    attacks: list[AttackRecord]
    best: BestAttack
    groupings: list[Grouping]
    exposed: list[ExposedMember]

    def rounds_by_attack(self) -> dict[str, tuple[int, ...]]:
        """See :class:`privfl.auditing.questions.Finding`."""
        return {one.attack: tuple(one.rounds) for one in self.attacks}

    def asked_by(self) -> dict[str, int]:
        """See :class:`privfl.auditing.questions.Finding`."""
        return {one.attack: one.asked for one in self.attacks if one.asked}


class OutsideFinding(MembershipFinding):
    """The finding about a model trained elsewhere; ``source`` is the origin of its predictions or scores.

    ``blind`` is the AUC of a classifier that sees the candidates' inputs and labels, and no model; None if neither is given.
    If candidates are subjects, each has the mean score of its records, and ``records`` is the number of all records.
    """

    source: str
    blind: Interval | None
    records: int | None = None


class Membership(Question):
    """Membership: was this example trained on? Judged by ROC curve, AUC, TPR at low FPRs and a lower bound on ε.

    The candidates are examples whose membership was an independent fair coin. See :func:`privfl.auditing.evaluate`.
    """

    kind: str = "membership"
    claim: ClassVar[type[Claim]] = MembershipClaim
    finding: ClassVar[type[Finding]] = MembershipFinding

    def require_possible(self, truth: Truth) -> None:
        """See :class:`privfl.auditing.questions.Question`: each half of the candidates has members and others."""
        require_both_kinds(truth.candidate_members, truth.halves_generator())

    def evaluate(self, claims: Claims, truth: Truth, promise: PrivacyCurve | None) -> MembershipFinding:
        """See :class:`privfl.auditing.questions.Question`."""
        member_N = truth.candidate_members
        scores = {attack: _scores(made) for attack, made in sorted(claims.by_attack.items())}
        found = evaluate(scores, member_N, promise, truth.halves_generator())
        best = best_scores(scores, member_N, truth.halves_generator())
        groups = {by: group_N[truth.candidate_N] for by, group_N in truth.groups().items()}
        listed: list[ExposedMember] = []
        if truth.exposed:
            rows_N = np.flatnonzero(truth.candidate_N)
            listed = exposed(best, member_N, rows_N, groups, truth.examples()[0], truth.exposed)
        return self._finding(claims, found, groupings(best, member_N, groups, found.best.headline_fpr), listed)

    def _finding(
        self, claims: Claims, found: AttackEvaluation, grouped: list[Grouping], listed: list[ExposedMember]
    ) -> MembershipFinding:
        best = found.best
        return MembershipFinding(
            question=self.kind,
            adversary=claims.adversary,
            members=found.members,
            nonmembers=found.nonmembers,
            shadow_models=claims.shadow_models,
            attacks=[
                AttackRecord(
                    attack=one.attack,
                    variant=one.variant,
                    question=self.kind,
                    adversary=claims.adversary,
                    rounds=list(claims.by_attack[one.attack].rounds),
                    asked=claims.by_attack[one.attack].asked,
                    auc=_interval(one.auc, found.members + found.nonmembers),
                    balanced_accuracy=one.balanced_accuracy.value,
                    rates=[_rate(point, found.members) for point in one.operating_points],
                    roc_fpr=one.curve["fpr"],
                    roc_tpr=one.curve["tpr"],
                    exceeds_bound=_exceeds(one.operating_points),
                    examples=_examples(claims.by_attack[one.attack], one.variant, best.headline_fpr),
                )
                for one in found.variants
            ],
            best=BestAttack(
                attack=best.attack,
                variant=best.variant,
                candidates=best.measured_on,
                auc=_interval(best.auc, best.measured_on),
                rates=[_rate(point, best.members) for point in best.operating_points],
                headline_fpr=best.headline_fpr,
                roc_fpr=best.curve["fpr"],
                roc_tpr=best.curve["tpr"],
                epsilon_lower=best.epsilon.value,
                epsilon_ceiling=best.epsilon.ceiling,
                level=best.epsilon.level,
                delta=best.epsilon.delta,
            ),
            groupings=grouped,
            exposed=listed,
        )


def _scores(made: AttackClaim) -> Mapping[str, FloatArray]:
    assert isinstance(made.claim, MembershipClaim)
    return made.claim.scores


def _examples(made: AttackClaim, variant: str, fpr: float) -> ExampleRatesRecord | None:
    """The false-positive rates of single examples by one variant."""
    assert isinstance(made.claim, MembershipClaim)
    counted = made.claim.false_positives.get(variant)
    found = None if counted is None else example_rates(counted, fpr)
    if counted is None or found is None:
        return None
    return ExampleRatesRecord(
        fpr=fpr,
        pooled=found.pooled,
        worst=_interval(found.worst, found.models),
        worst_by_chance=found.worst_by_chance,
        spread=_interval(found.spread, len(counted.models_N)),
        never=found.never,
        models=found.models,
    )


def _interval(estimate: Estimate, count: int) -> Interval:
    return Interval(value=estimate.value, low=estimate.low, high=estimate.high, n=count, level=estimate.level)


def _rate(point: OperatingPoint, count: int) -> RateAt:
    return RateAt(fpr=point.fpr, tpr=None if point.tpr is None else _interval(point.tpr, count), reason=point.reason)


def _exceeds(points: Sequence[OperatingPoint]) -> bool | None:
    verdicts = [point.violated for point in points if point.violated is not None]
    return any(verdicts) if verdicts else None
