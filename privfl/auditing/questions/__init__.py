"""SHELF of questions that attacks answer, for example whether an example is a member, or which client owns it.

An item is one file with a class that derives from :class:`Question`, a claim that derives from :class:`Claim` and a finding
that derives from :class:`Finding`. An attack names the question that it answers and returns that question's claim. Claims are
judged after all of them are made. An attack gets a view and knowledge, never the :class:`Truth`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from privfl.adversaries import Adversary
from privfl.auditing.bound import PrivacyCurve
from privfl.tables import Frozen, Item

Arrays = Mapping[str, NDArray[Any]]


class Claim(ABC):
    """An attack's answer to a question, not yet judged."""

    @abstractmethod
    def arrays(self, attack: str) -> dict[str, NDArray[Any]]:
        """The claim as named arrays, for its file in the run folder."""

    @abstractmethod
    def checked(self, attack: str, candidates: int) -> Self:
        """The claim after checks, in the form that the question judges.

        Args:
            attack: name of the attack that makes it.
            candidates: N, number of examples about which the attack was asked.

        Raises:
            ItemError: the claim does not have the form that the question requires; the error names the attack.
        """

    @classmethod
    @abstractmethod
    def from_arrays(cls, attack: str, arrays: Arrays) -> Self:
        """The claim from the arrays that :meth:`arrays` gave."""


@dataclass(frozen=True)
class AttackClaim:
    """One attack's claim, and the rounds that it took.

    Args:
        claim: the attack's answer.
        rounds: the rounds of the run whose views it used; no rounds if it used the final model only.
        asked: the number of further rounds that a malicious server asked for, which the run's ledger does not price.
    """

    claim: Claim
    rounds: tuple[int, ...] = ()
    asked: int = 0


@dataclass(frozen=True)
class Claims:
    """The claims of one adversary's attacks about one question.

    Args:
        adversary: the adversary that the attacks belong to.
        shadow_models: number of shadow models that each attack was given.
        by_attack: each attack's claim, by the attack's name.
    """

    adversary: Adversary
    shadow_models: int
    by_attack: Mapping[str, AttackClaim]


@dataclass(frozen=True)
class Truth:
    """The ground truth of a run, by which claims are judged; it is used after all claims are made.

    Args:
        owner_N: the client that owns each of the N examples of the pool.
        candidate_N: whether the membership of each example was drawn by a fair coin.
        member_N: whether each example was trained on.
        halves_generator: makes the generator that splits the candidates into a half to choose attacks on and a half to measure
            them on; a generator in the same state at each call.
        examples: reads the pool's inputs and labels, of shapes (N, ...) and (N,).
        population: reads those of the test part, which nobody trained on.
        groups: reads the groups whose members are also looked at by themselves: ``class``, ``client`` or ``group`` -> the name
            of each example's group, of shape (N,).
        exposed: the number of members that a finding may list with their inputs.
    """

    owner_N: NDArray[np.int64]
    candidate_N: NDArray[np.bool_]
    member_N: NDArray[np.bool_]
    halves_generator: Callable[[], np.random.Generator]
    examples: Callable[[], tuple[NDArray[Any], NDArray[Any]]]
    population: Callable[[], tuple[NDArray[Any], NDArray[Any]]]
    groups: Callable[[], Mapping[str, NDArray[Any]]] = field(default=dict, kw_only=True)
    exposed: int = field(default=0, kw_only=True)

    @property
    def candidate_members(self) -> NDArray[np.bool_]:
        """Whether each candidate was trained on, in the order of the pool."""
        return self.member_N[self.candidate_N]


class Finding(Frozen):
    """The result of judging one adversary's claims: a record with intervals, kept in ``attacks/summary.json``.

    ``shadow_models`` is the number of shadow models that each attack was given.
    """

    question: str
    adversary: Adversary
    shadow_models: int

    def rounds_by_attack(self) -> dict[str, tuple[int, ...]]:
        """The attacks whose claims were judged, each with the rounds whose views it used."""
        raise NotImplementedError

    def asked_by(self) -> dict[str, int]:
        """The attacks of a malicious server, each with the number of rounds that it asked for, which no ledger prices."""
        return {}


class Question(Item, ABC):
    """Base class of questions: the type of claim that attacks make, and the method that judges it."""

    claim: ClassVar[type[Claim]]
    """The type of claim that an attack on this question returns."""

    finding: ClassVar[type[Finding]]
    """The type of finding that :meth:`evaluate` returns."""

    hides_owners: ClassVar[bool] = False
    """Whether attacks are not told the owner of each candidate, because the question asks for it."""

    @abstractmethod
    def require_possible(self, truth: Truth) -> None:
        """Raise, before the first round, if the claims about a run could not be judged.

        Raises:
            DataError: names the missing part.
        """

    @abstractmethod
    def evaluate(self, claims: Claims, truth: Truth, promise: PrivacyCurve | None) -> Finding:
        """Judge the claims of one adversary.

        Args:
            claims: the checked claims of its attacks, at least one.
            truth: the ground truth of the run.
            promise: the privacy curve that the run promises against this adversary for one example in or out; None if it
                promises nothing.

        Raises:
            DataError: the claims cannot be judged.
        """
