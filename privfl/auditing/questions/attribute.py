"""Attribute question: which value does a sensitive attribute of this record have?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from privfl.auditing.bound import PrivacyCurve
from privfl.auditing.questions import Arrays, Claim, Claims, Finding, Question, Truth
from privfl.auditing.questions._shares import difference, paired_difference, share
from privfl.errors import DataError, ItemError
from privfl.records import Interval
from privfl.tables import Frozen

FloatArray = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class AttributeClaim(Claim):
    """A claim about an attribute, which is one column of the inputs or several (one-hot), c in number.

    Args:
        columns: the places of the attribute in an example's inputs, of shape (c,).
        imputed: the value of each of the N candidates as one guesses it without the model, of shape (N, c).
        guesses: variant -> the value of each candidate by the attack, of shape (N, c).
    """

    columns: NDArray[np.int64]
    imputed: FloatArray
    guesses: Mapping[str, FloatArray]

    def arrays(self, attack: str) -> dict[str, NDArray[Any]]:
        """``columns``, ``imputed``, and ``attack: variant`` -> values."""
        guesses = {f"{attack}: {variant}": values for variant, values in self.guesses.items()}
        return {"columns": self.columns, "imputed": self.imputed, **guesses}

    @classmethod
    def from_arrays(cls, attack: str, arrays: Arrays) -> Self:
        """The claim from the arrays that :meth:`arrays` gave."""
        before = f"{attack}: "
        guesses = {name.removeprefix(before): values for name, values in arrays.items() if name.startswith(before)}
        return cls(arrays["columns"], arrays["imputed"], guesses)

    def checked(self, attack: str, candidates: int) -> Self:
        """The claim itself, if it has the required form.

        Raises:
            ItemError: it does not give a value to each candidate.
        """
        shape = (candidates, len(self.columns))
        if not self.guesses:
            raise ItemError(f"attack {attack!r}: guessed nothing; the claim needs guesses {{name: values}}")
        for variant, values in {**self.guesses, "imputed": self.imputed}.items():
            if np.shape(values) != shape:
                raise ItemError(
                    f"attack {attack!r}, {variant!r}: its values have the shape {np.shape(values)}, must be {shape}; give a "
                    "row for each candidate and a number for each column of the attribute"
                )
        return self


class Shares(Frozen):
    """The share of right values among members and among non-members, and the first minus the second (``gap``)."""

    members: Interval
    nonmembers: Interval
    gap: Interval


class GuessRecord(Frozen):
    """The values that one variant of an attack named.

    ``over_imputation`` is its share of right values among members minus that of imputation, on the same members.
    """

    variant: str
    right: Shares
    over_imputation: Interval


class AttributeRecord(Frozen):
    """The guesses of one attack about the attribute in ``columns``, which has so many ``values`` among the candidates.

    ``imputation`` guesses without the model. ``majority`` is the share of members that have the most common value.
    """

    attack: str
    rounds: list[int]
    columns: list[int]
    values: int
    majority: float
    imputation: Shares
    guesses: list[GuessRecord]


class AttributeFinding(Finding):
    """The finding about the attribute attacks of one adversary."""

    members: int
    nonmembers: int
    attacks: list[AttributeRecord]

    def rounds_by_attack(self) -> dict[str, tuple[int, ...]]:
        """See :class:`privfl.auditing.questions.Finding`."""
        return {one.attack: tuple(one.rounds) for one in self.attacks}


class Attribute(Question):
    """Attribute: which value does it have for this record, given all else and the label?

    A right value alone shows no leak, since it may follow from the rest of the record by what is known of other people, without
    the model (Jayaraman & Evans 2022, "Are attribute inference attacks just imputation?"). The finding therefore has the share
    of right values beside that of imputation, as a paired difference, and that of members beside that of non-members (Yeom et
    al. 2018). Intervals treat records as independent.
    """

    kind: str = "attribute"
    claim: ClassVar[type[Claim]] = AttributeClaim
    finding: ClassVar[type[Finding]] = AttributeFinding

    def require_possible(self, truth: Truth) -> None:
        """See :class:`privfl.auditing.questions.Question`: there are members and non-members."""
        member_N = truth.candidate_members
        if not member_N.any() or member_N.all():
            raise DataError("candidates of one kind only; raise data.holdout")

    def evaluate(self, claims: Claims, truth: Truth, promise: PrivacyCurve | None) -> AttributeFinding:  # noqa: ARG002
        """See :class:`privfl.auditing.questions.Question`; no promise is about an attribute."""
        member_N, (x, _) = truth.candidate_members, truth.examples()
        inputs_NF = x[truth.candidate_N]
        return AttributeFinding(
            question=self.kind,
            adversary=claims.adversary,
            shadow_models=claims.shadow_models,
            members=int(member_N.sum()),
            nonmembers=int((~member_N).sum()),
            attacks=[
                _record(attack, list(made.rounds), made.claim, inputs_NF, member_N)
                for attack, made in sorted(claims.by_attack.items())
            ],
        )


def _record(attack: str, rounds: list[int], claim: Claim, inputs_NF: FloatArray, member_N: BoolArray) -> AttributeRecord:
    assert isinstance(claim, AttributeClaim)
    true_Nc = inputs_NF[:, claim.columns]
    imputed_N = (claim.imputed == true_Nc).all(1)
    guessed = {variant: (values == true_Nc).all(1) for variant, values in claim.guesses.items()}
    counts = np.unique(true_Nc[member_N], axis=0, return_counts=True)[1]
    return AttributeRecord(
        attack=attack,
        rounds=rounds,
        columns=claim.columns.tolist(),
        values=len(np.unique(true_Nc, axis=0)),
        majority=float(counts.max() / counts.sum()),
        imputation=_shares(imputed_N, member_N),
        guesses=[
            GuessRecord(
                variant=variant,
                right=_shares(right_N, member_N),
                over_imputation=paired_difference(right_N[member_N], imputed_N[member_N]),
            )
            for variant, right_N in guessed.items()
        ],
    )


def _shares(right_N: BoolArray, member_N: BoolArray) -> Shares:
    inside, outside = right_N[member_N], right_N[~member_N]
    return Shares(
        members=share(int(inside.sum()), len(inside)),
        nonmembers=share(int(outside.sum()), len(outside)),
        gap=difference(inside, outside),
    )
