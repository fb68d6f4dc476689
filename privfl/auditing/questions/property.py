"""Property question: do these clients have a property, such as that most of their examples are of one class?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from privfl.auditing.bound import PrivacyCurve
from privfl.auditing.questions import Arrays, Claim, Claims, Finding, Question, Truth
from privfl.auditing.questions._shares import share
from privfl.auditing.roc import auc
from privfl.errors import DataError, ItemError
from privfl.records import Interval
from privfl.tables import Frozen

FloatArray = NDArray[np.float64]


class Asked(Frozen):
    """The property: more than a share of the examples is of a class, or has a large number in a column.

    Args:
        label: the class; not used if there is a ``column``.
        column: the place of a number among an example's inputs; None: the class counts.
        above: the number counts if it is above this.
        share: the share of the examples that it takes.
    """

    label: int
    column: int | None
    above: float
    share: float

    def of(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether each example counts, of shape (N,)."""
        found: NDArray[np.bool_] = y == self.label if self.column is None else x[:, self.column] > self.above
        return found

    def words(self) -> str:
        """The property in words."""
        which = f"of class {self.label}" if self.column is None else f"above {self.above:g} in column {self.column}"
        return f"more than {self.share * 100:.3g} % of the examples are {which}"


@dataclass(frozen=True)
class PropertyClaim(Claim):
    """A claim about a property of some targets, each the clients behind one update or behind a sum.

    Args:
        asked: the property.
        clients: the clients of each of T targets.
        scores: variant -> the probability that each target has the property, of shape (T,). Above a half means that it has.
    """

    asked: Asked
    clients: Sequence[tuple[int, ...]]
    scores: Mapping[str, FloatArray]

    def arrays(self, attack: str) -> dict[str, NDArray[Any]]:
        """``asked``, ``clients`` with rows filled up by −1, and ``attack: variant`` -> scores."""
        width = max(map(len, self.clients))
        filled = np.array([[*one, *[-1] * (width - len(one))] for one in self.clients], dtype=np.int64)
        column = -1 if self.asked.column is None else self.asked.column
        asked = np.array([self.asked.label, column, self.asked.above, self.asked.share], dtype=np.float64)
        return {
            "asked": asked,
            "clients": filled,
            **{f"{attack}: {variant}": score_T for variant, score_T in self.scores.items()},
        }

    @classmethod
    def from_arrays(cls, attack: str, arrays: Arrays) -> Self:
        """The claim from the arrays that :meth:`arrays` gave."""
        label, column, above, of_all = arrays["asked"].tolist()
        asked = Asked(label=int(label), column=None if column < 0 else int(column), above=above, share=of_all)
        clients = [tuple(int(client) for client in row if client >= 0) for row in arrays["clients"]]
        before = f"{attack}: "
        return cls(asked, clients, {name.removeprefix(before): one for name, one in arrays.items() if name.startswith(before)})

    def checked(self, attack: str, candidates: int) -> Self:  # noqa: ARG002
        """The claim itself, if it has the required form.

        Raises:
            ItemError: it has no targets, or not a probability for each.
        """
        if not self.clients or not all(self.clients) or not self.scores:
            raise ItemError(f"attack {attack!r}: claimed nothing; name each target's clients, and give scores {{name: scores}}")
        for variant, score_T in self.scores.items():
            given = np.asarray(score_T)
            if given.shape != (len(self.clients),) or not ((given >= 0) & (given <= 1)).all():
                raise ItemError(
                    f"attack {attack!r}, {variant!r}: must give a probability from 0 to 1 for each of {len(self.clients)} "
                    f"targets; its scores have the shape {given.shape}"
                )
        return self


class PropertyRecord(Frozen):
    """The decisions of one variant of an attack about ``targets`` of ``clients`` clients each, at most.

    So many targets ``having`` the property are among them. ``majority`` is the share that a constant answer gets right.
    ``auc`` is None if all targets are alike.
    """

    attack: str
    variant: str
    rounds: list[int]
    asked: Asked
    targets: int
    clients: int
    having: int
    majority: float
    right: Interval
    auc: Interval | None


class PropertyFinding(Finding):
    """The finding about the property attacks of one adversary."""

    attacks: list[PropertyRecord]

    def rounds_by_attack(self) -> dict[str, tuple[int, ...]]:
        """See :class:`privfl.auditing.questions.Finding`."""
        return {one.attack: tuple(one.rounds) for one in self.attacks}


class Property(Question):
    """Property: do these clients have it? Judged by the share of right decisions beside that of a constant answer.

    A target has the property if the examples that its clients trained on, taken together, have it. The intervals treat targets
    as independent, which sums of overlapping cohorts are not.
    """

    kind: str = "property"
    claim: ClassVar[type[Claim]] = PropertyClaim
    finding: ClassVar[type[Finding]] = PropertyFinding

    def require_possible(self, truth: Truth) -> None:
        """See :class:`privfl.auditing.questions.Question`: somebody trained on something."""
        if not truth.member_N.any():
            raise DataError("data of which no example is trained on; lower data.holdout")

    def evaluate(self, claims: Claims, truth: Truth, promise: PrivacyCurve | None) -> PropertyFinding:  # noqa: ARG002
        """See :class:`privfl.auditing.questions.Question`; no promise is about a property."""
        x, y = truth.examples()
        records = []
        for attack, made in sorted(claims.by_attack.items()):
            claim = made.claim
            assert isinstance(claim, PropertyClaim)
            having_T = _having(claim, claim.asked.of(x, y), truth)
            records += [_record(attack, variant, list(made.rounds), claim, having_T) for variant in claim.scores]
        return PropertyFinding(
            question=self.kind, adversary=claims.adversary, shadow_models=claims.shadow_models, attacks=records
        )


def _having(claim: PropertyClaim, counts_N: NDArray[np.bool_], truth: Truth) -> NDArray[np.bool_]:
    """Whether each target has the property, of shape (T,)."""
    owners = truth.owner_N[truth.member_N]
    clients = int(truth.owner_N.max()) + 1
    all_K = np.bincount(owners, minlength=clients)
    some_K = np.bincount(owners, weights=counts_N[truth.member_N], minlength=clients)
    return np.array([some_K[list(one)].sum() > claim.asked.share * all_K[list(one)].sum() for one in claim.clients])


def _record(attack: str, variant: str, rounds: list[int], claim: PropertyClaim, having_T: NDArray[np.bool_]) -> PropertyRecord:
    score_T, both = np.asarray(claim.scores[variant], dtype=np.float64), 0 < having_T.sum() < len(having_T)
    found = auc(score_T, having_T) if both else None
    return PropertyRecord(
        attack=attack,
        variant=variant,
        rounds=rounds,
        asked=claim.asked,
        targets=len(having_T),
        clients=max(map(len, claim.clients)),
        having=int(having_T.sum()),
        majority=float(max(having_T.mean(), 1 - having_T.mean())),
        right=share(int(((score_T > 0.5) == having_T).sum()), len(having_T)),
        auc=None if found is None else Interval(value=found.value, low=found.low, high=found.high, n=len(having_T)),
    )
