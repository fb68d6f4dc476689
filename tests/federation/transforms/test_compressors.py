"""Compressors by themselves: their errors against closed forms, their bytes, and what they leave as it is.

The vector is lognormal with random signs, d = 1,024. Means of random errors are over 400 draws with fixed seeds. A test
compares such a mean with its expectation and allows 4 standard errors, which a correct compressor exceeds for 1 seed in 16,000.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from privfl.federation.transforms import Shared, Transform
from privfl.federation.transforms._coded import Code, Coded
from privfl.federation.transforms.count_sketch import CountSketch
from privfl.federation.transforms.eden import Eden, _levels
from privfl.federation.transforms.power_sgd import PowerSgd
from privfl.federation.transforms.qsgd import Qsgd
from privfl.seeding import Seed
from privfl.shelves import SHELVES
from privfl.vectors import Layout

D, DRAWS = 1024, 400
LAYOUT = Layout(("weight",), ((32, 32),))


def vector(size: int = D, seed: int = 0) -> Tensor:
    draw = np.random.default_rng(seed)
    return torch.from_numpy(np.exp(draw.normal(size=size)) * draw.choice([-1.0, 1.0], size))


V = vector()
RATIO = float(V.abs().sum() ** 2 / (D * V.square().sum()))


def made(kind: str, **settings: Any) -> Transform:
    item: Transform = SHELVES["transform"].find(kind).model_validate({"kind": kind, **settings})
    return item


def shared(item: Transform, seed: Seed = Seed(0), layout: Layout = LAYOUT) -> Shared:  # noqa: B008
    return Shared(layout, item.init(layout, seed / "bases"), seed / "public")


def restored(item: Transform, payload_D: Tensor, seed: Seed = Seed(0), layout: Layout = LAYOUT) -> Tensor:  # noqa: B008
    known = shared(item, seed, layout)
    return item.restore(item.compress(payload_D, known, seed / "own"), known)


def drawn(kind: str, **settings: Any) -> list[Tensor]:
    """400 restored messages of the vector, each with randomness of its own."""
    hashed = kind == "count_sketch"
    return [restored(made(kind, **settings, **({"hash_seed": seed} if hashed else {})), V, Seed(seed)) for seed in range(DRAWS)]


def errors(found: list[Tensor]) -> np.ndarray[Any, Any]:
    return np.array([float((one - V).square().sum() / V.square().sum()) for one in found])


ALL: dict[str, dict[str, Any]] = {
    "identity": {},
    "random_k": {"share": 0.1},
    "top_k": {"share": 0.1},
    "qsgd": {},
    "scaled_sign": {},
    "eden": {},
    "power_sgd": {"rank": 2},
    "count_sketch": {},
}
LINEAR = [kind for kind, settings in ALL.items() if made(kind, **settings).linear]


def test_every_compressor_is_tested_here() -> None:
    assert sorted(ALL) == SHELVES["transform"].names()
    assert LINEAR == ["identity", "random_k", "power_sgd", "count_sketch"]


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("random_k", {"share": 0.1}, D / 102 - 1),
        # Σ |v_i| (‖v‖ − |v_i|) / ‖v‖², the variance of rounding to 0 or ‖v‖.
        ("qsgd", {"levels": 1}, math.sqrt(RATIO * D) - 1),
        ("qsgd", {"levels": 15}, 0.65),
        ("count_sketch", {"share": 0.2}, None),
    ],
)
def test_the_mean_error_of_a_random_compressor(kind: str, settings: dict[str, Any], expected: float | None) -> None:
    found = errors(drawn(kind, **settings))
    if kind == "qsgd" and settings["levels"] == 15:
        part = (V.abs() * 15 / V.norm()).remainder(1)
        expected = float((part * (1 - part)).sum()) / 15**2
        assert expected == pytest.approx(0.655, abs=0.005)
        assert expected <= min(D / 15**2, math.sqrt(D) / 15)
    if kind == "count_sketch":
        # Each row's estimate of v_i has the variance (‖v‖² − v_i²)/c over random hashes, and the rows are averaged.
        expected = (D - 1) / (5 * 41)
    assert abs(found.mean() - expected) <= 4 * found.std() / math.sqrt(DRAWS)


def test_the_errors_of_biased_compressors_are_exact() -> None:
    assert errors([restored(made("scaled_sign"), V)])[0] == pytest.approx(1 - RATIO, rel=1e-6)
    assert pytest.approx(0.587, abs=0.001) == 1 - RATIO
    kept = V.square().sort(descending=True).values[:102].sum() / V.square().sum()
    assert errors([restored(made("top_k", share=0.1), V)])[0] == pytest.approx(float(1 - kept), rel=1e-6)
    assert float(1 - kept) == pytest.approx(0.277, abs=0.001)


def test_the_errors_of_one_bit_after_a_rotation_are_near_their_limits() -> None:
    """π/2 − 1 and 1 − 2/π are the limits for long vectors."""
    assert errors(drawn("eden")).mean() == pytest.approx(0.566, abs=0.006)
    assert errors(drawn("eden", scale="least_error")).mean() == pytest.approx(0.361, abs=0.003)
    # Four bits have the distortion of Max's quantiser with 16 levels, 0.009497 (Max 1960, table I).
    assert errors(drawn("eden", bits=4)[:50]).mean() == pytest.approx(0.0095, abs=0.0002)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("random_k", {"share": 0.8}), ("qsgd", {"levels": 31}), ("eden", {}), ("eden", {"bits": 2})],
)
def test_the_mean_of_400_unbiased_decodings_is_within_4_per_cent(kind: str, settings: dict[str, Any]) -> None:
    """An unbiased compressor of error e has a mean whose distance is near √(e/400): 2.5, 1.5, 3.8 and 1.8 per cent here."""
    found = drawn(kind, **settings)
    assert float((sum(found, torch.zeros(D)) / DRAWS - V).norm() / V.norm()) < 0.04


def test_a_biased_compressor_would_fail_the_test_of_the_mean() -> None:
    found = drawn("eden", scale="least_error")
    assert float((sum(found, torch.zeros(D)) / DRAWS - V).norm() / V.norm()) > 0.3


def test_the_levels_are_those_of_max() -> None:
    """Max 1960, table I, for 4 and 8 levels; two levels are at ±√(2/π)."""
    assert _levels(1)[0] == pytest.approx([-math.sqrt(2 / math.pi), math.sqrt(2 / math.pi)], rel=1e-12)
    assert _levels(2)[0][2:] == pytest.approx([0.4528, 1.510], abs=1e-3)
    assert _levels(3)[0][4:] == pytest.approx([0.2451, 0.7560, 1.344, 2.152], abs=1e-3)


# --- what is on the wire -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "size"),
    [
        ("identity", {}, 4 * D),
        ("random_k", {"share": 0.1}, 4 * 102),
        ("top_k", {"share": 0.1}, 4 * 102 + math.ceil(10 * 102 / 8)),
        ("qsgd", {"levels": 15}, 5 * D // 8 + 4),
        ("qsgd", {"levels": 1}, 2 * D // 8 + 4),
        ("scaled_sign", {}, D // 8 + 4),
        ("eden", {}, D // 8 + 12),
        ("eden", {"bits": 3}, 3 * D // 8 + 12),
        ("power_sgd", {"rank": 2}, 4 * 2 * 64),
        ("count_sketch", {"share": 0.2, "rows": 5}, 4 * 5 * 41),
    ],
)
def test_bytes_of_a_message(kind: str, settings: dict[str, Any], size: int) -> None:
    item = made(kind, **settings)
    assert item.message_bytes(LAYOUT) == size
    known, own = shared(item), Seed(3)
    message_M = item.compress(V.float(), known, own)
    assert message_M.shape == (item.message(LAYOUT).size,)
    if isinstance(item, Coded):
        code = item.encode(V.numpy(), own)
        sent = code.to_bytes()
        seed_of_signs = 8 if isinstance(item, Eden) else 0
        assert len(sent) + seed_of_signs == size
        read = Code.from_bytes(sent, *item.counts(D))
        assert np.array_equal(read.integers, code.integers)
        # The bytes are all that the server decodes.
        assert torch.equal(torch.from_numpy(item.decode(read, D, own)).float(), item.compress(V, known, own).float())


def test_a_vector_that_is_no_power_of_two_is_padded() -> None:
    layout = Layout(("w",), ((650,),))
    assert made("eden").message_bytes(layout) == 1024 // 8 + 12
    assert restored(made("eden", bits=8), vector(650), layout=layout).shape == (650,)


# --- what every compressor keeps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_nothing_is_made_of_zeros_and_a_message_is_scaled_with_its_payload(kind: str) -> None:
    """Plans clip a message by a factor; the factor must be one that the sender can apply."""
    item = made(kind, **ALL[kind])
    assert not bool(restored(item, torch.zeros(D)).any())
    assert torch.allclose(restored(item, 0.25 * V), 0.25 * restored(item, V), rtol=1e-6)


@pytest.mark.parametrize("kind", LINEAR)
def test_a_sum_of_messages_is_the_message_of_the_sum(kind: str) -> None:
    item, other_D = made(kind, **ALL[kind]), vector(seed=1)
    known = shared(item)
    one, two, both = (item.compress(part, known, Seed(9)) for part in (V, other_D, V + other_D))
    assert torch.allclose(one + two, both, atol=1e-12)
    rows_KM = torch.stack([one, two])
    separate = torch.stack([item.restore(one, known), item.restore(two, known)])
    assert torch.allclose(item.restore(rows_KM, known), separate, atol=1e-12)
    assert torch.allclose(separate.sum(0), item.restore(both, known), atol=1e-12)


@pytest.mark.parametrize("kind", [kind for kind in ALL if made(kind, **ALL[kind]).remembers])
def test_error_feedback_loses_nothing(kind: str) -> None:
    """Everything that was sent, and the memory, add up to all payloads."""
    item = made(kind, **ALL[kind])
    known, error_D, sent_D, all_D = shared(item), None, torch.zeros(D), torch.zeros(D)
    for number in range(5):
        payload_D = vector(seed=number)
        message_M, error_D = item.sent(payload_D, error_D, known, Seed(number))
        sent_D, all_D = sent_D + item.restore(message_M, known), all_D + payload_D
    assert error_D is not None
    assert torch.allclose(sent_D + error_D, all_D, atol=1e-9)
    assert float(error_D.norm()) > 0.1


def test_with_many_levels_a_payload_is_hardly_changed() -> None:
    found = restored(Qsgd(kind="qsgd", levels=2**24), V)
    assert float((found - V).abs().max() / V.norm()) <= 1.01 * 2**-24
    assert torch.equal(restored(made("random_k", share=1.0), V), V)
    assert torch.equal(restored(made("top_k", share=1.0), V.float()), V.float())
    assert torch.equal(restored(made("power_sgd", rank=32), V), V)


# --- states of the server -------------------------------------------------------------------------------------------------


def test_the_bases_of_powersgd_find_a_matrix_of_their_rank() -> None:
    draw = np.random.default_rng(0)
    layout = Layout(("matrix", "bias", "kernel"), ((40, 30), (30,), (6, 5, 3, 3)))
    left, right = draw.normal(size=(40, 2)), draw.normal(size=(30, 2))
    kernel = np.outer(draw.normal(size=6), draw.normal(size=45))
    payload_D = torch.from_numpy(np.concatenate([(left @ right.T).ravel(), draw.normal(size=30), kernel.ravel()]))
    item = PowerSgd(kind="power_sgd", rank=2)
    assert item.message(layout).size == 2 * 70 + 30 + 2 * 51
    known, distances = shared(item, layout=layout), []
    for _ in range(2):
        message_M = item.compress(payload_D, known, Seed(0))
        mean_D, state = item.at_server(message_M, known)
        distances.append(float((mean_D - payload_D).norm() / payload_D.norm()))
        known = Shared(layout, state, known.stream)
    # Random bases miss most of it; those of its own rank miss nothing. A vector is sent whole.
    assert distances[0] > 0.3
    assert distances[1] < 1e-6
    assert torch.equal(mean_D[1200:1230], payload_D[1200:1230])


def test_powersgd_keeps_its_bases_if_nothing_is_sent() -> None:
    item = PowerSgd(kind="power_sgd", rank=2)
    known = shared(item)
    _, state = item.at_server(torch.zeros(item.message(LAYOUT).size), known)
    assert all(torch.equal(state[name], value) for name, value in known.state.items())


def test_a_count_sketch_finds_the_few_large_entries_and_keeps_the_rest() -> None:
    item = CountSketch(kind="count_sketch", rows=7, share=0.8, top=8 / D)
    large_D = torch.zeros(D, dtype=torch.float64)
    large_D[torch.arange(8) * 100 + 3] = torch.tensor([50.0, -40.0, 30.0, 60.0, -70.0, 45.0, 55.0, -35.0], dtype=torch.float64)
    small_D = torch.from_numpy(np.random.default_rng(0).normal(size=D)) * 0.1
    known = shared(item)
    known.state["error"] = known.state["error"].double()
    message_M = item.compress(large_D + small_D, known, Seed(0))
    taken_D, state = item.at_server(message_M, known)
    assert torch.equal(taken_D.nonzero(), large_D.nonzero())
    assert torch.allclose(taken_D, large_D, atol=2.0)
    cleared = item.compress(taken_D, known, Seed(0)) != 0
    assert 8 * 5 < int(cleared.sum()) <= 8 * 7
    assert torch.equal(state["error"], torch.where(cleared, 0.0, message_M))
    # Nothing new arrives: the server goes on to take what was left.
    again_D, _ = item.at_server(torch.zeros_like(message_M), Shared(LAYOUT, state, known.stream))
    assert bool(again_D.any())
