"""Histories add up under one relation; impossible mechanisms cannot be named."""

import math
from collections.abc import Callable

import pytest

from privfl.errors import PrivacyError
from privfl.privacy.mechanisms import (
    DiscreteGaussianSum,
    FixedSizeGaussian,
    Gaussian,
    History,
    MatrixGaussian,
    Mechanism,
    PoissonGaussian,
    ShuffledEpoch,
    SkellamSum,
)

STEP = PoissonGaussian(0.1, 1.0)


def test_a_history_is_a_multiset() -> None:
    history = History({STEP: 2}) + {STEP: 3, Gaussian(2.0): 1}
    assert dict(history) == {Gaussian(2.0): 1, STEP: 5}
    assert history == History({STEP: 5, Gaussian(2.0): 1})
    assert hash(history) == hash(History({STEP: 5, Gaussian(2.0): 1}))
    assert list(history) == list(History({STEP: 5, Gaussian(2.0): 1}))
    assert history.relation == "add_or_remove_one"


def test_what_was_never_used_is_not_in_it() -> None:
    assert History({STEP: 0}) == History() == History({})
    assert History().relation is None
    assert not History()


@pytest.mark.parametrize(
    "other", [FixedSizeGaussian(10, 2, 1.0), Gaussian(1.0, "replace_one"), MatrixGaussian(1.0, 1.0, "replace_one")]
)
def test_relations_do_not_mix(other: Mechanism) -> None:
    with pytest.raises(PrivacyError, match="under add_or_remove_one and replace_one"):
        History({STEP: 1}) + {other: 1}
    # Not used is not mixed.
    assert History({STEP: 1, other: 0}).relation == "add_or_remove_one"


def test_uses_cannot_be_taken_back() -> None:
    with pytest.raises(PrivacyError, match="used -1 times"):
        History({STEP: 1}) + {STEP: -2}


@pytest.mark.parametrize(
    "impossible",
    [
        lambda: PoissonGaussian(0.0, 1.0),
        lambda: PoissonGaussian(1.1, 1.0),
        lambda: PoissonGaussian(math.nan, 1.0),
        lambda: PoissonGaussian(0.5, 0.0),
        lambda: Gaussian(-1.0),
        lambda: Gaussian(math.inf),
        lambda: Gaussian(1e-71),
        lambda: Gaussian(1e71),
        lambda: FixedSizeGaussian(10, 11, 1.0),
        lambda: FixedSizeGaussian(10, 0, 1.0),
        lambda: ShuffledEpoch(math.nan),
        lambda: MatrixGaussian(1.0, 0.0),
        lambda: SkellamSum(1.0, 1.0, 1, 0.0, 1),
        lambda: SkellamSum(1.0, 1.0, 1, 1.0, 0),
        lambda: DiscreteGaussianSum(1.0, 1.0, 1, 1.0, 1, 2.0),
    ],
)
def test_the_impossible_cannot_be_named(impossible: Callable[[], object]) -> None:
    with pytest.raises(PrivacyError, match="must be"):
        impossible()
