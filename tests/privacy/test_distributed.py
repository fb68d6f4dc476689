"""The codec of distributed privacy: its sensitivity, its bias, its noise, and that sums come out."""

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privfl.errors import ConfigError, PrivacyError
from privfl.privacy.accounting import calibrate, epsilon
from privfl.privacy.distributed import DistributedCodec, Noise, hadamard
from privfl.privacy.mechanisms import DiscreteGaussianSum, Gaussian, History, SkellamSum
from privfl.privacy.streams import RandomStream

KEY = bytes(range(32))
NOISES: tuple[Noise, ...] = ("skellam", "discrete_gaussian")


def stream(*name: int) -> RandomStream:
    return RandomStream(bytes(name).ljust(32, b"\0"))


def codec(noise: Noise = "skellam", **changes: float) -> DistributedCodec:
    settings = {"dimension": 200, "clip": 1.5, "bits": 20, "clients": 20, "survivors": 15, "noise_multiplier": 0.8, **changes}
    return DistributedCodec.fit(noise, rotation_key=KEY, **settings)  # type: ignore[arg-type]


def clipped(delta_D: NDArray[np.float64], clip: float) -> NDArray[np.float64]:
    return np.asarray(delta_D * min(1.0, clip / float(np.linalg.norm(delta_D))))


@pytest.mark.parametrize("length", [1, 2, 8, 128])
def test_hadamard_is_the_matrix(length: int) -> None:
    vector = np.random.default_rng(0).normal(size=length)
    assert hadamard(vector) == pytest.approx(scipy.linalg.hadamard(length) @ vector / math.sqrt(length))
    assert hadamard(hadamard(vector)) == pytest.approx(vector)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("dimension", [1, 3, 64, 200])
def test_sum_of_words_decodes_to_the_sum_of_clipped_updates(noise: Noise, dimension: int) -> None:
    one = codec(noise, dimension=dimension)
    generator = np.random.default_rng(dimension)
    updates = generator.normal(size=(20, dimension)) * generator.choice([0.01, 1.0], size=(20, 1))
    total = np.zeros(one.length, np.uint32)
    for client, update in enumerate(updates):
        words = one.encode(update, stream(1, client), stream(2, client))
        assert words.dtype == np.uint32
        assert words.shape == (one.length,)
        assert words.max() < 2**20
        total = (total + words) & np.uint32(2**20 - 1)
    decoded = one.decode(total)
    exact = np.sum([clipped(update, 1.5) for update in updates], axis=0)
    # Twenty shares, and rounding of at most 1/4 each; six deviations on any of at most 200 entries: once in 10^6 keys.
    deviation = math.sqrt(20 * (one.variance + 0.25)) / one.scale
    assert np.abs(decoded - exact).max() < 6 * deviation
    assert decoded.shape == (dimension,)


def adversarial(kind: str, dimension: int, generator: np.random.Generator) -> NDArray[np.float64]:
    match kind:
        case "one coordinate":
            return np.asarray(np.eye(dimension)[generator.integers(dimension)] * 1e30)
        case "constant":
            return np.full(dimension, generator.choice([1e-320, 7.0, 1e300]))
        case "rotated to one coordinate":
            padded = hadamard(np.eye(256)[generator.integers(256)])
            return padded[:dimension] * 100
        case "all halves":
            return np.sign(generator.normal(size=dimension)) / 2
        case "zero":
            return np.zeros(dimension)
        case _:
            return generator.normal(size=dimension) * 10.0 ** generator.integers(-8, 8)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["random", "one coordinate", "constant", "rotated to one coordinate", "all halves", "zero"]),
    st.integers(8, 24),
    st.sampled_from([0.0, 1e-3, math.exp(-0.5), 0.9]),
    st.integers(0, 2**32 - 1),
)
def test_no_update_exceeds_the_sensitivity(kind: str, bits: int, beta: float, seed: int) -> None:
    one = replace(codec(bits=bits, clients=15), beta=beta)
    delta = adversarial(kind, 200, np.random.default_rng(seed))
    integers = one._rounded(one._rotated(delta), RandomStream(seed.to_bytes(32, "big")))
    assert math.sqrt(sum(int(entry) ** 2 for entry in integers)) <= one.sensitivity_l2
    assert np.abs(integers).sum() <= one.sensitivity_l1
    if kind == "zero":
        assert not integers.any()


def test_the_condition_on_the_norm_bites() -> None:
    """Of all vectors within the clip, one of halves is rounded the most: its squared norm is Binomial(256, 1/2)."""
    one = DistributedCodec("skellam", 256, 1.0, 16, 8.0, 100.0, 5, KEY, beta=0.7)
    # 8² + 256/4 + √(2 log 1/0.7) (8 + 16/2)
    assert one.sensitivity_l2**2 == pytest.approx(64 + 64 + 0.8446 * 16, rel=1e-4)
    assert one.sensitivity_l1 == pytest.approx(one.sensitivity_l2 * min(16, one.sensitivity_l2))
    assert replace(one, beta=0.0).sensitivity_l2 == 8 + 16
    # Without the condition one in twenty would exceed it, so that of 500 all stay within with probability 1e-11.
    halves, rounding = np.full(256, 0.5), stream(9)
    norms = [float(np.linalg.norm(one._rounded(halves, rounding))) for _ in range(500)]
    assert max(norms) <= one.sensitivity_l2
    assert max(norms) ** 2 > 64 + 64


def test_rounding_is_unbiased_up_to_what_the_condition_costs() -> None:
    one = replace(codec(bits=12), beta=0.0)
    real = one._rotated(np.random.default_rng(2).normal(size=200))
    mean = np.mean([one._rounded(real, stream(3, place % 256, place // 256)) for place in range(2000)], axis=0)
    # A rounding has a standard deviation of at most 1/2; five standard errors on 256 entries: once in 10^4 keys.
    assert np.abs(mean - real).max() < 5 * 0.5 / math.sqrt(2000)
    conditional = replace(one, beta=math.exp(-0.5))
    kept = np.mean([conditional._rounded(real, stream(4, place % 256, place // 256)) for place in range(2000)], axis=0)
    # Conditioning on an event of probability at least 1 − β moves the mean in L2 by at most √(β / (1 − β)) / 2.
    bias = math.sqrt(conditional.beta / (1 - conditional.beta)) / 2
    assert np.linalg.norm(kept - real) < bias + 5 * 0.5 * math.sqrt(256 / 2000)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("present", [15, 20])
def test_noise_under_dropouts_is_at_least_the_promised_one(noise: Noise, present: int) -> None:
    one = codec(noise, dimension=4096)
    total = np.zeros(one.length, np.uint32)
    for client in range(present):
        total = (total + one.encode(np.zeros(4096), stream(5, client), stream(6, client, present))) & np.uint32(2**20 - 1)
    measured = one.decode(total).std()
    promised = 0.8 * 1.5
    assert one.noise_deviation == pytest.approx(promised)
    # Five standard errors of the deviation of 4,096 entries.
    slack = 5 / math.sqrt(2 * 4096)
    assert measured == pytest.approx(promised * math.sqrt(present / 15), rel=slack)
    assert measured > promised * (1 - slack)


def test_two_clients_noise_is_independent_and_the_rotation_shared() -> None:
    one = codec(dimension=4096)
    first, second = (one.decode(one.encode(np.zeros(4096), stream(7), stream(8, client))) for client in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(4096)
    other = replace(one, rotation_key=bytes(32))
    assert not np.array_equal(one._signs, other._signs)
    assert abs(one._signs.mean()) < 5 / math.sqrt(4096)


def test_scale_leaves_the_headroom_that_was_asked_for() -> None:
    one = codec(bits=13, dimension=1024)
    spread = math.sqrt(20**2 * 1.5**2 / 1024 + 20 * (one.variance / one.scale**2 + 0.25 / one.scale**2))
    assert 2 * 4 * spread * one.scale == pytest.approx(2**13, rel=1e-9)
    # With 32 bits the noise is fine enough before they are used up.
    assert codec(bits=32).variance == pytest.approx(1e6)


@pytest.mark.parametrize("noise", NOISES)
def test_price_falls_to_that_of_the_gaussian_as_bits_grow(noise: Noise) -> None:
    prices = [epsilon(History({codec(noise, bits=bits, dimension=26_010).mechanism(): 10}), 1e-5) for bits in (9, 11, 14)]
    central = epsilon(History({Gaussian(0.8): 10}), 1e-5, "rdp")
    assert prices[0] > prices[1] > prices[2] > central * (1 - 1e-9)
    assert prices[2] == pytest.approx(central, rel=0.01)


def test_mechanism_says_what_was_done() -> None:
    one = codec("discrete_gaussian")
    found = one.mechanism(0.25)
    assert found == DiscreteGaussianSum(one.sensitivity_l1, one.sensitivity_l2, 256, one.variance, 15, 0.25)
    assert isinstance(codec("skellam").mechanism(), SkellamSum)


def test_noise_can_be_calibrated_through_the_codec() -> None:
    def histories(noise_multiplier: float) -> list[History]:
        return [History({codec(bits=16, noise_multiplier=noise_multiplier).mechanism(0.1): 50})]

    noise = calibrate(histories, 3.0, 1e-5, digits=2)
    assert epsilon(histories(noise)[0], 1e-5) <= 3.0 < epsilon(histories(noise - 0.01)[0], 1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_not_finite_is_refused(value: float) -> None:
    delta = np.zeros(200)
    delta[3] = value
    with pytest.raises(PrivacyError, match="an update with an entry of"):
        codec().encode(delta, stream(0), stream(1))
    with pytest.raises(PrivacyError, match=r"must be \(200,\)"):
        codec().encode(np.zeros(201), stream(0), stream(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 7}, "from 8 to 32"),
        ({"bits": 33}, "from 8 to 32"),
        ({"bits": 8, "clients": 5000}, "take more bits or fewer clients"),
        ({"survivors": 21}, "must be from 1 to 20"),
        ({"survivors": 0}, "must be from 1 to 20"),
        ({"noise_multiplier": 0.0}, "must be positive and finite"),
        ({"clip": math.inf}, "all must be positive"),
    ],
)
def test_impossible_codecs_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        codec(**changes)  # type: ignore[arg-type]


def test_everything_that_must_be_the_same_at_all_clients_is_in_its_bytes() -> None:
    base = DistributedCodec("skellam", 650, 1.0, 20, 1234.5, 60000.25, 7, b"k" * 32, 0.5)
    others: dict[str, Any] = {
        "noise": "discrete_gaussian",
        "dimension": 651,
        "clip": 1.5,
        "bits": 21,
        "scale": 1234.0,
        "variance": 60000.0,
        "survivors": 8,
        "rotation_key": b"l" * 32,
        "beta": 0.25,
    }
    assert others.keys() == {field.name for field in fields(base)}
    assert len({base.to_bytes(), *(replace(base, **{name: value}).to_bytes() for name, value in others.items())}) == 10
