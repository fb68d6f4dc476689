"""Matrix factorisations for correlated noise: DP-FTRL and the matrix mechanism for sums over rounds.

A run releases every prefix sum of its rounds' updates x_1, ..., x_n, that is A x, with A lower triangular and all ones. A
factorisation A = B C releases B (C x + z) = A (x + C⁻¹ z) instead, with independent Gaussian rows z. The server adds the
rows of C⁻¹ z, which cancel in part over rounds. The whole run is one Gaussian release of C x, so it needs no amplification by
sampling. Its price is that of :class:`privfl.privacy.mechanisms.MatrixGaussian` at the sensitivity given here.

Sources: Kairouz et al. 2021, "Practical and private (deep) learning without sampling or shuffling"; Choquette-Choo et al.
2023, "(Amplified) banded matrix factorization"; Fichtenberger, Henzinger & Upadhyay 2022, "Constant matters"; Kalinin &
Lampert 2024, "Banded square root matrix factorization for differentially private model training".
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.signal import lfilter

from privfl.errors import PrivacyError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Participation:
    """Participation limits of one unit: at most ``most`` rounds, any two at least ``separation`` apart.

    The schedule of rounds is public and does not depend on the data. The code that draws cohorts must keep to it.
    """

    separation: int
    most: int

    def __post_init__(self) -> None:
        if self.separation < 1 or self.most < 1:
            raise PrivacyError(
                f"at most {self.most} participations, {self.separation} apart: both must be at least 1; raise them"
            )

    @classmethod
    def once(cls) -> Self:
        """Participation in a single round."""
        return cls(1, 1)

    def times(self, rounds: int) -> int:
        """The largest number of participations in ``rounds`` rounds."""
        return min(self.most, -(-rounds // self.separation))


class Factorization(ABC):
    """A strategy matrix C for ``rounds`` rounds, with a method that computes the rows of C⁻¹ z one by one.

    The state holds noise that was added. Keep it as secret as the noise, because anybody who sees it can subtract the noise.
    """

    rounds: int

    @abstractmethod
    def sensitivity(self, participation: Participation) -> float:
        """Largest Frobenius norm by which one unit can move C x, if each of its rows of x has L2 norm at most 1."""

    @abstractmethod
    def error(self) -> float:
        """Root mean square, over the rounds, of the noise on a prefix sum, for z of standard deviation 1."""

    @abstractmethod
    def start(self, dimension: int) -> Floats:
        """The state before the first round, an array of D columns."""

    @abstractmethod
    def advance(self, state_MD: Floats, round_number: int, fresh_D: Floats) -> Floats:
        """The round's row of C⁻¹ z, of length D, from its row of z; changes the state in place.

        Rounds are numbered from 0 and must follow each other. After a crash they continue from a stored state.

        Raises:
            PrivacyError: the round number is not from 0 to the last one.
        """

    def _check(self, round_number: int) -> None:
        if not 0 <= round_number < self.rounds:
            raise PrivacyError(
                f"round {round_number}: must be from 0 to {self.rounds - 1} in this factorisation; plan for more rounds"
            )


@dataclass(frozen=True)
class BandedToeplitz(Factorization):
    """Banded Toeplitz strategy: C[t, s] = c_(t − s) for 0 ≤ t − s < bands, else 0, with c_0 = 1.

    Args:
        rounds: n.
        coefficients: c_0 = 1, c_1, ..., one for each band.
    """

    rounds: int
    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.coefficients or self.coefficients[0] != 1 or not np.isfinite(self.coefficients).all():
            raise PrivacyError(
                f"coefficients {self.coefficients[:3]}...: must be finite and begin with 1; divide them by the first"
            )
        if not 1 <= len(self.coefficients) <= self.rounds:
            raise PrivacyError(
                f"{len(self.coefficients)} bands for {self.rounds} rounds: must be from 1 to {self.rounds}; take fewer bands"
            )

    @classmethod
    def independent(cls, rounds: int) -> Self:
        """The identity, of one band: the noise of all rounds is independent."""
        return cls(rounds, (1.0,))

    @classmethod
    def square_root(cls, rounds: int, bands: int) -> Self:
        """The first bands of the square root of A: c_j = C(2j, j) / 4^j (Fichtenberger et al. 2022, theorem 1)."""
        coefficients = [1.0]
        for j in range(1, bands):
            # c_j = c_(j−1) (2j − 1) / 2j
            coefficients.append(coefficients[-1] * (2 * j - 1) / (2 * j))
        return cls(rounds, tuple(coefficients))

    @classmethod
    def optimised(cls, rounds: int, bands: int, momentum: float = 0.0) -> Self:
        """The bands of least mean squared error at unit sensitivity, for separations of at least ``bands``.

        L-BFGS searches from the square root. Sensitivity and price do not rest on the search: they are computed from the
        coefficients that it returns.

        Args:
            rounds: n.
            bands: at most n.
            momentum: momentum of the server, whose velocity sums then count for the error; 0: plain prefix sums.
        """
        # A's first column: sums over rounds of 1, 1 + m, 1 + m + m², ...
        workload_n = lfilter([1.0], [1.0, -momentum], np.ones(rounds))

        def loss(tail: Floats) -> float:
            coefficients = np.append(1.0, tail)
            error = _mean_square(workload_n, coefficients)
            return math.log(error) + math.log(coefficients @ coefficients) if math.isfinite(error) else 1e9

        begun = cls.square_root(rounds, bands)
        found = minimize(loss, begun.coefficients[1:], method="L-BFGS-B", options={"maxiter": 200})
        return cls(rounds, (1.0, *(float(each) for each in found.x))) if bands > 1 else begun

    def sensitivity(self, participation: Participation) -> float:
        """The exact sensitivity.

        Columns of C are orthogonal if they are at least as far apart as there are bands. With k participations then

        Δ² = Σ_{i<k} ‖column i · separation‖² (Choquette-Choo et al. 2023, theorem 2)

        Columns that overlap add up at worst. If the coefficients are not negative and do not rise, the worst schedule begins
        in the first round and takes part as often as allowed: Δ = ‖Σ_{i<k} column i · separation‖ (Kalinin & Lampert 2024,
        theorem 2).

        Raises:
            PrivacyError: columns overlap, and a coefficient is negative or exceeds the one before.
        """
        starts = [place * participation.separation for place in range(participation.times(self.rounds))]
        coefficients = np.array(self.coefficients)
        overlapping = len(starts) > 1 and participation.separation < len(coefficients)
        if overlapping and not ((coefficients >= 0).all() and (np.diff(coefficients) <= 0).all()):
            raise PrivacyError(
                f"{len(coefficients)} bands with a separation of {participation.separation}: the coefficients must not be "
                "negative and must not rise; take no more bands than the separation"
            )
        together = np.zeros(self.rounds)
        for start in starts:
            column = coefficients[: self.rounds - start]
            together[start : start + len(column)] += column if overlapping else np.abs(column)
        return float(np.linalg.norm(together))

    def error(self) -> float:
        """Root mean square, over the rounds, of the noise on a prefix sum, for z of standard deviation 1."""
        return math.sqrt(_mean_square(np.ones(self.rounds), np.array(self.coefficients)))

    def start(self, dimension: int) -> Floats:
        """Zeros for the last bands − 1 rows of noise; row t mod (bands − 1) is that of round t."""
        return np.zeros((len(self.coefficients) - 1, dimension))

    def advance(self, state_MD: Floats, round_number: int, fresh_D: Floats) -> Floats:
        """The round's row of C⁻¹ z: C w = z, so w_t = z_t − Σ_{j≥1} c_j w_(t−j)."""
        self._check(round_number)
        memory = len(state_MD)
        if not memory:
            return fresh_D.astype(np.float64)
        weight_M = np.empty(memory)
        back = np.arange(1, memory + 1)
        weight_M[(round_number - back) % memory] = self.coefficients[1:]
        noise_D = np.asarray(fresh_D - weight_M @ state_MD, np.float64)
        state_MD[round_number % memory] = noise_D
        return noise_D


def _mean_square(workload_n: Floats, coefficients: Floats) -> float:
    """Mean squared norm of the rows of B = A C⁻¹, for Toeplitz A and C given by their first columns."""
    rows_n = lfilter([1.0], coefficients, workload_n)
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.mean(np.cumsum(np.square(rows_n))))


@dataclass(frozen=True)
class BinaryTree(Factorization):
    """Tree aggregation: round t releases the sum of the last 2^j rounds, with 2^j the largest power of two that divides t.

    Rounds count from 1 here. The prefix sum of round t is the sum of as many releases as t has ones in binary (Dwork et al.
    2010; Chan, Shi & Song 2011). This is the tree of Kairouz et al. 2021 without the estimator of Honaker 2015.

    Args:
        rounds: n.
    """

    rounds: int

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise PrivacyError(f"a tree over {self.rounds} rounds: must be at least 1; plan for more rounds")

    def sensitivity(self, participation: Participation) -> float:
        """An upper bound on the sensitivity, exact for a single participation.

        A node over 2^j rounds holds at most m = ⌈2^j / separation⌉ of k participations. The squares of these counts, over
        the nodes of one level, add up to at most ⌊k/m⌋ m² + (k mod m)².
        """
        times, squared = participation.times(self.rounds), 0
        for level in range(self.rounds.bit_length()):
            most = min(times, -(-(1 << level) // participation.separation))
            squared += (times // most) * most**2 + (times % most) ** 2
        return math.sqrt(squared)

    def error(self) -> float:
        """Root mean square, over the rounds, of the noise on a prefix sum, for z of standard deviation 1."""
        return math.sqrt(np.mean([number.bit_count() for number in range(1, self.rounds + 1)]))

    def start(self, dimension: int) -> Floats:
        """Zeros for the noise of the last node of each level."""
        return np.zeros((self.rounds.bit_length(), dimension))

    def advance(self, state_MD: Floats, round_number: int, fresh_D: Floats) -> Floats:
        """The round's row of C⁻¹ z: fresh noise of the node that ends here, less that of the last node of each level below."""
        self._check(round_number)
        number = round_number + 1
        level = (number & -number).bit_length() - 1
        noise_D = np.asarray(fresh_D - state_MD[:level].sum(axis=0), np.float64)
        state_MD[level] = fresh_D
        return noise_D
