"""A question of its own, in one file with an attack that answers it: which class has a client most of?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from attacks import Attack
from privfl.adversaries import Adversary
from privfl.auditing import PrivacyCurve, clopper_pearson
from privfl.auditing.questions import Claim, Claims, Finding, Question, Truth
from privfl.records import Interval
from privfl.running.knowledge import Knowledge
from privfl.running.views import ServerView, View


@dataclass(frozen=True)
class Guesses(Claim):
    """A class for each of some clients."""

    class_of: Mapping[int, int]

    def arrays(self, attack: str) -> dict[str, NDArray[Any]]:
        """Clients and classes."""
        return {"clients": np.array(list(self.class_of)), "classes": np.array(list(self.class_of.values()))}

    def checked(self, attack: str, candidates: int) -> Self:
        """Nothing can be wrong with it."""
        return self

    @classmethod
    def from_arrays(cls, attack: str, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """From clients and classes."""
        return cls(dict(zip(arrays["clients"].tolist(), arrays["classes"].tolist(), strict=True)))


class RightGuesses(Finding):
    """The share of right guesses of each attack."""

    right: dict[str, Interval]

    def rounds_by_attack(self) -> dict[str, tuple[int, ...]]:
        """The attacks; where they looked is not kept."""
        return dict.fromkeys(self.right, ())


class CommonClass(Question):
    """Which class has a client most of?"""

    claim: ClassVar[type[Claim]] = Guesses
    finding: ClassVar[type[Finding]] = RightGuesses

    def require_possible(self, truth: Truth) -> None:
        """Always."""

    def evaluate(self, claims: Claims, truth: Truth, promise: PrivacyCurve | None) -> RightGuesses:
        """Compare with the labels that each client trained on."""
        _, y_N = truth.examples()
        right = {}
        for attack, made in claims.by_attack.items():
            assert isinstance(made.claim, Guesses)
            hits = [
                np.bincount(y_N[truth.member_N & (truth.owner_N == client)]).argmax() == guess
                for client, guess in made.claim.class_of.items()
            ]
            low, high = clopper_pearson(sum(hits), len(hits))
            right[attack] = Interval(value=float(np.mean(hits)), low=float(low), high=float(high), n=len(hits))
        return RightGuesses(question=self.kind, adversary=claims.adversary, shadow_models=claims.shadow_models, right=right)


class ByBias(Attack):
    """The last layer's bias grows for the class that a client has most of (Wainakh 2022)."""

    adversary: ClassVar[Adversary] = "server"
    question: ClassVar[str] = "own_attacks.common_class"
    threat: ClassVar[str] = "A server that sees each client's update wants to know what kind of data it has."

    def run(self, view: View, knowledge: Knowledge) -> Guesses:
        """Look at the first round."""
        assert isinstance(view, ServerView)
        updates_KD, _ = view.updates(view.rounds()[0])
        classes = knowledge.shadows.candidates_SNC.shape[2]
        guesses = updates_KD[:, -classes:].argmax(1).tolist()
        return Guesses(dict(zip(view.survivors(0), guesses, strict=True)))
