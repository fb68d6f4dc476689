from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privfl.errors import ConfigError, ProtocolError
from privfl.secagg.encoding import Encoding, FixedPoint
from privfl.secagg.packing import TYPES, Bits
from privfl.secagg.prg import CHUNK_BYTES, Keystream

KEY = b"r" * 32
CHUNK = CHUNK_BYTES // 4
bounds = st.floats(1e-6, 1e6)
populations = st.integers(1, 10_000)


def encoded(point: FixedPoint, values: NDArray[Any], factor: float = 1.0, key: bytes = KEY) -> NDArray[np.int32]:
    words = np.empty(len(values), np.uint32)
    point.encode(values, factor, Keystream(key), words)
    return words.view(np.int32)


# --- the bound ------------------------------------------------------------------------------------------------------


def fits(bound: float, scale: int, population: int) -> bool:
    return population * (Fraction(bound) * scale + 1) < 2**31


@settings(deadline=None, derandomize=True)
@given(bounds, populations)
def test_the_scale_is_the_largest_power_of_two_that_fits(bound: float, population: int) -> None:
    if not fits(bound, 1, population):
        with pytest.raises(ConfigError, match="32 bits"):
            FixedPoint.fit(bound, population)
        return
    scale = FixedPoint.fit(bound, population).scale
    assert scale.bit_count() == 1
    assert fits(bound, scale, population)
    assert not fits(bound, 2 * scale, population)


@pytest.mark.parametrize(("bound", "population"), [(2.0**31, 1), (2.0**31 - 1, 1), (2.0**20, 2**11), (1.0, 2**30)])
def test_what_cannot_fit_is_refused_at_set_up(bound: float, population: int) -> None:
    with pytest.raises(ConfigError, match="32 bits"):
        FixedPoint.fit(bound, population)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
def test_a_senseless_bound_is_refused(bound: float) -> None:
    with pytest.raises(ConfigError, match="positive"):
        FixedPoint.fit(bound, 3)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("bound", "population"), [(8.0, 100), (0.1, 2), (2.0**21 - 2, 1024), (1.0, 2**20 - 1), (0.7, 3)])
def test_a_full_population_at_the_bound_does_not_wrap(bound: float, population: int, sign: int) -> None:
    point = FixedPoint.fit(bound, population)
    # Rounding is drawn anew for each of 64 entries; the worst of them, as if all clients had drawn it.
    drawn = encoded(point, np.full(64, sign * 2 * bound))
    extreme = int(drawn.max() if sign > 0 else drawn.min())
    assert abs(extreme) <= bound * point.scale + 1
    total = np.array([extreme], np.int64).astype(np.uint32) * np.uint32(population)
    assert point.decode(total, population)[0] == population * extreme / point.scale


def test_one_more_client_than_the_bound_allows_wraps_in_silence_and_is_caught_by_nothing_later() -> None:
    # Why the bound is checked at set-up: past it, a sum that wrapped looks like any other.
    point = FixedPoint.fit(1.0, 3)
    word = encoded(point, np.array([1.0]))
    total = (4 * word.astype(np.int64)).astype(np.uint32).view(np.int32)
    assert total[0] != 4 * int(word[0])


def test_a_float32_is_clipped_to_the_bound_and_not_to_the_nearest_float32() -> None:
    above = np.full(1000, np.float32(0.1))
    assert float(above[0]) > 0.1
    point = FixedPoint.fit(0.1, 2)
    assert np.abs(encoded(point, above)).max() <= 0.1 * point.scale + 1
    assert point.encode(above, 1.0, Keystream(KEY), np.empty(1000, np.uint32)) == 1000


# --- rounding -------------------------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=50),
    st.just(1.0) | st.floats(0, 1),
    st.binary(min_size=32, max_size=32),
)
def test_an_entry_is_off_by_less_than_one_step(values: list[float], factor: float, key: bytes) -> None:
    point = FixedPoint.fit(8.0, 100)
    for value, word in zip(values, encoded(point, np.array(values, np.float32), factor, key), strict=True):
        exact = Fraction(value) * Fraction(factor) * point.scale
        assert abs(int(word) - exact) < 1 + abs(exact) / 2**53
        if factor == 1:
            assert abs(int(word) - exact) < 1


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(-(8 * 2**21), 8 * 2**21), min_size=1), st.binary(min_size=32, max_size=32))
def test_multiples_of_a_step_are_exact(multiples: list[int], key: bytes) -> None:
    point = FixedPoint.fit(8.0, 100)
    assert point.scale == 2**21
    assert encoded(point, np.array(multiples) / 2**21, key=key).tolist() == multiples


def assert_unbiased(point: FixedPoint) -> None:
    """Each fraction is rounded up as often as it should be: a binomial test, failing at most once in 10^9 by chance."""
    fractions, repeats = (0.001, 0.25, 0.5, 0.7, 0.999), 200_000
    for sign in (1, -1):
        for index, fraction in enumerate(fractions):
            value = sign * (1000 + fraction) / point.scale
            words = encoded(point, np.full(repeats, value), key=bytes([index + 1]) * 32)
            low = math.floor(sign * (1000 + fraction))
            ups = int((words == low + 1).sum())
            assert ups + int((words == low).sum()) == repeats
            chance = fraction if sign > 0 else 1 - fraction
            assert scipy.stats.binomtest(ups, repeats, chance).pvalue > 1e-9 / 10


def test_rounding_is_unbiased() -> None:
    assert_unbiased(FixedPoint.fit(8.0, 100))


@pytest.mark.parametrize("mutant", [lambda words: words.fill(0), lambda words: words.fill(2**31)], ids=["floor", "nearest"])
def test_rounding_without_chance_is_detected(monkeypatch: pytest.MonkeyPatch, mutant: Any) -> None:
    monkeypatch.setattr(Keystream, "fill", lambda self, words: mutant(words))
    with pytest.raises(AssertionError):
        assert_unbiased(FixedPoint.fit(8.0, 100))


def test_entries_are_rounded_independently() -> None:
    # The correlation of neighbours and of two keys, each a normal variable with σ = 1/√n: seven σ, 3e-12.
    n, point = 100_000, FixedPoint.fit(8.0, 100)
    ups = encoded(point, np.full(n, 0.5 / point.scale)) - 0.5
    other = encoded(point, np.full(n, 0.5 / point.scale), key=b"o" * 32) - 0.5
    assert abs(4 * np.mean(ups[1:] * ups[:-1])) < 7 / math.sqrt(n)
    assert abs(4 * np.mean(ups * other)) < 7 / math.sqrt(n)


# --- clipping, and what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clipped_coordinates_are_counted_over_all_chunks(dtype: type[np.floating[Any]]) -> None:
    point = FixedPoint.fit(8.0, 100)
    values = np.zeros(2 * CHUNK + 10, dtype)
    values[[0, CHUNK, 2 * CHUNK + 9]] = [8.5, -1e30, 9]
    values[5] = 8.0
    words = np.empty(len(values), np.uint32)
    assert point.encode(values, 0.5, Keystream(KEY), words) == 3
    assert point.decode(words, 1)[[0, 5, CHUNK, 2 * CHUNK + 9]].tolist() == [4.0, 4.0, -4.0, 4.0]
    assert values[0] == 8.5, "the caller's update must stay as it was"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, CHUNK + 3])
def test_what_is_not_finite_is_refused(bad: float, at: int) -> None:
    values = np.zeros(CHUNK + 5, np.float32)
    values[at] = bad
    with pytest.raises(ProtocolError, match=rf"entry {at} .* finite"):
        encoded(FixedPoint.fit(8.0, 100), values)


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan, math.inf])
def test_a_weight_outside_its_range_is_refused(weight: float) -> None:
    with pytest.raises(ProtocolError, match="weight"):
        Encoding.fit(8.0, 10).encode(np.zeros(3), weight, KEY)


def test_a_sum_that_no_cohort_can_make_is_refused() -> None:
    point = FixedPoint.fit(8.0, 100)
    most = 3 * (8 * point.scale + 1)
    for sign in (1, -1):
        allowed = np.array([0, sign * most], np.int64).astype(np.uint32)
        assert point.decode(allowed, 3)[1] == sign * most / point.scale
        with pytest.raises(ProtocolError, match="noise"):
            point.decode(np.array([0, sign * (most + 1)], np.int64).astype(np.uint32), 3)
    with pytest.raises(ProtocolError, match="noise"):
        point.decode(np.array([2**31], np.uint32), 100)


# --- update and weight together -------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.lists(st.floats(-20, 20, width=32), min_size=4, max_size=4), st.floats(0, 1)), min_size=1, max_size=8)
)
def test_the_decoded_mean_is_the_weighted_mean_of_the_clipped_updates(cohort: list[tuple[list[float], float]]) -> None:
    encoding = Encoding.fit(8.0, 8)
    total = np.zeros(5, np.uint32)
    for index, (delta, weight) in enumerate(cohort):
        total += encoding.encode(np.array(delta, np.float32), weight, bytes([index]) * 32)[0]
    expected_D = sum(weight * np.clip(np.array(delta), -8, 8) for delta, weight in cohort)
    weight_sum = sum(weight for _, weight in cohort)
    if weight_sum < len(cohort) / encoding.weight.scale:
        return
    found = encoding.decode(total, len(cohort))
    assert abs(found.weight_sum - weight_sum) < len(cohort) / encoding.weight.scale
    assert np.abs(found.sum_D - expected_D).max() < len(cohort) / encoding.update.scale
    assert np.array_equal(found.mean(), found.sum_D / found.weight_sum)


def test_weights_that_add_up_to_nothing_are_refused() -> None:
    encoding = Encoding.fit(8.0, 10)
    words, _ = encoding.encode(np.ones(3), 0.0, KEY)
    with pytest.raises(ProtocolError, match="weights add up"):
        encoding.decode(words, 2)


def test_equal_keys_give_equal_words_and_different_keys_do_not() -> None:
    encoding, delta = Encoding.fit(8.0, 10), np.random.default_rng(0).normal(size=100)
    words = [encoding.encode(delta, 0.3, key)[0].tobytes() for key in (KEY, KEY, b"q" * 32)]
    assert words[0] == words[1] != words[2]


# --- words of every size ----------------------------------------------------------------------------------------------


def room(bound: float, scale: int, population: int, bits: Bits) -> bool:
    # An entry and its random bits share a signed word of 64 bits, so that no entry has more than 31.
    return population * (Fraction(bound) * scale + 1) < 2 ** (bits - 1) and Fraction(bound) * scale + 1 < 2**31


@settings(deadline=None, derandomize=True)
@given(st.floats(1e-4, 1e3), st.integers(1, 10_000), st.sampled_from([16, 20, 24, 32, 64]))
def test_the_scale_is_the_largest_that_fits_into_any_word(bound: float, population: int, bits: Bits) -> None:
    if not room(bound, 1, population, bits):
        with pytest.raises(ConfigError, match=f"{bits} bits"):
            FixedPoint.fit(bound, population, bits)
        return
    scale = FixedPoint.fit(bound, population, bits).scale
    assert room(bound, scale, population, bits)
    assert not room(bound, 2 * scale, population, bits)


@pytest.mark.parametrize("bits", [16, 20, 24, 32, 64])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_full_population_at_the_bound_does_not_wrap_in_any_word(bits: Bits, sign: int) -> None:
    for bound, population in ((0.5, 100), (0.1, 7), (1.0, 1000)):
        point = FixedPoint.fit(bound, population, bits)
        words = np.empty(64, TYPES[bits])
        point.encode(np.full(64, sign * 2 * bound), 1.0, Keystream(KEY), words)
        total = np.zeros(64, TYPES[bits])
        for _ in range(population):
            total += words
        if bits in (20, 24):
            # What does not travel is noise.
            total ^= np.uint32(0xFFFFFFFF << bits & 0xFFFFFFFF)
        found = point.decode(total, population)
        assert (np.sign(found) == sign).all()
        assert np.abs(np.abs(found) - population * bound).max() <= population / point.scale


@pytest.mark.parametrize("bits", [16, 20, 24, 64])
def test_rounding_is_unbiased_in_any_word(bits: Bits) -> None:
    # 200,000 entries of one third of a step: the mean is a normal variable, six and a half σ: 1e-10.
    n, point = 200_000, FixedPoint.fit(0.5, 10, bits)
    words = np.empty(n, TYPES[bits])
    point.encode(np.full(n, -(1 / 3) / point.scale), 1.0, Keystream(KEY), words)
    mean = float((point.decode(words, 10) * point.scale).mean())
    assert abs(mean + 1 / 3) < 6.5 * math.sqrt(2 / 9 / n)


def test_everything_that_must_be_the_same_at_all_clients_is_in_the_digest() -> None:
    base = Encoding.fit(8.0, 100)
    others = [Encoding.fit(4.0, 100), Encoding.fit(8.0, 1000), Encoding.fit(8.0, 100, 64), Encoding.fit(8.5, 100)]
    assert len({one.digest() for one in (base, *others)}) == 5
    assert base.digest() == Encoding.fit(8.0, 100).digest()
