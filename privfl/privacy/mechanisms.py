"""Mechanisms: the noised releases that an accountant can price, and a history that counts them.

Each class describes one release by the facts that its price needs, and nothing else. Noise is relative to the contribution
of one unit of privacy, so a mechanism need not know the unit. A :class:`History` counts releases.

A history is stated under one of two neighbouring relations:

- ``add_or_remove_one``: the contribution of one unit is present, or is zero. All else stays as it was, including the unit's
  share of distributed noise and its place in a public schedule.
- ``replace_one``: the contribution of one unit becomes any other. A sum of vectors clipped to C moves by at most 2C.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from privfl.errors import PrivacyError

Relation = Literal["add_or_remove_one", "replace_one"]
"""The neighbouring relation: the difference between two data sets that a guarantee makes hard to tell apart."""


@dataclass(frozen=True, order=True)
class Gaussian:
    """The Gaussian mechanism on the sum over everybody.

    Args:
        noise_multiplier: standard deviation of the noise over the clipping norm C, for both relations.
        relation: the sensitivity is C for ``add_or_remove_one`` and 2C for ``replace_one``.
    """

    noise_multiplier: float
    relation: Relation = "add_or_remove_one"

    def __post_init__(self) -> None:
        _positive(self, "noise_multiplier")


@dataclass(frozen=True, order=True)
class PoissonGaussian:
    """The Gaussian mechanism on a secret Poisson sample, which each unit enters independently.

    Args:
        sample_rate: the probability of entering, in (0, 1]; at 1 this is :class:`Gaussian`.
        noise_multiplier: standard deviation of the noise over the clipping norm C, for both relations.
        relation: the sensitivity is C for ``add_or_remove_one`` and 2C for ``replace_one``.
    """

    sample_rate: float
    noise_multiplier: float
    relation: Relation = "add_or_remove_one"

    def __post_init__(self) -> None:
        _rate(self)
        _positive(self, "noise_multiplier")


@dataclass(frozen=True, order=True)
class FixedSizeGaussian:
    """The Gaussian mechanism on a secret sample of ``size`` of ``population`` units, drawn without replacement.

    The size of the sample is fixed, so it is priced under replacement of a unit: the sensitivity is 2C.

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
            raise PrivacyError(
                f"a sample of {self.size} of {self.population}: must be from 1 to {self.population}; change the size"
            )
        _positive(self, "noise_multiplier")


@dataclass(frozen=True, order=True)
class ShuffledEpoch:
    """One epoch of shuffled, disjoint batches, each with Gaussian noise; every unit is in exactly one batch.

    The price assumes that the adversary knows that batch, so an epoch is one release of the Gaussian mechanism. Shuffling
    does not earn the amplification of Poisson sampling (Chua et al. 2024, "How private are DP-SGD implementations?").

    Args:
        noise_multiplier: standard deviation of the noise on a batch's sum, over the clipping norm.
    """

    noise_multiplier: float

    relation: ClassVar[Relation] = "add_or_remove_one"

    def __post_init__(self) -> None:
        _positive(self, "noise_multiplier")


@dataclass(frozen=True, order=True)
class MatrixGaussian:
    """A whole run of the matrix mechanism (DP-FTRL): one Gaussian release of the strategy matrix times the stream of sums.

    Args:
        noise_multiplier: standard deviation of each row of the uncorrelated noise over the clipping norm.
        sensitivity: the largest L2 distance by which one unit can move that product, over the clipping norm, among the
            participations that the schedule allows (:mod:`privfl.privacy.factorization`); under ``add_or_remove_one``.
        relation: with ``replace_one`` the sensitivity doubles.
    """

    noise_multiplier: float
    sensitivity: float
    relation: Relation = "add_or_remove_one"

    def __post_init__(self) -> None:
        _positive(self, "noise_multiplier", "sensitivity")


@dataclass(frozen=True, order=True)
class _IntegerSum:
    """A sum of integer vectors to which each of ``clients`` clients has added independent integer noise.

    Args:
        sensitivity_l1, sensitivity_l2: the largest L1 and L2 norm of one unit's integer vector, rounding included.
        dimension: D, the number of entries of the vector.
        variance: variance of one client's noise on one entry.
        clients: the smallest number of shares of noise in the sum, one for each honest client that survives.
        sample_rate: probability with which a unit enters independently and in secret; 1 if its participation is known.
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
        """Total parameter ``variance * clients`` of the noise on one entry of the sum."""
        return self.variance * self.clients


@dataclass(frozen=True, order=True)
class SkellamSum(_IntegerSum):
    """An integer sum with Skellam noise, the difference of two Poisson variables (Agarwal, Kairouz & Liu 2021).

    A sum of Skellam noise is Skellam noise again, so the price depends on the shares by their total variance only.
    """


@dataclass(frozen=True, order=True)
class DiscreteGaussianSum(_IntegerSum):
    """An integer sum with discrete Gaussian noise (Kairouz, Liu & Steinke 2021).

    A sum of discrete Gaussians is not a discrete Gaussian; the price of that depends on the dimension, the variance of a
    share and the number of shares. ``variance`` is the parameter σ² of one share. The true variance of a share is below σ²,
    by a negligible amount for σ ≥ 1.
    """


Mechanism = Gaussian | PoissonGaussian | FixedSizeGaussian | ShuffledEpoch | MatrixGaussian | SkellamSum | DiscreteGaussianSum


class History(Mapping[Mechanism, int]):
    """A multiset of releases about the same units: each mechanism, and the number of its uses.

    It is immutable and hashable; ``+`` composes two histories. The mechanisms may have been chosen adaptively, each in the
    light of all earlier releases, but their parameters may not depend on the data.

    Args:
        uses: number of uses of each mechanism; a mechanism with 0 uses is left out.

    Raises:
        PrivacyError: the mechanisms are under different neighbouring relations, whose prices do not add up; or a number of
            uses is negative.
    """

    def __init__(self, uses: Mapping[Mechanism, int] | None = None) -> None:
        counted: dict[Mechanism, int] = {mechanism: times for mechanism, times in (uses or {}).items() if times}
        if any(times < 0 for times in counted.values()):
            raise PrivacyError(f"a mechanism was used {min(counted.values())} times; must be 0 or more; count the uses anew")
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
        """The neighbouring relation of all its mechanisms; None if nothing was released."""
        return next((mechanism.relation for mechanism in self), None)


def _order(mechanism: Mechanism) -> tuple[str, tuple[object, ...]]:
    return type(mechanism).__name__, dataclasses.astuple(mechanism)


def _positive(mechanism: object, *names: str) -> None:
    for name in names:
        value = getattr(mechanism, name)
        if not 0 < value < math.inf:
            raise PrivacyError(f"{type(mechanism).__name__}: {name} = {value}: must be positive and finite; set another value")
        if not 1e-70 <= value <= 1e70:
            raise PrivacyError(
                f"{type(mechanism).__name__}: {name} = {value}: must be from 1e-70 to 1e70, or its powers overflow; set another"
            )


def _rate(mechanism: PoissonGaussian | _IntegerSum) -> None:
    if not 0 < mechanism.sample_rate <= 1:
        raise PrivacyError(f"{type(mechanism).__name__}: sample_rate = {mechanism.sample_rate}: must be in (0, 1]; set another")
