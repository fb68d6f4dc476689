"""Two names never share a stream; one name always gives the same one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from privfl.seeding import Seed

NAMES = st.lists(st.text(max_size=6) | st.integers(-(2**70), 2**70), max_size=5)


def at(path: list[str | int], root: int = 0) -> Seed:
    seed = Seed(root)
    for name in path:
        seed = seed / name
    return seed


@given(NAMES, NAMES, st.integers(), st.integers())
def test_different_names_have_different_keys(one: list[str | int], other: list[str | int], root: int, second: int) -> None:
    same = (root, one) == (second, other)
    assert (at(one, root).key() == at(other, second).key()) == same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["1"], [1]),
        (["ab", "c"], ["a", "bc"]),
        (["a", ""], ["a"]),
        ([], [""]),
        (["a", "b"], ["b", "a"]),
        (["a/b"], ["a", "b"]),
        ([12, 3], [1, 23]),
        (["int\x00\x00\x00\x011"], [1]),
        ([0], [-0, 0]),
    ],
)
def test_names_that_look_alike(one: list[str | int], other: list[str | int]) -> None:
    assert at(one).key() != at(other).key()


def test_the_root_is_not_a_name() -> None:
    assert (Seed(0) / 1).key() != Seed(1).key()
    assert Seed(1).key() != Seed(2**64 + 1).key() != Seed(-1).key()


def test_a_stream_has_one_value_for_ever() -> None:
    """Golden: results that were published with a seed stay repeatable by it."""
    seed = Seed(0) / "round" / 3 / "client" / 17 / "noise"
    assert seed.key(8).hex() == "367df92284739521"
    assert seed.key(64)[:8] == seed.key(8)
    assert len(seed.key()) == 32


def test_the_same_name_gives_the_same_stream_and_another_name_another() -> None:
    def draws(seed: Seed) -> list[float]:
        return [*seed.numpy().random(4).tolist(), *torch.rand(4, generator=seed.torch(), dtype=torch.float64).tolist()]

    seed = Seed(5) / "cohort"
    assert draws(seed) == draws(Seed(5) / "cohort")
    assert not set(draws(seed)) & set(draws(Seed(5) / "noise"))
    assert not set(draws(seed)) & set(draws(Seed(6) / "cohort"))


def test_a_stream_does_not_depend_on_what_was_drawn_before() -> None:
    expected = torch.rand(3, generator=(Seed(0) / "a").torch())
    torch.manual_seed(1234)
    generator = (Seed(0) / "b").torch()
    torch.rand(10_000, generator=generator)
    before = torch.get_rng_state()
    assert torch.equal(torch.rand(3, generator=(Seed(0) / "a").torch()), expected)
    assert torch.equal(torch.get_rng_state(), before)


# --- the trap of PyTorch's generator on the CPU -----------------------------------------------------------------------


def test_manual_seed_keeps_32_bits_and_a_stream_does_not() -> None:
    def seeded(value: int) -> torch.Tensor:
        return torch.rand(4, generator=torch.Generator().manual_seed(value))

    # The trap, as it is: two clients whose seeds differ above bit 32 would add the same noise.
    assert torch.equal(seeded(1), seeded(1 + 2**32))
    assert not torch.equal(seeded(1), seeded(2))
    # The same pair of seeds as roots: other streams.
    assert not torch.equal(torch.rand(4, generator=Seed(1).torch()), torch.rand(4, generator=Seed(1 + 2**32).torch()))
    # And no stream is one of the 2^32: its state is not what manual_seed makes of its first word.
    words = np.frombuffer(bytes(Seed(1).torch().get_state().numpy().tobytes()[24 : 24 + 8 * 624]), np.uint64)
    recurrence = [int(words[0])]
    for index in range(1, 624):
        recurrence.append((1812433253 * (recurrence[-1] ^ (recurrence[-1] >> 30)) + index) & 0xFFFFFFFF)
    assert [int(word) for word in words] != recurrence
    torch_words = np.frombuffer(torch.Generator().manual_seed(int(words[0])).get_state().numpy().tobytes()[24:5016], np.uint64)
    assert [int(word) for word in torch_words] == recurrence


def test_the_whole_state_is_set_from_the_key() -> None:
    seed = Seed(3) / "noise"
    words = np.frombuffer(seed.torch().get_state().numpy().tobytes()[24 : 24 + 8 * 624], np.uint64)
    assert np.array_equal(words, np.frombuffer(seed.key(4 * 624), np.uint32))


def test_no_two_of_many_streams_begin_alike() -> None:
    """20,000 streams of 64 bits collide with probability 1e-11; with 32 bits of seed they would with 4.5 %."""
    firsts = {int(torch.randint(2**62, (1,), generator=(Seed(0) / "client" / index).torch()).item()) for index in range(20_000)}
    assert len(firsts) == 20_000


# --- independence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_streams_are_not_correlated(library: str) -> None:
    """Correlations of 64 streams of 4,000 normals, 2,016 pairs.

    Each correlation is N(0, 1/4000) nearly; the largest of all exceeds 5.5 standard deviations with probability 8e-5.
    """
    count, length = 64, 4000
    rows = []
    for index in range(count):
        seed = Seed(0) / "round" / (index // 8) / "client" / (index % 8)
        drawn = (
            seed.numpy().standard_normal(length) if library == "numpy" else torch.randn(length, generator=seed.torch()).numpy()
        )
        rows.append(drawn)
    correlation = np.corrcoef(np.stack(rows))
    pairs = correlation[np.triu_indices(count, 1)]
    assert np.abs(pairs).max() < 5.5 / math.sqrt(length)
    # And as a whole: the mean square is 1/length, with relative standard deviation sqrt(2/2016); 5 of them.
    assert abs(float((pairs**2).mean()) * length - 1) < 5 * math.sqrt(2 / len(pairs))


def test_a_torch_stream_is_standard_normal() -> None:
    """Mean and variance of 200,000 draws within 5 standard errors: false alarm below 1.2e-6."""
    drawn = torch.randn(200_000, generator=(Seed(0) / "noise").torch(), dtype=torch.float64)
    assert abs(float(drawn.mean())) < 5 / math.sqrt(200_000)
    assert abs(float(drawn.var()) - 1) < 5 * math.sqrt(2 / 200_000)
