"""ε against published figures, against an independent accountant, and the rules that the run relies on."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfl.errors import ConfigError
from privfl.privacy import accounting
from privfl.privacy.accounting import (
    Composition,
    calibrate,
    curve,
    dominating,
    epsilon,
    epsilon_as_papers,
    epsilon_rdp,
    largest,
)

# Sample rate, noise multiplier, steps, δ -> PLD, RDP. Opacus 1.6 (PRV, RDP) agrees with both columns to 1 %.
KNOWN = [
    (0.01, 1.1, 10_000, 1e-5, 5.196, 5.632),
    (256 / 60_000, 1.1, 60 * (60_000 // 256), 1e-5, 2.391, 2.597),
    (512 / 60_000, 1.23, 40 * (60_000 // 512), 1e-5, 2.361, 2.579),
    (2048 / 60_000, 2.15, 40 * (60_000 // 2048), 1e-5, 2.376, 2.591),
    (0.1, 1.0, 100, 1e-5, 7.047, 7.899),
    (1e-3, 0.5, 1000, 1e-6, 4.235, 5.329),
]


@pytest.mark.parametrize(("rate", "noise", "steps", "delta", "pld", "rdp"), KNOWN)
def test_known_values(rate: float, noise: float, steps: int, delta: float, pld: float, rdp: float) -> None:
    one = Composition(rate, noise, steps)
    assert epsilon(one, delta) == pytest.approx(pld, rel=5e-3)
    assert epsilon_rdp(one, delta) == pytest.approx(rdp, rel=5e-3)


def test_papers_conversion_gives_papers_figures() -> None:
    # Abadi 2016 report 1.26 by their conversion; TensorFlow Privacy's tutorial 3.01; Tramèr & Boneh 2021 3.0.
    assert epsilon_as_papers(Composition(0.01, 4.0, 10_000), 1e-5) == pytest.approx(1.26, abs=0.005)
    assert epsilon_as_papers(Composition(256 / 60_000, 1.1, 14_062), 1e-5) == pytest.approx(3.01, abs=0.005)
    assert epsilon_as_papers(Composition(512 / 60_000, 1.23, 4687), 1e-5) == pytest.approx(3.0, abs=0.01)


def test_one_full_batch_step_is_the_gaussian_mechanism() -> None:
    # Balle & Wang 2018, theorem 8: δ(ε) = Φ(1/2σ − εσ) − e^ε Φ(−1/2σ − εσ), with no sampling.
    from scipy.stats import norm

    noise, eps = 2.0, 1.0
    exact = norm.cdf(1 / (2 * noise) - eps * noise) - math.exp(eps) * norm.cdf(-1 / (2 * noise) - eps * noise)
    ours = float(curve([Composition(1.0, noise, 1)], [eps])[0])
    assert exact <= ours <= exact * 1.01


@pytest.mark.parametrize(("rate", "noise", "steps"), [(0.053, 0.88, 60), (0.16, 0.88, 40), (0.3, 2.0, 100)])
def test_coarse_interval_changes_nothing_that_is_printed(
    rate: float, noise: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = accounting._pld(Composition(rate, noise, steps)).get_epsilon_for_delta(1e-5)
    accounting._one_step.cache_clear()
    monkeypatch.setattr(accounting, "_WIDE", math.inf)
    fine = accounting._pld(Composition(rate, noise, steps)).get_epsilon_for_delta(1e-5)
    accounting._one_step.cache_clear()
    assert coarse == pytest.approx(fine, rel=1e-5)


def test_pld_is_below_rdp_and_grows() -> None:
    fewer, more = Composition(0.05, 1.0, 10), Composition(0.05, 1.0, 40)
    assert epsilon(fewer, 1e-5) < epsilon(more, 1e-5) < epsilon_rdp(more, 1e-5)


def test_nothing_spent_costs_nothing() -> None:
    nothing = Composition(0.5, 1.0, 0)
    assert epsilon(nothing, 1e-5) == epsilon_rdp(nothing, 1e-5) == epsilon_as_papers(nothing, 1e-5) == 0.0
    assert largest([], lambda one: epsilon(one, 1e-5)) == 0.0
    assert curve([nothing], [0.0, 1.0]).tolist() == [0.0, 0.0]


compositions = st.builds(
    Composition, st.sampled_from([0.05, 0.1, 0.2, 0.5, 1.0]), st.sampled_from([1.0, 2.0]), st.integers(0, 30)
)


@settings(max_examples=25, deadline=None)
@given(st.lists(compositions, min_size=1, max_size=12))
def test_front_holds_the_largest(parts: list[Composition]) -> None:
    brute = max(epsilon(one, 1e-5) for one in parts)
    assert largest(parts, lambda one: epsilon(one, 1e-5)) == pytest.approx(brute, rel=1e-4, abs=1e-9)
    assert set(dominating(parts)) <= set(parts)


def test_curve_is_the_worst_of_all_parts() -> None:
    parts = [Composition(0.5, 2.0, 2), Composition(0.05, 2.0, 200), Composition(0.01, 2.0, 1)]
    grid = [0.0, 0.5, 1.0, 2.0, 4.0]
    together = curve(parts, grid)
    for one in parts:
        assert (together >= curve([one], grid)).all()
    assert (together[:-1] >= together[1:]).all()


@pytest.mark.parametrize("target", [0.5, 3.0, 8.0])
def test_calibrated_noise_is_the_smallest_that_suffices(target: float) -> None:
    parts = [(32 / 200, 21), (32 / 480, 90), (32 / 1000, 64)]

    def price(noise: float) -> float:
        return largest([Composition(rate, noise, steps) for rate, steps in parts], lambda one: epsilon(one, 1e-5))

    noise = calibrate(parts, target, 1e-5)
    assert price(noise) <= target < price(noise - 0.001)


def test_calibration_that_cannot_succeed_says_so() -> None:
    with pytest.raises(ConfigError, match=r"target_epsilon = 1e-06.*allow a larger"):
        calibrate([(1.0, 100_000)], 1e-6, 1e-9)
