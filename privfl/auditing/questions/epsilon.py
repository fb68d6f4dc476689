"""Epsilon: how large must ε be, whatever the mechanism is?"""

from __future__ import annotations

from typing import ClassVar

from privfl.auditing.bound import PrivacyCurve
from privfl.auditing.epsilon import chosen_guesses, one_run_audit
from privfl.auditing.questions import Claim, Claims, Finding, Question, Truth
from privfl.auditing.questions._claims import LEVEL, require_canaries, scored, share_of
from privfl.auditing.questions._scores import ScoresClaim
from privfl.tables import Frozen


class EpsilonRecord(Frozen):
    """ε is at least ``epsilon_lower`` at confidence ``level``, whatever the mechanism is.

    ``correct`` of ``guesses`` guesses about ``candidates`` canaries were right. ``ceiling`` is the bound if all had been.
    """

    attack: str
    variant: str
    rounds: list[int]
    epsilon_lower: float
    ceiling: float
    level: float
    guesses: int
    correct: int
    candidates: int


class EpsilonFinding(Finding):
    """Lower bounds on ε, one for each variant of the audits of one adversary; with probability 0.95 all of them hold.

    ``promised`` is the ε of the run at ``delta`` against this adversary; None if nothing is promised against it.
    """

    canaries: int
    members: int
    promised: float | None
    delta: float
    audits: list[EpsilonRecord]

    def rounds_by_attack(self) -> dict[str, tuple[int, ...]]:
        """See :class:`privfl.auditing.questions.Finding`."""
        return {one.attack: tuple(one.rounds) for one in self.audits}

    def contradicts(self) -> list[EpsilonRecord]:
        """The audits whose bound is above the promise."""
        return [] if self.promised is None else [one for one in self.audits if one.epsilon_lower > self.promised]


class Epsilon(Question):
    """A lower bound on ε by the one-run audit (Steinke, Nasr & Jagielski 2023), which holds for any mechanism.

    One half of the canaries chooses how many guesses are made, and the other half counts. The error rate of 5 % is divided
    among the variants.
    """

    kind: str = "epsilon"
    claim: ClassVar[type[Claim]] = ScoresClaim
    finding: ClassVar[type[Finding]] = EpsilonFinding

    def require_possible(self, truth: Truth) -> None:
        """See :class:`privfl.auditing.questions.Question`: each half of the canaries has both kinds."""
        require_canaries(truth)

    def evaluate(self, claims: Claims, truth: Truth, promise: PrivacyCurve | None) -> EpsilonFinding:
        """See :class:`privfl.auditing.questions.Question`."""
        member_N, delta = truth.candidate_members, 0.0 if promise is None else promise.delta
        chosen_N, variants = share_of(len(member_N), 0.5, truth.halves_generator()), scored(claims)
        level = 1 - (1 - LEVEL) / len(variants)
        records = []
        for attack, variant, rounds, scores_N in variants:
            guesses = chosen_guesses(scores_N[chosen_N], member_N[chosen_N], level)
            found = one_run_audit(scores_N[~chosen_N], member_N[~chosen_N], delta, level, guesses)
            records.append(
                EpsilonRecord(
                    attack=attack,
                    variant=variant,
                    rounds=rounds,
                    epsilon_lower=found.value,
                    ceiling=found.ceiling,
                    level=level,
                    guesses=found.guesses,
                    correct=found.correct,
                    candidates=found.candidates,
                )
            )
        return EpsilonFinding(
            question=self.kind,
            adversary=claims.adversary,
            shadow_models=claims.shadow_models,
            canaries=len(member_N),
            members=int(member_N.sum()),
            promised=None if promise is None else promise.epsilon,
            delta=delta,
            audits=records,
        )
