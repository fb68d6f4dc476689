"""Sums in fixed point: the same in any order, never too large, as exact as they say."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from privfl.federation.aggregators._fixed_point import FixedPoint64


@given(st.floats(min_value=1e-300, max_value=1e300), st.integers(min_value=1, max_value=100_000))
def test_no_sum_overflows(largest: float, count: int) -> None:
    word = int(FixedPoint64.fit(largest, count).words(torch.tensor([largest], dtype=torch.float64)))
    assert 0 <= word * count < 2**63


def test_any_order_and_any_grouping_gives_the_same_bits() -> None:
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(100, 50, generator=draw, dtype=torch.float64) * 10 ** torch.randint(-9, 9, (100, 1), generator=draw)
    code = FixedPoint64.fit(float(values.abs().max()), 100)
    words = [code.words(row) for row in values]
    straight = sum(words[1:], start=words[0])
    for _ in range(20):
        order = torch.randperm(100, generator=draw).tolist()
        cut = int(torch.randint(1, 99, (), generator=draw))
        first, second = ([words[place] for place in part] for part in (order[:cut], order[cut:]))
        assert torch.equal(sum(first[1:], start=first[0]) + sum(second[1:], start=second[0]), straight)
    # Floats are not so: this is what the integers are for.
    assert not torch.equal(values.flip(0).cumsum(0)[-1], values.cumsum(0)[-1])


def test_a_sum_is_within_half_a_step_a_number() -> None:
    values = torch.randn(200, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    code = FixedPoint64.fit(float(values.abs().max()), 200)
    found = code.values(sum((code.words(row) for row in values), start=torch.zeros(30, dtype=torch.int64)))
    assert float((found - values.sum(0)).abs().max()) <= 100 * 2.0**-code.fraction + 200 * 2**-52
    assert code.fraction >= 50


def test_nothing_but_zeros() -> None:
    code = FixedPoint64.fit(0.0, 3)
    assert not code.values(code.words(torch.zeros(4, dtype=torch.float64))).any()
