"""Bounds on the noise of a known mechanism: coverage, power, and failure on another mechanism; estimates that are estimates.

Coverage has RUNS runs: a bound whose true rate of violations is the nominal 5 % shows more than LIMIT in one test of a
thousand. The seeds are fixed.
"""

import functools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from privfl.auditing.bound import NoiseFamily, fpr_bound, tpr_bound
from privfl.auditing.estimates import gaussians_epsilon, last_iterate_epsilon, one_shot_epsilon, two_gaussian_epsilon
from privfl.auditing.family import RefutedNoise, clopper_pearson_noise, gaussian_pair_noise, one_run_noise
from privfl.auditing.noise import gaussian_epsilon, one_run_mu
from privfl.errors import DataError
from privfl.privacy import accounting
from privfl.privacy.mechanisms import Gaussian, History, PoissonGaussian

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

RUNS, CANDIDATES = 100, 600
LIMIT = stats.binom.ppf(0.999, RUNS, 0.05) / RUNS
GRID = np.linspace(0, 20, 200)
ROUNDS, RATE = 20, 0.2


@functools.cache
def subsampled(noise: float) -> tuple[list[float], list[float]]:
    history = History({PoissonGaussian(RATE, noise): ROUNDS})
    return GRID.tolist(), accounting.curve([history], GRID).tolist()


@functools.cache
def gaussian(noise: float) -> tuple[list[float], list[float]]:
    return GRID.tolist(), accounting.curve([History({Gaussian(noise): 1})], GRID).tolist()


def scores_of(member: BoolArray, noise: float, rng: np.random.Generator) -> FloatArray:
    """The log-likelihood ratio of rounds of the subsampled Gaussian."""
    taken_TN = (rng.random((ROUNDS, len(member))) < RATE) & member
    seen_TN = taken_TN + noise * rng.normal(size=taken_TN.shape)
    return np.asarray(np.log1p(RATE * np.expm1((seen_TN - 0.5) / noise**2)).sum(axis=0))


def audits(scores: FloatArray, member: BoolArray, family: NoiseFamily) -> list[RefutedNoise]:
    chosen = np.arange(len(member)) % 3 == 0
    return [clopper_pearson_noise(scores, member, chosen, family), one_run_noise(scores, member, family)]


def flagged(actual: float, promised: float = 1.0, runs: int = RUNS, candidates: int = CANDIDATES) -> list[float]:
    """How often the promised noise of the subsampled Gaussian is refuted, by each audit."""
    rng, family = np.random.default_rng(0), NoiseFamily(promised, subsampled)
    found = []
    for _ in range(runs):
        member = rng.random(candidates) < 0.5
        bounds = audits(scores_of(member, actual, rng), member, family)
        found.append([one.below is not None and one.below <= promised for one in bounds])
    return [float(share) for share in np.mean(found, axis=0)]


def test_the_promised_noise_is_refuted_in_no_more_runs_than_said() -> None:
    assert max(flagged(1.0)) <= LIMIT


def test_halved_noise_is_refuted() -> None:
    by_clopper_pearson, by_one_run = flagged(0.5, runs=20, candidates=2000)
    assert by_clopper_pearson == 1.0
    assert by_one_run > 0.5


def test_on_laplace_noise_both_are_wrong_most_of_the_time() -> None:
    """Laplace noise with ε = 2 beside Gaussian noise of the same ε at δ = 1e-5: they must not be called bounds on ε."""
    same = next(noise for noise in np.linspace(1, 4, 301) if gaussian_epsilon(1 / noise, 1e-5) <= 2.0)
    rng, family = np.random.default_rng(0), NoiseFamily(float(same), gaussian)
    wrong = []
    for _ in range(20):
        member = rng.random(1000) < 0.5
        bounds = audits(member + rng.laplace(0, 0.5, 1000), member, family)
        wrong.append([one.below is not None and one.below <= same for one in bounds])
    assert min(np.mean(wrong, axis=0)) > 0.5


def test_the_lowest_fpr_is_the_inverse_of_the_highest_tpr() -> None:
    epsilons, deltas = gaussian(1.0)
    for fpr in (1e-4, 0.01, 0.3, 0.9):
        tpr = float(tpr_bound(fpr, epsilons, deltas))
        assert fpr_bound(tpr, epsilons, deltas) == pytest.approx(fpr, rel=1e-6)
        # The grid of ε keeps it a little above the exact curve.
        assert stats.norm.cdf(stats.norm.ppf(fpr) + 1) <= tpr < stats.norm.cdf(stats.norm.ppf(fpr) + 1) * 1.01


def test_one_release_of_gaussian_noise_gives_the_mu_of_its_own_audit() -> None:
    """Both refute the same noise, up to the steps in which noise is tried."""
    member = np.arange(1000) % 2 == 0
    scores = np.where(np.arange(1000) < 110, 1.0, 0.0) * member + np.linspace(0, 1e-3, 1000)
    below = one_run_noise(scores, member, NoiseFamily(1.0, gaussian)).below
    right = int(member[np.argsort(-scores, kind="stable")[:100]].sum())
    assert below is not None
    assert below == pytest.approx(1 / one_run_mu(right, 100, 1000), rel=0.06)


def test_the_least_noise_is_that_of_scores_that_tell_all_apart() -> None:
    member = np.arange(1000) % 2 == 0
    perfect, nothing = (audits(scores, member, NoiseFamily(1.0, gaussian)) for scores in (member * 1.0, np.arange(1000.0)))
    assert [one.below for one in perfect] == [one.least for one in perfect] == [one.least for one in nothing]
    assert [one.below for one in nothing] == [None, None]
    assert perfect[1].least == pytest.approx(1 / one_run_mu(100, 100, 1000), rel=0.06)


def test_nothing_is_refuted_by_scores_that_know_nothing() -> None:
    rng = np.random.default_rng(1)
    member = rng.random(400) < 0.5
    assert [one.below for one in audits(rng.normal(size=400), member, NoiseFamily(1.0, gaussian))] == [None, None]


@pytest.mark.parametrize(("limit", "refutes"), [(100.0, True), (0.15, False)])
def test_a_noise_that_the_mechanism_does_not_take_is_not_refuted(limit: float, refutes: bool) -> None:
    member = np.arange(1000) % 2 == 0
    family = NoiseFamily(1.0, lambda noise: gaussian(noise) if noise < limit else None)
    found = [one.below is not None for one in audits(member + np.linspace(0, 1e-3, 1000), member, family)]
    assert found == [refutes, refutes]


# --- a pair of Gaussians --------------------------------------------------------------------------------------------------


def signals_of(member: BoolArray, noise: float, rng: np.random.Generator, rate: float = RATE) -> FloatArray:
    """The sum of the releases of rounds, of which a member is in each with probability ``rate``."""
    taken_N = rng.binomial(ROUNDS, rate, len(member)) * member
    return np.asarray(taken_N + noise * np.sqrt(ROUNDS) * rng.normal(size=len(member)))


def pairs(actual: float, runs: int, rate: float = RATE, samples: tuple[tuple[float, int], ...] = ()) -> FloatArray:
    """The noise multipliers that are refuted, infinite if none is; promised is 1."""
    rng, family = np.random.default_rng(0), NoiseFamily(1.0, subsampled, samples or ((rate, ROUNDS),))
    found = []
    for _ in range(runs):
        member = rng.random(CANDIDATES) < 0.5
        pair = gaussian_pair_noise(signals_of(member, actual, rng, rate), member, family)
        assert pair is not None
        found.append(np.inf if pair.below is None else pair.below)
    return np.array(found)


@pytest.mark.parametrize(("actual", "rate"), [(1.0, RATE), (1.0, 1.0), (1.0, 0.02), (0.1, 0.02)])
def test_the_pair_covers_whatever_the_sample_rate_and_noise(actual: float, rate: float) -> None:
    # 1,000 runs at a nominal 5 %: more than 7.3 % in one test of a thousand.
    assert np.mean(pairs(actual, 1000, rate) <= actual) <= stats.binom.ppf(0.999, 1000, 0.05) / 1000


def test_the_pair_refutes_half_of_the_noise() -> None:
    # Its expected t is 2·.2·√20·√150 = 22 for a promised 11: far beyond chance.
    assert (pairs(0.5, 20) <= 1.0).all()
    # Twice as many releases as were promised look like 1/√2 of the noise.
    assert (pairs(1.0, 20, samples=((RATE, ROUNDS // 4),)) <= 1.0).all()


def test_the_pair_says_nothing_about_other_mechanisms() -> None:
    member = np.arange(100) < 50
    assert gaussian_pair_noise(np.arange(100.0), member, NoiseFamily(1.0, subsampled)) is None
    pair = gaussian_pair_noise(np.random.default_rng(0).normal(size=100), member, NoiseFamily(1.0, subsampled, ((RATE, 1),)))
    assert pair is not None
    assert pair.below is None
    # On Laplace noise it is wrong, as the others are.
    rng, wrong = np.random.default_rng(0), []
    for _ in range(20):
        member = rng.random(1000) < 0.5
        same = next(noise for noise in np.linspace(1, 4, 301) if gaussian_epsilon(1 / noise, 1e-5) <= 2.0)
        found = gaussian_pair_noise(member + rng.laplace(0, 0.5, 1000), member, NoiseFamily(float(same), gaussian, ((1.0, 1),)))
        wrong.append(found is not None and found.below is not None and found.below <= same)
    assert np.mean(wrong) > 0.5


# --- estimates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta", "epsilon"),
    [(0.806, 0.032, 625, 1e-4, 4.145), (2.969, 0.032, 625, 1e-4, 0.860), (1.0, 0.1, 60, 1e-5, 4.212)],
)
def test_the_last_iterate_estimate_has_the_reference_s_values(
    noise: float, rate: float, steps: int, delta: float, epsilon: float
) -> None:
    assert last_iterate_epsilon(noise, rate, steps, delta) == pytest.approx(epsilon, abs=5e-4)


def test_estimates_of_exact_gaussians_are_exact() -> None:
    assert last_iterate_epsilon(1.0, 1.0, 1, 1e-5) == pytest.approx(gaussian_epsilon(1.0, 1e-5))
    assert last_iterate_epsilon(2.0, 1.0, 4, 1e-5) == pytest.approx(gaussian_epsilon(1.0, 1e-5))
    assert gaussians_epsilon((1.0, 1.0), (0.0, 1.0), 1e-5) == pytest.approx(gaussian_epsilon(1.0, 1e-5), rel=1e-5)
    assert gaussians_epsilon((0.0, 1.0), (0.0, 1.0), 1e-5) == 0.0


def test_a_two_gaussian_estimate_is_no_bound() -> None:
    """It exceeds the truth in about half of the runs of Gaussian noise itself, and in nearly all on Laplace noise."""
    rng, above = np.random.default_rng(0), []
    for _ in range(60):
        member = rng.random(1000) < 0.5
        by_gauss = two_gaussian_epsilon(member + rng.normal(size=1000), member, 1e-5) > gaussian_epsilon(1.0, 1e-5)
        above.append([by_gauss, two_gaussian_epsilon(member + rng.laplace(0, 0.5, 1000), member, 1e-5) > 2.0])
    by_gauss_share, by_laplace_share = np.mean(above, axis=0)
    assert by_gauss_share > 0.3
    assert by_laplace_share > 0.95


def test_one_shot_finds_the_shift_of_the_cosines() -> None:
    rng, size = np.random.default_rng(0), 10_000
    cosines = (2.0 + rng.normal(size=2000)) / np.sqrt(size)
    assert one_shot_epsilon(cosines, size, 1e-5) == pytest.approx(gaussian_epsilon(2.0, 1e-5), rel=0.15)
    with pytest.raises(DataError, match="1 cosines"):
        one_shot_epsilon(cosines[:1], size, 1e-5)


def test_scores_without_spread_have_no_estimate() -> None:
    with pytest.raises(DataError, match="each kind needs two finite scores that differ"):
        two_gaussian_epsilon(np.ones(10), np.arange(10) < 5, 1e-5)
