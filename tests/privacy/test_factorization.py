"""Factorisations against plain loops: the noise they draw, and how far one unit can move what they release."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from privfl.errors import PrivacyError
from privfl.privacy.accounting import epsilon
from privfl.privacy.factorization import BandedToeplitz, BinaryTree, Factorization, Participation
from privfl.privacy.mechanisms import Gaussian, History, MatrixGaussian

Matrix = NDArray[np.float64]


def strategy(one: Factorization) -> Matrix:
    """C, entry by entry, from its definition."""
    matrix = np.zeros((one.rounds, one.rounds))
    for row, column in itertools.product(range(one.rounds), repeat=2):
        if isinstance(one, BandedToeplitz):
            if 0 <= row - column < len(one.coefficients):
                matrix[row, column] = one.coefficients[row - column]
        else:
            size = 1
            while (row + 1) % (2 * size) == 0:
                size *= 2
            matrix[row, column] = float(row + 1 - size <= column <= row)
    return matrix


def drawn(one: Factorization, fresh_nD: Matrix) -> Matrix:
    state = one.start(fresh_nD.shape[1])
    return np.stack([one.advance(state, place, row) for place, row in enumerate(fresh_nD)])


def worst(matrix: Matrix, participation: Participation) -> float:
    """Brute force over all schedules: rows of norm 1 in any direction move C x by at most √Σ|C'C| over the schedule."""
    gram, found = np.abs(matrix.T @ matrix), 0.0
    rounds = len(matrix)
    for times in range(1, participation.most + 1):
        for schedule in itertools.combinations(range(rounds), times):
            if all(later - before >= participation.separation for before, later in itertools.pairwise(schedule)):
                found = max(found, float(gram[np.ix_(schedule, schedule)].sum()))
    return math.sqrt(found)


FACTORIZATIONS = {
    "independent": BandedToeplitz.independent(11),
    "square root": BandedToeplitz.square_root(11, 11),
    "banded square root": BandedToeplitz.square_root(11, 3),
    "optimised": BandedToeplitz.optimised(11, 4),
    "with momentum": BandedToeplitz.optimised(11, 3, momentum=0.9),
    "tree": BinaryTree(11),
}
SCHEDULES = [Participation.once(), Participation(4, 3), Participation(4, 2), Participation(5, 9), Participation(11, 2)]


@pytest.mark.parametrize("name", FACTORIZATIONS)
def test_rows_solve_the_system(name: str) -> None:
    one, fresh = FACTORIZATIONS[name], np.random.default_rng(0).normal(size=(11, 5))
    assert strategy(one) @ drawn(one, fresh) == pytest.approx(fresh)


@pytest.mark.parametrize("name", FACTORIZATIONS)
def test_noise_goes_on_from_a_stored_state(name: str) -> None:
    one, fresh = FACTORIZATIONS[name], np.random.default_rng(1).normal(size=(11, 5))
    whole = drawn(one, fresh)
    for stop in range(11):
        state = one.start(5)
        for place in range(stop):
            one.advance(state, place, fresh[place])
        restored = np.frombuffer(state.tobytes()).reshape(state.shape).copy()
        rest = [one.advance(restored, place, fresh[place]) for place in range(stop, 11)]
        assert np.array_equal(np.stack(rest), whole[stop:])


@pytest.mark.parametrize("name", FACTORIZATIONS)
def test_error_is_that_of_prefix_sums_of_the_noise(name: str) -> None:
    one = FACTORIZATIONS[name]
    # Row t of A C⁻¹ multiplies z to the noise on prefix t.
    rows = np.tril(np.ones((11, 11))) @ np.linalg.inv(strategy(one))
    assert one.error() == pytest.approx(math.sqrt(np.mean((rows**2).sum(axis=1))))


@pytest.mark.parametrize("name", FACTORIZATIONS)
@pytest.mark.parametrize("participation", SCHEDULES, ids=str)
def test_sensitivity_is_the_worst_of_all_schedules(name: str, participation: Participation) -> None:
    one = FACTORIZATIONS[name]
    exact = worst(strategy(one), participation)
    if name == "tree":
        assert exact <= one.sensitivity(participation) * (1 + 1e-12)
        assert participation.most > 1 or exact == pytest.approx(one.sensitivity(participation))
    else:
        assert one.sensitivity(participation) == pytest.approx(exact)


@pytest.mark.parametrize("rounds", [1, 2, 7, 8, 9])
@pytest.mark.parametrize("participation", [Participation.once(), Participation(2, 3), Participation(3, 2)], ids=str)
def test_tree_of_any_size(rounds: int, participation: Participation) -> None:
    tree = BinaryTree(rounds)
    assert worst(strategy(tree), participation) <= tree.sensitivity(participation) * (1 + 1e-12)
    fresh = np.random.default_rng(2).normal(size=(rounds, 2))
    assert strategy(tree) @ drawn(tree, fresh) == pytest.approx(fresh)


def test_square_root_is_one() -> None:
    matrix = strategy(BandedToeplitz.square_root(20, 20))
    assert matrix @ matrix == pytest.approx(np.tril(np.ones((20, 20))))


def test_better_factorisations_err_less_at_equal_sensitivity() -> None:
    once = Participation.once()

    def merit(one: Factorization) -> float:
        return one.error() * one.sensitivity(once)

    tree, root = BinaryTree(256), BandedToeplitz.square_root(256, 256)
    assert merit(BandedToeplitz.independent(256)) > merit(tree) > merit(root)
    banded, best = BandedToeplitz.square_root(256, 8), BandedToeplitz.optimised(256, 8)
    assert merit(best) < merit(banded)
    # Mean squared error, exactly the square root's closed form: Σ (n − j) c_j² / n, times Σ c_j².
    squares = np.square(root.coefficients)
    assert merit(root) == pytest.approx(math.sqrt(squares.sum() * np.mean(np.cumsum(squares))))


def test_optimised_for_momentum_beats_the_one_for_plain_sums_under_momentum() -> None:
    matrix = np.tril(np.ones((64, 64)))
    workload = matrix @ np.tril(0.9 ** np.abs(np.subtract.outer(np.arange(64), np.arange(64))))

    def merit(one: BandedToeplitz) -> float:
        rows = workload @ np.linalg.inv(strategy(one))
        return math.sqrt(np.mean((rows**2).sum(axis=1))) * float(np.linalg.norm(one.coefficients))

    assert merit(BandedToeplitz.optimised(64, 6, momentum=0.9)) < merit(BandedToeplitz.optimised(64, 6))


def test_correlated_noise_has_the_covariance_of_the_inverse() -> None:
    one = BandedToeplitz.square_root(4, 3)
    noise = drawn(one, np.random.default_rng(3).normal(size=(4, 100_000)))
    inverse = np.linalg.inv(strategy(one))
    # Entries of a covariance of 100,000 samples: a standard error of at most 0.008; five of them.
    assert np.cov(noise) == pytest.approx(inverse @ inverse.T, abs=0.04)


def test_one_band_is_the_gaussian_mechanism() -> None:
    independent = BandedToeplitz.independent(100)
    often = Participation(10, 6)
    run = History({MatrixGaussian(2.0, independent.sensitivity(often)): 1})
    assert epsilon(run, 1e-5) == pytest.approx(epsilon(History({Gaussian(2.0): 6}), 1e-5))


def test_overlapping_columns_need_falling_coefficients() -> None:
    rising = BandedToeplitz(10, (1.0, 0.2, 0.4))
    assert rising.sensitivity(Participation(3, 2)) == pytest.approx(worst(strategy(rising), Participation(3, 2)))
    with pytest.raises(PrivacyError, match="take no more bands than the separation"):
        rising.sensitivity(Participation(2, 2))


@pytest.mark.parametrize("impossible", [(), (0.5,), (1.0, math.nan), (1.0,) * 6])
def test_impossible_coefficients_are_refused(impossible: tuple[float, ...]) -> None:
    with pytest.raises(PrivacyError, match="must be"):
        BandedToeplitz(5, impossible)


def test_rounds_beyond_the_plan_are_refused() -> None:
    for one in (BandedToeplitz.square_root(3, 2), BinaryTree(3)):
        with pytest.raises(PrivacyError, match="plan for more rounds"):
            one.advance(one.start(1), 3, np.zeros(1))
    with pytest.raises(PrivacyError, match="at least 1"):
        Participation(0, 1)
    with pytest.raises(PrivacyError, match="at least 1"):
        BinaryTree(0)
