"""What was released once: the words between those who add noise and those who price it.

Each class names one release with the facts that its price needs, and nothing else; noise is relative to what one unit
of protection can contribute, so that no word here knows what the unit is. A :class:`History` counts releases.

Two neighbouring relations exist, and a history holds one of them only:

- ``add_or_remove_one``: the contribution of one unit is there, or is zero. All else, its share of distributed noise
  and its place in a public schedule among it, stays as it was.
- ``replace_one``: the contribution of one unit becomes any other. A sum of vectors clipped to C moves by 2C.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from privfl.errors import PrivacyError

Relation = Literal["add_or_remove_one", "replace_one"]
"""What two neighbouring data sets differ in."""


@dataclass(frozen=True, order=True)
class Gaussian:
    """The Gaussian mechanism on the sum over everybody.

    Args:
        noise_multiplier: standard deviation of the noise over the clipping norm C, under either relation.
        relation: with ``replace_one`` the sensitivity is 2C.
    """

    noise_multiplier: float
    relation: Relation = "add_or_remove_one"

    def __post_init__(self) -> None:
        _positive(self, "noise_multiplier")


@dataclass(frozen=True, order=True)
class PoissonGaussian:
    """The Gaussian mechanism on a sample that each unit enters independently, and in secret.

    Args:
        sample_rate: the probability of entering, in (0, 1]; at 1 this is :class:`Gaussian`.
        noise_multiplier: standard deviation of the noise over the clipping norm C, under either relation.
        relation: with ``replace_one`` the sensitivity is 2C.
    """

    sample_rate: float
    noise_multiplier: float
    relation: Relation = "add_or_remove_one"

    def __post_init__(self) -> None:
        _rate(self)
        _positive(self, "noise_multiplier")


@dataclass(frozen=True, order=True)
class FixedSizeGaussian:
    """The Gaussian mechanism on ``size`` of ``population`` units, drawn without replacement, and in secret.

    The size of the sample is fixed, so that units can be replaced only: the sensitivity is 2C.

    Args:
        population, size: 1 ≤ size ≤ population.
        noise_multiplier: standard deviation of the noise over the clipping norm C, not over the sensitivity.
    """

    population: int
    size: int
    noise_multiplier: float

    relation: ClassVar[Relation] = "replace_one"

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.population:
            raise PrivacyError(f"a sample of {self.size} out of {self.population}: the size must be from 1 to the population")
        _positive(self, "noise_multiplier")


@dataclass(frozen=True, order=True)
class ShuffledEpoch:
    """One pass over shuffled data in disjoint batches, each noised: every unit is in exactly one batch.

    Priced as if the adversary knew in which batch: an epoch is one release of the Gaussian mechanism. Shuffling does not
    earn the amplification of Poisson sampling (Chua et al. 2024, "How private are DP-SGD implementations?").

    Args:
        noise_multiplier: standard deviation of the noise on a batch's sum over the clipping norm.
    """

    noise_multiplier: float

    relation: ClassVar[Relation] = "add_or_remove_one"

    def __post_init__(self) -> None:
        _positive(self, "noise_multiplier")


@dataclass(frozen=True, order=True)
class MatrixGaussian:
    """A whole run of the matrix mechanism (DP-FTRL): one Gaussian release of the strategy times the stream.

    Args:
        noise_multiplier: standard deviation of each row of the uncorrelated noise over the clipping norm.
        sensitivity: how far one unit can move the strategy's product, in L2, over the clipping norm, for the
            participations that the schedule allows (:mod:`privfl.privacy.factorization`); under ``add_or_remove_one``.
        relation: with ``replace_one`` everything moves twice as far.
    """

    noise_multiplier: float
    sensitivity: float
    relation: Relation = "add_or_remove_one"

    def __post_init__(self) -> None:
        _positive(self, "noise_multiplier", "sensitivity")


@dataclass(frozen=True, order=True)
class _IntegerSum:
    """A sum of integer vectors to which every one of ``clients`` has added independent integer noise.

    Args:
        sensitivity_l1, sensitivity_l2: the largest norms of one unit's vector of integers, rounding included.
        dimension: D, how many entries it has.
        variance: of one client's noise on one entry.
        clients: how many shares of noise are in the sum for certain: the honest clients that survive, at least.
        sample_rate: the probability with which a unit enters independently and in secret; 1 where it is known.
    """

    sensitivity_l1: float
    sensitivity_l2: float
    dimension: int
    variance: float
    clients: int
    sample_rate: float = 1.0

    relation: ClassVar[Relation] = "add_or_remove_one"

    def __post_init__(self) -> None:
        _positive(self, "sensitivity_l1", "sensitivity_l2", "dimension", "variance", "clients")
        _rate(self)

    @property
    def total_variance(self) -> float:
        """Of the noise on one entry of the sum."""
        return self.variance * self.clients


@dataclass(frozen=True, order=True)
class SkellamSum(_IntegerSum):
    """Integer sum with Skellam noise, the difference of two Poisson variables (Agarwal, Kairouz & Liu 2021).

    Sums of Skellam noise are Skellam noise: only the total variance counts.
    """


@dataclass(frozen=True, order=True)
class DiscreteGaussianSum(_IntegerSum):
    """Integer sum with discrete Gaussian noise (Kairouz, Liu & Steinke 2021).

    A sum of discrete Gaussians is not one; what that costs depends on dimension, share and number of shares. ``variance``
    is the parameter σ² of one share; the variance itself is below it, by nothing that can be seen for σ ≥ 1.
    """


Mechanism = Gaussian | PoissonGaussian | FixedSizeGaussian | ShuffledEpoch | MatrixGaussian | SkellamSum | DiscreteGaussianSum


class History(Mapping[Mechanism, int]):
    """A multiset of releases about the same units: each mechanism, and how many times it was used.

    Immutable and hashable; ``+`` composes two. The mechanisms may have been chosen adaptively, each knowing all earlier
    releases; their parameters may not depend on the data.

    Args:
        uses: how many times each mechanism was used; none at all is the same as 0.

    Raises:
        PrivacyError: the mechanisms speak of different neighbouring relations, whose prices do not add up; or a number
            of uses is negative.
    """

    def __init__(self, uses: Mapping[Mechanism, int] | None = None) -> None:
        counted: dict[Mechanism, int] = {mechanism: times for mechanism, times in (uses or {}).items() if times}
        if any(times < 0 for times in counted.values()):
            raise PrivacyError(f"a mechanism was used {min(counted.values())} times; a history only grows, count from 0")
        relations = sorted({mechanism.relation for mechanism in counted})
        if len(relations) > 1:
            raise PrivacyError(
                f"one history under {' and '.join(relations)}: their prices do not add up; state all under one relation"
            )
        self._uses = dict(sorted(counted.items(), key=lambda use: _order(use[0])))
        self._hash = hash(tuple(self._uses.items()))

    def __getitem__(self, mechanism: Mechanism) -> int:
        return self._uses[mechanism]

    def __iter__(self) -> Iterator[Mechanism]:
        return iter(self._uses)

    def __len__(self) -> int:
        return len(self._uses)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"History({self._uses})"

    def __add__(self, other: Mapping[Mechanism, int]) -> History:
        total: dict[Mechanism, int] = dict(self._uses)
        for mechanism, times in other.items():
            total[mechanism] = total.get(mechanism, 0) + times
        return History(total)

    @property
    def relation(self) -> Relation | None:
        """The neighbouring relation of all of it; None where nothing was released."""
        return next((mechanism.relation for mechanism in self), None)


def _order(mechanism: Mechanism) -> tuple[str, tuple[object, ...]]:
    return type(mechanism).__name__, dataclasses.astuple(mechanism)


def _positive(mechanism: object, *names: str) -> None:
    for name in names:
        value = getattr(mechanism, name)
        if not 0 < value < math.inf:
            raise PrivacyError(f"{type(mechanism).__name__}: {name} = {value}: must be positive and finite")
        if not 1e-70 <= value <= 1e70:
            raise PrivacyError(
                f"{type(mechanism).__name__}: {name} = {value}: must be from 1e-70 to 1e70, or its powers are no numbers"
            )


def _rate(mechanism: PoissonGaussian | _IntegerSum) -> None:
    if not 0 < mechanism.sample_rate <= 1:
        raise PrivacyError(f"{type(mechanism).__name__}: sample_rate = {mechanism.sample_rate}: must be above 0 and at most 1")
