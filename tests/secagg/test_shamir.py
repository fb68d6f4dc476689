"""Sharing of secrets, against plain Python integers."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_cohort import entropy, refused

from privfl.secagg import field, shamir

KEY = b"p" * 32
P = 32_771
secrets = st.binary(min_size=32, max_size=32)


def limbs_of(secret: bytes) -> list[int]:
    whole = int.from_bytes(secret, "little")
    return [whole >> 15 * place & 0x7FFF for place in range(18)]


def at_zero(points: list[int], values: list[int]) -> int:
    """Lagrange's formula in plain integers."""
    total = 0
    for i, x in enumerate(points):
        above = below = 1
        for j, other in enumerate(points):
            if i != j:
                above, below = above * other % P, below * (other - x) % P
        total += values[i] * above * pow(below, -1, P)
    return total % P


# --- the field ----------------------------------------------------------------------------------------------------------


def test_the_prime_is_a_prime_and_2_generates() -> None:
    assert P == field.PRIME
    assert all(P % divisor for divisor in range(2, 182))
    assert all(pow(2, (P - 1) // q, P) != 1 for q in (2, 5, 29, 113))


@settings(deadline=None, derandomize=True)
@given(secrets)
def test_limbs_are_those_of_plain_integers_and_come_back(secret: bytes) -> None:
    assert field.limbs(secret).tolist() == limbs_of(secret)
    assert field.secret(field.limbs(secret)) == secret


def test_limbs_that_stand_for_no_secret_are_refused() -> None:
    for place, value in ((0, 2**15), (0, P - 1), (17, 2), (17, 2**14)):
        elements = np.zeros(18, np.int64)
        elements[place] = value
        refused(field.secret, elements, match="add up to no secret")


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_the_matrix_product_is_exact(rows: int, inner: int, columns: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    left, right = generator.integers(0, P, (rows, inner)), generator.integers(0, P, (inner, columns))
    left[0], right[:, 0] = P - 1, P - 1
    expected = [[sum(int(a) * int(b) for a, b in zip(row, column, strict=True)) % P for column in right.T] for row in left]
    assert field.dot(left, right).tolist() == expected


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(1, P - 1), min_size=1, max_size=12, unique=True))
def test_lagrange_is_that_of_plain_integers(points: list[int]) -> None:
    found = field.lagrange_at_zero(np.array(points)).tolist()
    assert found == [at_zero(points, [int(i == j) for j in range(len(points))]) for i in range(len(points))]


def test_elements_are_uniform_and_follow_the_key() -> None:
    # χ² over 1,000 classes of nearly equal size; 1e-9.
    found = field.uniform(200_000, KEY)
    assert found.min() >= 0
    assert found.max() < P
    edges = np.linspace(0, P, 1001).astype(int)
    expected = np.diff(edges) / P * len(found)
    counts, _ = np.histogram(found, edges)
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-9
    assert np.array_equal(field.uniform(10, KEY), found[:10])
    assert not np.array_equal(field.uniform(10, b"q" * 32), found[:10])


# --- shares -------------------------------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(secrets, min_size=1, max_size=3), st.integers(1, 9), st.data())
def test_any_t_shares_give_the_secrets(given_: list[bytes], holders: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, holders))
    shares = shamir.split(given_, holders, threshold, KEY)
    assert shares.shape == (holders, 18 * len(given_))
    points = data.draw(st.permutations(range(1, holders + 1)))[:threshold]
    limbs = shamir.combine(tuple(points), shares[np.array(points) - 1])
    assert [field.secret(one) for one in limbs.reshape(len(given_), 18)] == given_
    for column in range(shares.shape[1]):
        assert at_zero(points, [int(shares[x - 1, column]) for x in points]) == limbs[column]


def test_shares_lie_on_one_polynomial_of_degree_t_minus_1() -> None:
    shares = shamir.split([b"s" * 32], 7, 3, KEY)
    found = {tuple(shamir.combine(points, shares[np.array(points) - 1]).tolist()) for points in combinations(range(1, 8), 3)}
    assert found == {tuple(limbs_of(b"s" * 32))}
    fewer = {tuple(shamir.combine(points, shares[np.array(points) - 1]).tolist()) for points in combinations(range(1, 8), 2)}
    # Two points x and y of c₀ + c₁ x + c₂ x² give c₀ − c₂ x y, and among pairs of 1 to 7 two products come twice.
    assert len(fewer) == len({x * y for x, y in combinations(range(1, 8), 2)}) == 19
    assert not found & fewer


def check_fewer_shares_say_nothing() -> None:
    """The shares of two holders under a threshold of three are uniform, whatever the secret: χ², 1e-9 for each of 8."""
    for secret in (bytes(32), b"\xff" * 32):
        many = np.array([shamir.split([secret], 3, 3, entropy("split", n)(32))[:2] for n in range(1500)], np.int64)
        for place in (0, 1):
            counts, _ = np.histogram(many[:, place].ravel(), np.linspace(0, P, 65).astype(int))
            expected = np.diff(np.linspace(0, P, 65).astype(int)) / P * many[:, place].size
            assert scipy.stats.chisquare(counts, expected).pvalue > 1e-9
        both = np.histogram2d(many[:, 0].ravel(), many[:, 1].ravel(), 8, [[0, P], [0, P]])[0]
        assert scipy.stats.chisquare(both.ravel()).pvalue > 1e-9


def test_fewer_shares_say_nothing() -> None:
    check_fewer_shares_say_nothing()


def test_any_secret_fits_fewer_shares() -> None:
    # Exactly: with t − 1 shares at hand, every value at 0 has one polynomial through it.
    shares = shamir.split([b"s" * 32], 3, 3, KEY)
    for value in (0, 1, 4711, P - 1):
        third = (value - at_zero([1, 2, 3], [int(shares[0, 0]), int(shares[1, 0]), 0])) * pow(
            at_zero([1, 2, 3], [0, 0, 1]), -1, P
        )
        assert at_zero([1, 2, 3], [int(shares[0, 0]), int(shares[1, 0]), third % P]) == value


@pytest.mark.parametrize(("holders", "threshold"), [(3, 0), (3, 4), (P, 2), (0, 1)])
def test_no_such_sharing(holders: int, threshold: int) -> None:
    refused(shamir.split, [bytes(32)], holders, threshold, KEY, match="1 ≤ threshold ≤ holders < 32771")


def test_the_largest_threshold_and_the_smallest() -> None:
    whole = shamir.split([b"s" * 32], 5, 5, KEY)
    assert field.secret(shamir.combine((1, 2, 3, 4, 5), whole)) == b"s" * 32
    lone: Any = shamir.split([b"s" * 32], 5, 1, KEY)
    assert (lone == lone[0]).all(), "a threshold of one hides nothing"
