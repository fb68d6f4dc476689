"""Reconstruction: which inputs, and which labels, did these clients train on?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from privfl.auditing.bound import PrivacyCurve
from privfl.auditing.questions import Arrays, Claim, Claims, Finding, Question, Truth
from privfl.auditing.questions._compared import Inputs, Kind, Measure, Pairs, Picture, flat
from privfl.auditing.questions._shares import share
from privfl.auditing.similarity import IntArray, assigned
from privfl.errors import DataError, ItemError
from privfl.records import Interval
from privfl.tables import Frozen

FRESH: Final = 1000
"""Chance has so many fresh inputs, if there are as many, and as many as are claimed if that is more."""

_DRAWS: Final = 200
"""So many draws of labels estimate how many a guess has right."""


@dataclass(frozen=True)
class Reconstructed:
    """The inputs that some clients are claimed to have trained on in a round.

    Args:
        round: from 0.
        clients: whose inputs; several if the claim is about a sum of their updates.
        inputs_R: R inputs, of shape (R, ...): pixels from 0 to 1 if the data are images as bytes, else the numbers that the
            model takes. Whole numbers are tokens. None: labels alone are claimed.
        labels_R: their labels, of shape (R,); None: they are not claimed.
    """

    round: int
    clients: tuple[int, ...]
    inputs_R: NDArray[Any] | None
    labels_R: IntArray | None = None

    def __len__(self) -> int:
        """R, how many are claimed."""
        return len(self.inputs_R if self.inputs_R is not None else self.labels_R if self.labels_R is not None else ())


@dataclass(frozen=True)
class ReconstructionClaim(Claim):
    """Reconstructions by the name of each variant of the attack, one for each client or sum that was attacked."""

    by_variant: Mapping[str, Sequence[Reconstructed]]

    def arrays(self, attack: str) -> dict[str, NDArray[Any]]:
        """``attack: variant: place: part``; the parts are ``round``, ``clients``, ``inputs`` and ``labels``."""
        found: dict[str, NDArray[Any]] = {}
        for variant, made in self.by_variant.items():
            for place, one in enumerate(made):
                parts = {"inputs": one.inputs_R, "labels": one.labels_R}
                named = {"round": np.array(one.round), "clients": np.array(one.clients, dtype=np.int64)}
                named |= {part: array for part, array in parts.items() if array is not None}
                found |= {f"{attack}: {variant}: {place}: {part}": array for part, array in named.items()}
        return found

    @classmethod
    def from_arrays(cls, attack: str, arrays: Arrays) -> Self:
        """The claim that :meth:`arrays` gave."""
        found: dict[str, dict[int, dict[str, NDArray[Any]]]] = {}
        for name, array in arrays.items():
            variant, place, part = name.removeprefix(f"{attack}: ").rsplit(": ", 2)
            found.setdefault(variant, {}).setdefault(int(place), {})[part] = array
        return cls(
            {
                variant: [
                    Reconstructed(int(one["round"]), tuple(map(int, one["clients"])), one.get("inputs"), one.get("labels"))
                    for _, one in sorted(places.items())
                ]
                for variant, places in found.items()
            }
        )

    def checked(self, attack: str, candidates: int) -> Self:  # noqa: ARG002
        """The same claim.

        Raises:
            ItemError: nothing is claimed, or inputs and labels are not arrays of one length.
        """
        if not self.by_variant or not all(self.by_variant.values()):
            raise ItemError(f"attack {attack!r}: claimed nothing; the claim is {{name: [Reconstructed(...)]}}")
        for variant, made in self.by_variant.items():
            for one in made:
                lengths = {len(part) for part in (one.inputs_R, one.labels_R) if isinstance(part, np.ndarray) and part.ndim}
                if len(lengths) != 1 or not one.clients:
                    raise ItemError(
                        f"attack {attack!r}, {variant!r}: a reconstruction must name its clients and give NumPy arrays of "
                        "inputs, labels or both, a row for each example"
                    )
        return self


class LabelShare(Frozen):
    """The share of right labels, and the share that labels drawn from fresh examples have right on average."""

    right: Interval
    chance: float


class ReconstructionRecord(Frozen):
    """The examples that one variant of one attack reconstructed, compared with the true ones.

    ``claimed`` examples, of ``targets`` updates or sums, were compared with the ``trained_on`` examples of ``clients``.
    ``measures`` are of the pairs that an assignment makes within each target, and ``threshold`` is the 95 % quantile of chance
    in the first of them (of a normalised error e: −20 log10 e). ``recognised`` is the share of the true inputs whose pair is
    more like them than that; ``exact`` is the share with a PSNR of at least 60 dB (tokens: all of them right). If labels alone
    are claimed, these are None and there are no measures. ``asked`` is the number of further rounds that a malicious server
    asked for, which the ledger does not price.
    """

    attack: str
    variant: str
    rounds: list[int]
    asked: int = 0
    clients: list[int]
    targets: int
    claimed: int
    trained_on: int
    measures: list[Measure]
    threshold: float | None
    recognised: Interval | None
    exact: Interval | None
    labels: LabelShare | None
    pictures: list[Picture]


class ReconstructionFinding(Finding):
    """The reconstructions of all attacks of one adversary; chance is the nearest of ``fresh`` inputs."""

    inputs: Kind
    fresh: int
    attacks: list[ReconstructionRecord]

    def rounds_by_attack(self) -> dict[str, tuple[int, ...]]:
        """See :class:`privfl.auditing.questions.Finding`."""
        return {one.attack: tuple(one.rounds) for one in self.attacks}

    def asked_by(self) -> dict[str, int]:
        """See :class:`privfl.auditing.questions.Finding`."""
        return {one.attack: one.asked for one in self.attacks if one.asked}


class Reconstruction(Question):
    """Which inputs, and which labels, did these clients train on?

    Within each update or sum that was attacked, reconstructions and true inputs are matched one to one so that the sum of their
    PSNRs (of tokens: of the shares that are right) is largest. Chance is the nearest of :data:`FRESH` inputs of the test part,
    which nobody trained on. An input is recognised if its reconstruction is more like it than the 95 % quantile of chance over
    all true inputs. So as many guesses as there are fresh inputs recognise about 5 % of the inputs at most.

    Labels that come with inputs are compared pair by pair; labels alone are right as far as they agree as a collection.
    Intervals of medians lie between order statistics, those of shares are Clopper and Pearson's, as if examples were
    independent.
    """

    kind: str = "reconstruction"
    claim: ClassVar[type[Claim]] = ReconstructionClaim
    finding: ClassVar[type[Finding]] = ReconstructionFinding

    def require_possible(self, truth: Truth) -> None:
        """See :class:`privfl.auditing.questions.Question`: somebody trained on something."""
        if not truth.member_N.any():
            raise DataError("data of which no example is trained on; lower data.holdout")

    def evaluate(self, claims: Claims, truth: Truth, promise: PrivacyCurve | None) -> ReconstructionFinding:  # noqa: ARG002
        """See :class:`privfl.auditing.questions.Question`; no promise is about it.

        Raises:
            DataError: claimed inputs have another shape than those of the data.
        """
        made = dict(sorted(claims.by_attack.items()))
        all_R = [one.inputs_R for name in made for one in _all(made[name].claim) if one.inputs_R is not None]
        fresh_x, fresh_y = truth.population()
        whole = bool(all_R) and all(np.issubdtype(inputs_R.dtype, np.integer) for inputs_R in all_R)
        inputs = Inputs.of(fresh_x, whole, max([FRESH, *map(len, all_R)]))
        judge = _Judge(inputs, truth, *truth.examples(), fresh_y)
        return ReconstructionFinding(
            question=self.kind,
            adversary=claims.adversary,
            shadow_models=claims.shadow_models,
            inputs=inputs.kind,
            fresh=len(inputs.fresh_MD),
            attacks=[
                judge.record(attack, variant, targets).model_copy(
                    update={"rounds": list(claimed.rounds), "asked": claimed.asked}
                )
                for attack, claimed in made.items()
                for variant, targets in _narrow(claimed.claim).by_variant.items()
            ],
        )


@dataclass(frozen=True)
class _Judge:
    """The truth, and what it is compared by."""

    inputs: Inputs
    truth: Truth
    x_N: NDArray[Any]
    y_N: NDArray[Any]
    fresh_y: NDArray[Any]

    def record(self, attack: str, variant: str, targets: Sequence[Reconstructed]) -> ReconstructionRecord:
        """Judge one variant."""
        rows = [np.flatnonzero(np.isin(self.truth.owner_N, one.clients) & self.truth.member_N) for one in targets]
        total = sum(map(len, rows))
        found, true, right, compared, chance = Pairs.none(self.inputs), [], 0, 0, 0.0
        for one, rows_T in zip(targets, rows, strict=True):
            order_T = rows_T
            if one.inputs_R is not None:
                true_TD, made_RD = flat(self.x_N[rows_T]), self.inputs.claimed(attack, one.inputs_R)
                chosen, columns = assigned(self.inputs.table(made_RD, true_TD))
                found = found.joined(true_TD[columns], made_RD[chosen])
                true.append(true_TD)
                order_T = rows_T[columns]
            if one.labels_R is not None:
                labels_R = one.labels_R if one.inputs_R is None else one.labels_R[chosen]
                hits, of, by_chance = self._labels(labels_R, self.y_N[order_T], paired=one.inputs_R is not None)
                right, compared, chance = right + hits, compared + of, chance + by_chance
        threshold = self.inputs.threshold(np.concatenate(true)) if true and total else None
        recognised = exact = None
        if threshold is not None:
            like_n = found.likeness_n
            recognised = share(int((like_n > threshold).sum()), total)
            exact = share(int((like_n >= self.inputs.exact).sum()), total)
        return ReconstructionRecord(
            attack=attack,
            variant=variant,
            rounds=[],
            clients=sorted({client for one in targets for client in one.clients}),
            targets=len(targets),
            claimed=sum(map(len, targets)),
            trained_on=total,
            measures=found.measures(),
            threshold=threshold,
            recognised=recognised,
            exact=exact,
            labels=LabelShare(right=share(right, compared), chance=chance / compared) if compared else None,
            pictures=found.pictures(),
        )

    def _labels(self, labels_n: NDArray[Any], true_m: NDArray[Any], paired: bool) -> tuple[int, int, float]:
        """How many labels are right, of how many, and how many of as many drawn labels are right on average."""
        if paired:
            of = len(true_m)
            same = np.array([(self.fresh_y == label).mean() for label in true_m])
            return int((labels_n == true_m).sum()), of, float(same.sum())
        generator = self.truth.halves_generator()
        drawn = (generator.choice(self.fresh_y, len(labels_n)) for _ in range(_DRAWS))
        chance = float(np.mean([_common(one, true_m) for one in drawn]))
        # Labels that are claimed beyond those that there are count as wrong.
        return _common(labels_n, true_m), max(len(labels_n), len(true_m)), chance


def _common(first_n: NDArray[Any], second_m: NDArray[Any]) -> int:
    """How many labels two collections have in common."""
    return sum(min(int((first_n == label).sum()), int((second_m == label).sum())) for label in np.unique(first_n))


def _narrow(claim: Claim) -> ReconstructionClaim:
    assert isinstance(claim, ReconstructionClaim)
    return claim


def _all(claim: Claim) -> list[Reconstructed]:
    return [one for targets in _narrow(claim).by_variant.values() for one in targets]
