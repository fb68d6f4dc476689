"""ε against published figures and exact formulas, one accountant against another, and the rules that a run relies on."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from privfl.errors import ConfigError, PrivacyError
from privfl.privacy import accounting
from privfl.privacy.accounting import accountants, calibrate, curve, dominating, epsilon, largest_epsilon
from privfl.privacy.mechanisms import (
    DiscreteGaussianSum,
    FixedSizeGaussian,
    Gaussian,
    History,
    MatrixGaussian,
    Mechanism,
    PoissonGaussian,
    Relation,
    ShuffledEpoch,
    SkellamSum,
)

# Sample rate, noise multiplier, steps, δ -> PLD, RDP, as papers before 2020. PLD and RDP are those of dp_accounting 0.6,
# the PLD at an interval of 1e-4 (1e-5 for the last), and Opacus 1.6 agrees: its PRV to 1 %, its RDP to all digits. At an
# interval of 1e-3 the library says 5.196, 0.960 and 2.391 for the first three: true bounds, but not the smallest.
GOLDEN = {
    "q=.01 σ=1.1": (0.01, 1.1, 10_000, 1e-5, 5.1926, 5.632, None),
    "Abadi 2016": (0.01, 4.0, 10_000, 1e-5, 0.9470, 1.036, 1.2586),
    "TensorFlow Privacy's tutorial": (256 / 60_000, 1.1, 14_062, 1e-5, 2.3817, 2.597, 3.008),
    "Tramer MNIST CNN": (512 / 60_000, 1.23, 4680, 1e-5, 2.3614, 2.579, 2.992),
    "Tramer FMNIST CNN": (2048 / 60_000, 2.15, 1160, 1e-5, 2.3761, 2.591, 3.003),
    "Tramer scattering": (8192 / 60_000, 4.05, 280, 1e-5, 2.3746, 2.588, 2.998),
    "cohort": (0.1, 1.0, 100, 1e-5, 7.0466, 7.899, None),
    "little noise": (1e-3, 0.5, 1000, 1e-6, 4.2351, 5.329, None),
    "RDP is 27 times loose": (1e-4, 1.0, 2000, 1e-8, 0.03042, 0.857, None),
}

DELTA = 1e-5
RELATIONS: tuple[Relation, ...] = ("add_or_remove_one", "replace_one")
NOISE = (0.7, 1.0, 2.0)


def poisson(rate: float, noise: float, steps: int) -> History:
    return History({PoissonGaussian(rate, noise): steps})


def analytic(sensitivity_over_noise: float, delta: float) -> float:
    """Balle & Wang 2018, theorem 8: δ(ε) = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ), solved for ε."""
    mu = sensitivity_over_noise

    def excess(eps: float) -> float:
        return float(norm.cdf(mu / 2 - eps / mu) - math.exp(eps + norm.logcdf(-mu / 2 - eps / mu))) - delta

    return float(brentq(excess, 0.0, mu**2 / 2 + 20 * mu, xtol=1e-12))


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values(name: str) -> None:
    rate, noise, steps, delta, pld, rdp, papers = GOLDEN[name]
    one = poisson(rate, noise, steps)
    assert epsilon(one, delta) == pytest.approx(pld, rel=2e-4)
    assert epsilon(one, delta, "rdp") == pytest.approx(rdp, rel=2e-3)
    if papers is not None:
        assert epsilon(one, delta, "papers") == pytest.approx(papers, rel=1e-3)


def test_golden_value_of_replacement() -> None:
    replaced = PoissonGaussian(0.01, 1.1, "replace_one")
    assert epsilon(History({replaced: 1000}), DELTA) == pytest.approx(2.478, rel=5e-4)
    assert epsilon(poisson(0.01, 1.1, 1000), DELTA) == pytest.approx(1.515, rel=5e-4)


@pytest.mark.parametrize(
    ("noise", "epochs", "expected"),
    [(2.15, 40, 16.3), (4.05, 40, 7.4), (1.23, 40, 34.4)],
    ids=["FMNIST", "scattering", "MNIST"],
)
def test_shuffled_epochs_cost_what_no_amplification_costs(noise: float, epochs: int, expected: float) -> None:
    shuffled = History({ShuffledEpoch(noise): epochs})
    assert epsilon(shuffled, DELTA) == pytest.approx(expected, abs=0.05)
    assert epsilon(shuffled, DELTA) == pytest.approx(analytic(math.sqrt(epochs) / noise, DELTA), rel=1e-4)


@pytest.mark.parametrize("noise", [0.3, 1.0, 5.0, 40.0])
@pytest.mark.parametrize("times", [1, 7, 400])
def test_without_sampling_it_is_the_analytic_gaussian(noise: float, times: int) -> None:
    exact = analytic(math.sqrt(times) / noise, DELTA)
    for mechanism in (PoissonGaussian(1.0, noise), Gaussian(noise), ShuffledEpoch(noise), MatrixGaussian(2 * noise, 2.0)):
        assert exact * (1 - 1e-9) <= epsilon(History({mechanism: times}), DELTA) <= exact * (1 + 5e-5) + 1e-9
    for replaced in (Gaussian(2 * noise, "replace_one"), MatrixGaussian(noise, 0.5, "replace_one")):
        assert epsilon(History({replaced: times}), DELTA) == pytest.approx(exact, rel=5e-5)
    # The sampled code path at a rate that is next to 1.
    assert epsilon(poisson(1 - 1e-12, noise, 1), DELTA) == pytest.approx(analytic(1 / noise, DELTA), rel=5e-5)


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize(("rate", "noise", "steps"), [(0.05, 0.8, 30), (0.3, 2.0, 100), (0.9, 2.0, 5)])
def test_losses_are_those_of_dp_accounting(relation: Relation, rate: float, noise: float, steps: int) -> None:
    """Two PLDs that share no code."""
    import dp_accounting
    from dp_accounting.pld import privacy_loss_distribution

    neighbours = dp_accounting.NeighboringRelation[relation.upper()]
    theirs = privacy_loss_distribution.from_gaussian_mechanism(
        noise, sampling_prob=rate, neighboring_relation=neighbours, value_discretization_interval=5e-4
    )
    ours = History({PoissonGaussian(rate, noise, relation): steps})
    composed = theirs.self_compose(steps)
    for delta in (1e-3, 1e-6):
        assert epsilon(ours, delta) == pytest.approx(composed.get_epsilon_for_delta(delta), rel=2e-4, abs=1e-6)
    grid = [0.0, 0.1, 0.5, 1.0, 2.0]
    assert curve([ours], grid) == pytest.approx(composed.get_delta_for_epsilon(np.array(grid)), rel=1e-3, abs=1e-9)


def test_mixed_releases_compose_as_dp_accounting_composes_them() -> None:
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    mixed = History({PoissonGaussian(0.1, 1.0): 20, PoissonGaussian(0.02, 0.7): 50, Gaussian(10.0): 3})
    theirs = from_gaussian_mechanism(1.0, sampling_prob=0.1, value_discretization_interval=5e-4).self_compose(20)
    other = from_gaussian_mechanism(0.7, sampling_prob=0.02, value_discretization_interval=5e-4).self_compose(50)
    theirs = theirs.compose(other)
    theirs = theirs.compose(from_gaussian_mechanism(10.0, value_discretization_interval=5e-4).self_compose(3))
    assert epsilon(mixed, DELTA) == pytest.approx(theirs.get_epsilon_for_delta(DELTA), rel=2e-4)


def test_epsilon_and_the_curve_are_inverse() -> None:
    one = poisson(0.1, 1.0, 50)
    for delta in (1e-2, 1e-5, 1e-9):
        assert curve([one], [epsilon(one, delta)])[0] == pytest.approx(delta, rel=1e-3)
    integers = History({SkellamSum(30.0, 5.0, 64, 100.0, 5): 4})
    assert curve([integers], [epsilon(integers, DELTA)])[0] == pytest.approx(DELTA, rel=1e-6)
    assert curve([one], [1e4])[0] <= 1e-12


@settings(max_examples=15, deadline=None)
@given(st.floats(0.005, 1.0), st.sampled_from(NOISE), st.integers(1, 200), st.sampled_from([1e-3, 1e-6]))
def test_pld_is_below_rdp_is_below_papers(rate: float, noise: float, steps: int, delta: float) -> None:
    one = poisson(rate, noise, steps)
    pld, rdp, papers = (epsilon(one, delta, who) for who in ("pld", "rdp", "papers"))
    assert 0 <= pld <= rdp * (1 + 1e-9) <= papers * (1 + 1e-9)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.01, 0.9), st.sampled_from(NOISE), st.integers(1, 100))
def test_epsilon_grows_with_rate_and_steps_and_falls_with_noise(rate: float, noise: float, steps: int) -> None:
    base = epsilon(poisson(rate, noise, steps), DELTA)
    slack = 1 - 1e-4
    assert epsilon(poisson(rate * 1.1, noise, steps), DELTA) >= base * slack
    assert epsilon(poisson(rate, noise, steps + 1), DELTA) >= base * slack
    assert epsilon(poisson(rate, noise * 1.1, steps), DELTA) * slack <= base


@pytest.mark.parametrize(
    "mechanism",
    [
        Gaussian(3.0),
        ShuffledEpoch(3.0),
        MatrixGaussian(6.0, 2.0),
        PoissonGaussian(1.0, 3.0),
        Gaussian(6.0, "replace_one"),
        MatrixGaussian(12.0, 2.0, "replace_one"),
    ],
    ids=str,
)
def test_concentrated_dp_is_rdp_at_every_order(mechanism: Mechanism) -> None:
    one = History({mechanism: 12})
    assert accounting.rho(one) == pytest.approx(12 / 18)
    assert epsilon(one, DELTA, "rdp") < 1.05 * epsilon(one, DELTA, "zcdp")
    # A minimum over all orders is below one over some, and above the exact price.
    assert epsilon(one, DELTA) <= epsilon(one, DELTA, "zcdp") <= epsilon(one, DELTA, "rdp") * (1 + 1e-9)


def test_fixed_size_samples_cost_less_than_no_sampling_and_more_than_half_the_sensitivity() -> None:
    # Every unit is drawn: the sum moves by 2C.
    everybody = History({FixedSizeGaussian(100, 100, 2.0): 5})
    assert epsilon(everybody, DELTA) == epsilon(History({Gaussian(2.0, "replace_one"): 5}), DELTA, "rdp")
    some = History({FixedSizeGaussian(100, 10, 2.0): 5})
    replaced = History({PoissonGaussian(0.1, 2.0, "replace_one"): 5})
    assert epsilon(replaced, DELTA) < epsilon(some, DELTA) < epsilon(everybody, DELTA)
    assert accountants(some) == ("rdp", "papers")


def test_fixed_size_samples_are_priced_as_the_library_prices_them_at_twice_the_sensitivity() -> None:
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    library = RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
    library.compose(dp_accounting.SampledWithoutReplacementDpEvent(1000, 20, dp_accounting.GaussianDpEvent(1.5)), 100)
    assert epsilon(History({FixedSizeGaussian(1000, 20, 3.0): 100}), DELTA) == pytest.approx(
        library.get_epsilon(DELTA), rel=0.02
    )


def test_who_prices_what() -> None:
    integers: tuple[Mechanism, ...] = (SkellamSum(9.0, 3.0, 9, 50.0, 4), DiscreteGaussianSum(9.0, 3.0, 9, 50.0, 4))
    assert accountants(History({integers[0]: 1})) == ("rdp", "papers")
    assert accountants(History({integers[1]: 1})) == ("rdp", "zcdp", "papers")
    assert accountants(History({PoissonGaussian(0.5, 1.0): 1})) == ("pld", "rdp", "papers")
    assert accountants(History({PoissonGaussian(0.5, 1.0, "replace_one"): 1})) == ("pld",)
    together = History({integers[0]: 2, PoissonGaussian(0.5, 1.0): 3})
    assert epsilon(together, DELTA) == epsilon(together, DELTA, "rdp") > epsilon(poisson(0.5, 1.0, 3), DELTA, "rdp")
    with pytest.raises(PrivacyError, match="'pld' cannot price PoissonGaussian, SkellamSum; allowed here: rdp, papers"):
        epsilon(together, DELTA, "pld")
    with pytest.raises(PrivacyError, match="no accountant prices FixedSizeGaussian with PoissonGaussian"):
        epsilon(History({FixedSizeGaussian(9, 3, 1.0): 1, PoissonGaussian(0.5, 1.0, "replace_one"): 1}), DELTA)


def test_nothing_spent_costs_nothing() -> None:
    nothing = poisson(0.5, 1.0, 0)
    assert [epsilon(nothing, DELTA, who) for who in accountants(nothing)] == [0.0] * 4
    assert largest_epsilon([], DELTA) == 0.0
    assert curve([nothing], [0.0, 1.0]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("delta", [0.0, 1e-301, 1.0, -1e-5, math.nan])
def test_a_delta_that_promises_nothing_is_refused(delta: float) -> None:
    with pytest.raises(PrivacyError, match=r"^δ = .*: must be at least 1e-300 and below 1"):
        epsilon(poisson(0.5, 1.0, 1), delta)


def test_hardly_any_noise_has_a_price_too() -> None:
    # An imagined cohort of a million, executed with a fiftieth of it.
    assert 1e5 < epsilon(History({Gaussian(0.036): 1500}), 1e-6) < 1e6
    # Of ten draws at a rate of .05 six succeed with probability 2.8e-6, seven with 8e-8; each costs about 1/2σ².
    assert 6 < epsilon(poisson(0.05, 0.036, 10), 1e-6) * 2 * 0.036**2 < 7


sampled: st.SearchStrategy[Mechanism] = st.builds(
    PoissonGaussian, st.sampled_from([0.05, 0.1, 0.2, 1.0]), st.sampled_from([1.0, 2.0])
)
histories = st.dictionaries(sampled, st.integers(0, 30), max_size=3).map(History)


@settings(max_examples=12, deadline=None)
@given(st.lists(histories, min_size=1, max_size=8))
def test_front_holds_the_largest(parts: list[History]) -> None:
    brute = max(epsilon(one, DELTA) for one in parts)
    assert largest_epsilon(parts, DELTA) == pytest.approx(brute, rel=1e-4, abs=1e-9)
    assert set(dominating(parts)) <= set(parts)


def test_a_history_that_rdp_makes_look_dear_does_not_hide_another() -> None:
    """The quick bound orders these two wrongly for some noise; what is cheap by it must still be priced."""
    loose = poisson(0.01, 1.1, 10_000)
    for noise in np.linspace(0.85, 1.05, 21):
        plain = History({Gaussian(float(noise)): 1})
        assert largest_epsilon([loose, plain], DELTA) == max(epsilon(loose, DELTA), epsilon(plain, DELTA))


def test_front_is_small_where_rates_and_steps_rise_together() -> None:
    parts = [poisson(rate / 100, 1.0, steps) for rate, steps in itertools.product(range(1, 20), range(1, 20))]
    assert dominating(parts) == [poisson(0.19, 1.0, 19)]
    mixed = [poisson(0.1, 1.0, 5) + {PoissonGaussian(0.2, 1.0): 5}, poisson(0.1, 1.0, 10), poisson(0.2, 1.0, 6)]
    assert set(dominating(mixed)) == {mixed[0], mixed[2]}


def test_curve_is_the_worst_of_all_parts() -> None:
    parts = [poisson(0.5, 2.0, 2), poisson(0.05, 2.0, 200), poisson(0.01, 2.0, 1)]
    grid = [0.0, 0.5, 1.0, 2.0, 4.0]
    together = curve(parts, grid)
    for one in parts:
        assert (together >= curve([one], grid)).all()
    assert (together[:-1] >= together[1:]).all()


@pytest.mark.parametrize("target", [0.5, 3.0, 8.0])
def test_calibrated_noise_is_the_smallest_that_suffices(target: float) -> None:
    def parts(noise: float) -> list[History]:
        return [poisson(32 / 200, noise, 21), poisson(32 / 480, noise, 90), poisson(32 / 1000, noise, 64)]

    noise = calibrate(parts, target, DELTA)
    assert largest_epsilon(parts(noise), DELTA) <= target < largest_epsilon(parts(noise - 0.001), DELTA)


@pytest.mark.parametrize(
    "made",
    [
        lambda z: FixedSizeGaussian(1000, 20, z),
        lambda z: ShuffledEpoch(z),
        lambda z: MatrixGaussian(z, 1.7),
        lambda z: SkellamSum(40.0, 6.0, 64, 36 * z**2 / 9, 9, 0.2),
        lambda z: DiscreteGaussianSum(40.0, 6.0, 64, 36 * z**2 / 9, 9),
        lambda z: PoissonGaussian(0.1, z, "replace_one"),
    ],
    ids=["fixed size", "shuffled", "matrix", "Skellam", "discrete Gaussian", "replace one"],
)
def test_every_mechanism_can_be_calibrated(made: object) -> None:
    def parts(noise: float) -> list[History]:
        return [History({made(noise): 10})]  # type: ignore[operator]

    noise = calibrate(parts, 2.0, DELTA, digits=1)
    assert largest_epsilon(parts(noise), DELTA) <= 2.0 < largest_epsilon(parts(noise - 0.1), DELTA)


def test_calibration_that_cannot_succeed_says_so() -> None:
    with pytest.raises(ConfigError, match=r"target_epsilon = 1e-06.*allow a larger"):
        calibrate(lambda noise: [poisson(1.0, noise, 100_000)], 1e-6, 1e-9)
