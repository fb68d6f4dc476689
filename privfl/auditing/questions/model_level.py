"""Model level: about how many members would attacks with shadow models find? An estimate without them, and no bound."""

from __future__ import annotations

from typing import ClassVar

from privfl.auditing.bound import PrivacyCurve
from privfl.auditing.evaluation import FPRS, require_both_kinds
from privfl.auditing.questions import Claim, Claims, Finding, Question, Truth
from privfl.auditing.questions._claims import scored
from privfl.auditing.questions._scores import ScoresClaim
from privfl.auditing.roc import operating_point, roc
from privfl.records import Interval
from privfl.tables import Frozen


class TailAt(Frozen):
    """The share of the others (TNR) with a lower score than all members but the share ``fnr``; None if not resolvable."""

    fnr: float
    tnr: Interval | None
    reason: str | None = None


class ModelLevelRecord(Frozen):
    """The tail of one variant's scores at each rate."""

    attack: str
    variant: str
    rounds: list[int]
    tails: list[TailAt]


class ModelLevelFinding(Finding):
    """Estimates of the TPR of attacks with many shadow models, each at the FPR that equals ``fnr``.

    An interval is that of the share in the tail. No interval says how far the estimate is from the TPR of any attack.
    """

    members: int
    nonmembers: int
    estimates: list[ModelLevelRecord]

    def rounds_by_attack(self) -> dict[str, tuple[int, ...]]:
        """See :class:`privfl.auditing.questions.Finding`."""
        return {one.attack: tuple(one.rounds) for one in self.estimates}


class ModelLevel(Question):
    """Model-level vulnerability: the true-negative rate of the loss at a low false-negative rate (Dodd et al. 2025).

    Examples at risk have moved from the tail of the losses to its head, so that the others fill the tail alone. The interval is
    that of :func:`privfl.auditing.operating_point`, with members and others in each other's place.
    """

    kind: str = "model_level"
    claim: ClassVar[type[Claim]] = ScoresClaim
    finding: ClassVar[type[Finding]] = ModelLevelFinding

    def require_possible(self, truth: Truth) -> None:
        """See :class:`privfl.auditing.questions.Question`: there are members and others."""
        require_both_kinds(truth.candidate_members, truth.halves_generator())

    def evaluate(self, claims: Claims, truth: Truth, promise: PrivacyCurve | None) -> ModelLevelFinding:  # noqa: ARG002
        """See :class:`privfl.auditing.questions.Question`; an estimate contradicts no promise."""
        member_N, records = truth.candidate_members, list[ModelLevelRecord]()
        members = int(member_N.sum())
        for attack, variant, rounds, scores_N in scored(claims):
            curve, tails = roc(-scores_N, ~member_N), list[TailAt]()
            for fnr in FPRS:
                found = operating_point(curve, fnr).tpr
                if found is None:
                    tails.append(TailAt(fnr=fnr, tnr=None, reason=f"{members} members are too few"))
                    continue
                tnr = Interval(value=found.value, low=found.low, high=found.high, n=len(member_N) - members, level=found.level)
                tails.append(TailAt(fnr=fnr, tnr=tnr))
            records.append(ModelLevelRecord(attack=attack, variant=variant, rounds=rounds, tails=tails))
        return ModelLevelFinding(
            question=self.kind,
            adversary=claims.adversary,
            shadow_models=claims.shadow_models,
            members=members,
            nonmembers=len(member_N) - members,
            estimates=records,
        )
