import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from numpy.typing import NDArray
from scipy import special, stats

from privfl.auditing import PrivacyCurve, operating_point, roc, tpr_bound
from privfl.auditing.bound import violates

GRID = np.linspace(0, 30, 601)
RUNS = 1000


def pure(epsilon: float) -> PrivacyCurve:
    return PrivacyCurve((epsilon,), (0.0,), epsilon, 0.0)


def gaussian_deltas(mu: float) -> NDArray[np.float64]:
    """δ(ε) of the Gaussian mechanism (Balle & Wang 2018, theorem 8)."""
    deltas = special.ndtr(mu / 2 - GRID / mu) - np.exp(GRID + special.log_ndtr(-mu / 2 - GRID / mu))
    return np.asarray(np.maximum(deltas, 0))


def test_one_pair_allows_almost_everything() -> None:
    assert float(tpr_bound(1e-3, [8.0], [1e-4])) == pytest.approx(0.9997, abs=5e-5)


def test_the_whole_curve_of_dp_sgd_allows_little() -> None:
    step = privacy_loss_distribution.from_gaussian_mechanism(0.806, sampling_prob=0.032, value_discretization_interval=1e-3)
    deltas = step.self_compose(625).get_delta_for_epsilon(GRID)
    assert float(tpr_bound(1e-3, GRID, deltas)) == pytest.approx(0.058, abs=5e-4)


def test_the_curve_of_a_gaussian_gives_its_trade_off_function() -> None:
    fpr = np.array([1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.9])
    best = special.ndtr(special.ndtri(fpr) + 1.5)
    bound = tpr_bound(fpr, GRID, gaussian_deltas(1.5))
    assert np.all(bound >= best - 1e-12)
    np.testing.assert_allclose(bound, best, rtol=2e-3)


def test_edges() -> None:
    np.testing.assert_allclose(tpr_bound([0.0, 1.0], [1.0], [0.01]), [0.01, 1.0])
    assert float(tpr_bound(0.0, [1000.0], [1e-5])) == 1e-5  # e^1000 overflows; times 0 it must not become NaN
    assert float(tpr_bound(0.3, [0.0], [0.0])) == pytest.approx(0.3)  # perfect privacy: the diagonal
    assert np.all(np.diff(tpr_bound(np.linspace(0, 1, 101), GRID, gaussian_deltas(1.0))) >= 0)


def verdicts(epsilon: float, promised: PrivacyCurve, seed: int) -> float:
    """How often randomised response with ties broken by noise, whose ROC is the pure-ε bound itself, is flagged."""
    rng = np.random.default_rng(seed)
    flagged = []
    for _ in range(RUNS):
        member = rng.random(2400) < 0.5
        released = member ^ (rng.random(2400) < special.expit(-epsilon))
        curve = roc(released + rng.random(2400) / 2, member)
        flagged.append(violates(curve, operating_point(curve, 0.01), promised, 0.05))
    return float(np.mean([verdict is True for verdict in flagged]))


def test_a_kept_promise_is_seldom_called_violated() -> None:
    # At a true rate of 5 %, more than this happens once in a thousand such tests.
    assert verdicts(1.0, pure(1.0), 0) <= stats.binom.ppf(0.999, RUNS, 0.05) / RUNS


def test_a_broken_promise_is_called_violated() -> None:
    assert verdicts(3.0, pure(1.0), 1) > 0.9


def test_the_lower_limit_must_cross_not_the_figure_itself() -> None:
    # Of 2000 non-members 20 lie above the threshold, the most that 1 % allows.
    def verdict(members_above: int) -> bool | None:
        scores = np.concatenate([np.arange(2000) < 20, np.arange(400) < members_above]).astype(float)
        curve = roc(scores, np.arange(2400) >= 2000)
        return violates(curve, operating_point(curve, 0.01), pure(1.0), 0.05)

    fpr_high = stats.binomtest(20, 2000).proportion_ci(0.95, method="exact").high
    allowed = np.e * fpr_high
    needed = next(k for k in range(400) if stats.binomtest(k, 400).proportion_ci(0.95, method="exact").low > allowed)
    assert needed / 400 > 1.5 * allowed
    assert verdict(needed) is True
    assert verdict(needed - 1) is False


def test_what_cannot_be_resolved_cannot_be_violated() -> None:
    curve = roc(np.arange(100.0), np.arange(100) >= 50)
    assert violates(curve, operating_point(curve, 0.01), pure(math.log(2)), 0.05) is None
