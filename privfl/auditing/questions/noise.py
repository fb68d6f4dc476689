"""Noise: is the noise of the mechanism that a run says it used as large as it promises?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from privfl.auditing.bound import NoiseFamily, PrivacyCurve
from privfl.auditing.family import RefutedNoise, clopper_pearson_noise, gaussian_pair_noise, one_run_noise
from privfl.auditing.questions import Arrays, Claim, Claims, Finding, Question, Truth
from privfl.auditing.questions._claims import LEVEL, require_canaries, scored, share_of
from privfl.auditing.questions._scores import ScoresClaim
from privfl.errors import DataError
from privfl.tables import Frozen

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class NoiseClaim(ScoresClaim):
    """A score for each canary.

    Args:
        scores: as of :class:`privfl.auditing.questions._scores.ScoresClaim`.
        linear: whether scores are inner products of noised releases with a direction that each canary has for itself, summed.
    """

    linear: bool = False

    def arrays(self, attack: str) -> dict[str, NDArray[Any]]:
        """``attack: variant`` -> scores, and ``linear``."""
        return {**super().arrays(attack), "linear": np.array(self.linear)}

    @classmethod
    def from_arrays(cls, attack: str, arrays: Arrays) -> Self:
        """The claim that :meth:`arrays` gave."""
        rest = {name: array for name, array in arrays.items() if name != "linear"}
        return cls(ScoresClaim.from_arrays(attack, rest).scores, bool(arrays.get("linear", False)))

    def checked(self, attack: str, candidates: int) -> Self:
        """See :class:`privfl.auditing.questions._scores.ScoresClaim`."""
        return type(self)(ScoresClaim(self.scores).checked(attack, candidates).scores, self.linear)


class NoiseRecord(Frozen):
    """The noise multiplier is below ``below`` at confidence ``level``, if the run did all else as it says.

    ``below`` is None if no noise multiplier of up to 8 times the promised one is refuted. ``method``: ``clopper_pearson``, for
    which the ``candidates`` that were counted are independent trials, ``one_run``, which does not need that, or
    ``gaussian_pair``, for which their signals are independent and Gaussian. ``least`` is the least noise multiplier that could
    have been refuted, had every guess been right; None if none could, 0 if any could.
    """

    attack: str
    variant: str
    rounds: list[int]
    method: str
    below: float | None
    least: float | None
    level: float
    candidates: int


class NoiseFinding(Finding):
    """Lower bounds on the noise, two or three for each variant of the audits of one adversary; with probability 0.95 all of
    them hold.

    They are no bounds on ε: they take sampling, steps and clipping to be those of the run. ``promised`` is its noise
    multiplier; None if nothing is promised against this adversary, and then there is no mechanism to refute and no record.
    """

    canaries: int
    members: int
    promised: float | None
    audits: list[NoiseRecord]
    attacks: dict[str, list[int]]

    def rounds_by_attack(self) -> dict[str, tuple[int, ...]]:
        """See :class:`privfl.auditing.questions.Finding`."""
        return {attack: tuple(rounds) for attack, rounds in self.attacks.items()}

    def contradicts(self) -> list[NoiseRecord]:
        """The audits that refute the promised noise."""
        promised = self.promised
        return [] if promised is None else [one for one in self.audits if one.below is not None and one.below <= promised]


class Noise(Question):
    """A lower bound on the noise of the run's own mechanism: by Clopper and Pearson, and by the f-DP audit of one run.

    Both hold the guesses against the privacy curve of the run with other noise (Nasr et al. 2023, section 4; Mahloujifar et al.
    2024). A third of the canaries chooses the threshold. If scores are sums of noised releases, there is a third bound by the
    two-sample t statistic. The error rate of 5 % is divided among variants and methods.
    """

    kind: str = "noise"
    claim: ClassVar[type[Claim]] = NoiseClaim
    finding: ClassVar[type[Finding]] = NoiseFinding

    def require_possible(self, truth: Truth) -> None:
        """See :class:`privfl.auditing.questions.Question`: both kinds of canaries choose the threshold, and are counted."""
        require_canaries(truth)
        member_N = truth.candidate_members
        chosen_N = share_of(len(member_N), 1 / 3, truth.halves_generator())
        for part_N in (member_N[chosen_N], member_N[~chosen_N]):
            if part_N.all() or not part_N.any():
                raise DataError(
                    f"{len(member_N)} candidates, a third of which chooses a threshold and has {part_N.sum()} members of "
                    f"{len(part_N)}: both kinds are needed; raise canaries.count"
                )

    def evaluate(self, claims: Claims, truth: Truth, promise: PrivacyCurve | None) -> NoiseFinding:
        """See :class:`privfl.auditing.questions.Question`."""
        member_N, variants = truth.candidate_members, scored(claims)
        chosen_N = share_of(len(member_N), 1 / 3, truth.halves_generator())
        family = None if promise is None else promise.noise
        linear = {attack for attack, made in claims.by_attack.items() if getattr(made.claim, "linear", False)}
        methods = {
            attack: 3 if attack in linear and family is not None and family.samples else 2 for attack in claims.by_attack
        }
        level = 1 - (1 - LEVEL) / sum(methods[attack] for attack, *_ in variants)
        records = list[NoiseRecord]()
        for attack, variant, rounds, scores_N in variants:
            if family is None:
                continue
            found = {
                "clopper_pearson": clopper_pearson_noise(scores_N, member_N, chosen_N, family, level),
                "one_run": one_run_noise(scores_N, member_N, family, level),
            }
            if methods[attack] > 2 and (pair := _pair(scores_N, member_N, family, level)) is not None:
                found["gaussian_pair"] = pair
            records += [
                NoiseRecord(
                    attack=attack,
                    variant=variant,
                    rounds=rounds,
                    method=method,
                    below=one.below,
                    least=one.least,
                    level=level,
                    candidates=one.candidates,
                )
                for method, one in found.items()
            ]
        return NoiseFinding(
            question=self.kind,
            adversary=claims.adversary,
            shadow_models=claims.shadow_models,
            canaries=len(member_N),
            members=int(member_N.sum()),
            promised=None if family is None else family.promised,
            audits=records,
            attacks={attack: rounds for attack, _, rounds, _ in variants},
        )


def _pair(signals_N: FloatArray, member_N: BoolArray, family: NoiseFamily, level: float) -> RefutedNoise | None:
    """The bound by the two-sample t statistic; None if signals allow none, because there is no noise at all in them."""
    try:
        return gaussian_pair_noise(signals_N, member_N, family, level)
    except DataError:
        return None
