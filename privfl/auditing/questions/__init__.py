"""SHELF of questions that attacks answer: is this example a member, how well was an input reconstructed, and so on.

A question is one file with one class that derives from :class:`Question`, a claim that derives from :class:`Claim` and a
finding that derives from :class:`Finding`. An attack names the question that it answers and returns that question's claim.
Claims are judged only after all of them are made: an attack is given a view and knowledge, never a :class:`Truth`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from privfl.adversaries import Adversary
from privfl.auditing.bound import PrivacyCurve
from privfl.tables import Frozen, Item

Arrays = Mapping[str, NDArray[Any]]


class Claim(ABC):
    """An attack's answer to a question, before anybody knows whether it is right."""

    @abstractmethod
    def arrays(self, attack: str) -> dict[str, NDArray[Any]]:
        """The claim as named arrays, for its file in the run folder."""

    @abstractmethod
    def checked(self, attack: str, candidates: int) -> Self:
        """The claim in the form that the question judges.

        Args:
            attack: who makes it.
            candidates: N, about how many examples the attack was asked.

        Raises:
            ItemError: it does not keep the question's contract; names the attack.
        """

    @classmethod
    @abstractmethod
    def of_arrays(cls, attack: str, arrays: Arrays) -> Self:
        """The claim that :meth:`arrays` gave."""


@dataclass(frozen=True)
class Claimed:
    """One attack's claim, and how it came about.

    Args:
        claim: what it says.
        rounds: the rounds of the run whose views it looked at; none: it looked at the final model only.
        asked: how many further rounds a malicious server asked for, beyond those that the run's ledger prices.
    """

    claim: Claim
    rounds: tuple[int, ...] = ()
    asked: int = 0


@dataclass(frozen=True)
class Claims:
    """What the attacks of one adversary claim about one question.

    Args:
        adversary: whose attacks they are.
        shadow_models: how many shadow models each attack was given.
        by_attack: each attack's claim, by the attack's name.
    """

    adversary: Adversary
    shadow_models: int
    by_attack: Mapping[str, Claimed]


@dataclass(frozen=True)
class Truth:
    """What really happened in a run. It is opened once all claims are made.

    Args:
        owner_N: the client that owns each of the N examples of the pool.
        candidate_N: the examples whose membership was drawn by a fair coin.
        member_N: the examples that were trained on.
        halving: gives the generator that cuts the candidates into the half that attacks are chosen on and the half that they
            are measured on; the same one each time it is called.
        examples: reads the pool's inputs and labels, of shapes (N, ...) and (N,).
    """

    owner_N: NDArray[np.int64]
    candidate_N: NDArray[np.bool_]
    member_N: NDArray[np.bool_]
    halving: Callable[[], np.random.Generator]
    examples: Callable[[], tuple[NDArray[Any], NDArray[Any]]]

    @property
    def candidate_members(self) -> NDArray[np.bool_]:
        """Whether each candidate was trained on, in the order of the pool."""
        return self.member_N[self.candidate_N]


class Finding(Frozen):
    """What may be said about one adversary's claims: a typed record with intervals, kept in ``attacks/summary.json``.

    ``shadow_models`` says how many shadow models each attack was given.
    """

    question: str
    adversary: Adversary
    shadow_models: int

    def made_by(self) -> dict[str, tuple[int, ...]]:
        """The attacks whose claims were judged, each with the rounds that it looked at."""
        raise NotImplementedError

    def asked_by(self) -> dict[str, int]:
        """Of those of a malicious server, how many rounds each asked for beyond those that the run's ledger prices."""
        return {}


class Question(Item, ABC):
    """The contract: a kind of claim, and how it is judged."""

    claim: ClassVar[type[Claim]]
    """The type that an attack on this question returns."""

    finding: ClassVar[type[Finding]]
    """The type that :meth:`evaluate` returns."""

    hides_owners: ClassVar[bool] = False
    """Whether its attacks are not told whose example each candidate is, because they are asked for it."""

    @abstractmethod
    def require_possible(self, truth: Truth) -> None:
        """Refuse a run about which the question cannot be judged; asked before its first round.

        Raises:
            DataError: says what is missing.
        """

    @abstractmethod
    def evaluate(self, claims: Claims, truth: Truth, promise: PrivacyCurve | None) -> Finding:
        """Judge the claims of one adversary.

        Args:
            claims: what its attacks said, at least one of them; each was checked.
            truth: what really happened.
            promise: what the run promises against this adversary about one example in or out; None if it promises nothing.

        Raises:
            DataError: the claims cannot be judged.
        """
