"""Source question: which client trained on this example?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from privfl.auditing.bound import PrivacyCurve
from privfl.auditing.questions import Arrays, Claim, Claims, Finding, Question, Truth
from privfl.auditing.questions._shares import share
from privfl.errors import DataError, ItemError
from privfl.records import Interval
from privfl.tables import Frozen

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class SourceClaim(Claim):
    """A claim about sources: for each variant of the attack, by its name, a client for each candidate.

    Args:
        clients: variant -> clients of shape (N,), in the order of the candidates.
    """

    clients: Mapping[str, IntArray]

    def arrays(self, attack: str) -> dict[str, NDArray[Any]]:
        """``attack: variant`` -> clients."""
        return {f"{attack}: {variant}": client_N for variant, client_N in self.clients.items()}

    @classmethod
    def from_arrays(cls, attack: str, arrays: Arrays) -> Self:
        """The claim from the arrays that :meth:`arrays` gave."""
        return cls({name.removeprefix(f"{attack}: "): client_N for name, client_N in arrays.items()})

    def checked(self, attack: str, candidates: int) -> Self:
        """The claim itself, if it has the required form.

        Raises:
            ItemError: it does not name a client for each candidate.
        """
        for variant, client_N in self.clients.items():
            if np.shape(client_N) != (candidates,) or not np.issubdtype(np.asarray(client_N).dtype, np.integer):
                raise ItemError(
                    f"attack {attack!r}, {variant!r}: must name one client for each of {candidates} candidates; return integers"
                )
        if not self.clients:
            raise ItemError(
                f"attack {attack!r}: named no clients: must be {{name: clients}}; name one client for each candidate"
            )
        return self


class SourceRecord(Frozen):
    """The share of members for which one variant of one attack named the client that trained on them."""

    attack: str
    variant: str
    rounds: list[int]
    right: Interval


class SourceFinding(Finding):
    """The finding about the source attacks of one adversary: their shares of right guesses.

    ``chance`` is the share of members that belong to the client with the most; a constant guess would reach it.
    """

    members: int
    clients: int
    chance: float
    attacks: list[SourceRecord]

    def rounds_by_attack(self) -> dict[str, tuple[int, ...]]:
        """See :class:`privfl.auditing.questions.Finding`."""
        return {one.attack: tuple(one.rounds) for one in self.attacks}


class Source(Question):
    """Source: which client trained on this example? Judged by the share of right guesses on members among the candidates.

    The interval is that of Clopper and Pearson, as if members were independent (Hu et al. 2021, "Source inference attacks in
    federated learning").
    """

    kind: str = "source"
    claim: ClassVar[type[Claim]] = SourceClaim
    finding: ClassVar[type[Finding]] = SourceFinding
    hides_owners: ClassVar[bool] = True

    def require_possible(self, truth: Truth) -> None:
        """See :class:`privfl.auditing.questions.Question`: there are members of at least two clients."""
        if len(np.unique(truth.owner_N[truth.candidate_N & truth.member_N])) < 2:
            raise DataError("candidates of fewer than two clients; set data.clients and data.holdout higher")

    def evaluate(self, claims: Claims, truth: Truth, promise: PrivacyCurve | None) -> SourceFinding:  # noqa: ARG002
        """See :class:`privfl.auditing.questions.Question`; no promise applies to the source."""
        member_N = truth.candidate_members
        owner_n = truth.owner_N[truth.candidate_N][member_N]
        sizes = np.unique(owner_n, return_counts=True)[1]
        records = []
        for attack, made in sorted(claims.by_attack.items()):
            assert isinstance(made.claim, SourceClaim)
            for variant, client_N in made.claim.clients.items():
                right = int((np.asarray(client_N)[member_N] == owner_n).sum())
                found, rounds = share(right, len(owner_n)), list(made.rounds)
                records.append(SourceRecord(attack=attack, variant=variant, rounds=rounds, right=found))
        return SourceFinding(
            question=self.kind,
            adversary=claims.adversary,
            shadow_models=claims.shadow_models,
            members=len(owner_n),
            clients=len(sizes),
            chance=float(sizes.max() / len(owner_n)),
            attacks=records,
        )
