from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from aggregator_inputs import context, updates
from hypothesis import given, settings
from hypothesis import strategies as st

from privfl.aggregators import ClientUpdate
from privfl.aggregators.secure_sum import SecureSum
from privfl.errors import ConfigError
from privfl.secagg import prg
from privfl.secagg.messages import MaskedInput
from privfl.secagg.server import Server
from privfl.vectors import Layout

SECURE = SecureSum(kind="secure_sum")


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.integers(2, 8), st.integers(1, 30), st.floats(1e-3, 1e3), st.floats(1e-3, 100), st.binary(min_size=32, max_size=32))
def test_it_is_the_plain_sum_bit_for_bit(clients: int, size: int, scale: float, clip: float, key: bytes) -> None:
    secure = SecureSum(kind="secure_sum", clip=clip)
    cohort = [replace(update, delta_D=scale * update.delta_D) for update in updates(clients, size)]
    plain, found = secure.plain(cohort, context(size, key=key)), secure.aggregate(cohort, context(size, key=key))
    assert torch.equal(found.seen["sum_D"], torch.from_numpy(plain.sum_D))
    assert float(found.seen["weight_sum"]) == plain.weight_sum
    assert torch.equal(found.mean_D, torch.from_numpy(plain.mean()).float())


def test_the_server_sees_the_sum_and_nothing_for_each_client() -> None:
    found = SECURE.aggregate(updates(), context())
    assert SECURE.hides_updates
    assert {name: tuple(value.shape) for name, value in found.seen.items()} == {"sum_D": (12,), "weight_sum": ()}


def test_the_result_repeats_and_follows_the_rounding_key() -> None:
    one, again = (SECURE.aggregate(updates(), context()) for _ in range(2))
    other = SECURE.aggregate(updates(), context(key=b"q" * 32))
    assert torch.equal(one.seen["sum_D"], again.seen["sum_D"])
    assert not torch.equal(one.seen["sum_D"], other.seen["sum_D"])


def test_clients_round_independently() -> None:
    same = [ClientUpdate(client, torch.full((500,), 1 / 3), 1.0) for client in range(2)]
    encoding = SECURE.parameters(context(500)).encoding
    steps = (SECURE.plain(same, context(500)).sum_D * encoding.update.scale).round()
    low = 2 * int(torch.tensor(1 / 3).double() * encoding.update.scale)
    # Two clients that round alike are never one step apart; a fair pair is with a chance of 2p(1-p), here for 500 entries.
    assert (steps == low + 1).sum() > 50


def test_clipped_coordinates_are_counted_over_all_clients() -> None:
    cohort = updates()
    cohort[0] = replace(cohort[0], delta_D=torch.tensor([9.0, -100.0] + 10 * [0.0]))
    cohort[3] = replace(cohort[3], delta_D=torch.full((12,), 8.5))
    assert SECURE.aggregate(cohort, context()).clipped == 14


def test_bytes_are_those_that_were_sent() -> None:
    clients, size = 5, 12
    cost = SECURE.aggregate(updates(clients), context()).cost
    assert cost.bytes_up == clients * ((20 + 32) + (20 + 32 + 4 * (size + 1)))
    assert cost.bytes_down == clients * (20 + 4 + 36 * clients)
    assert cost.client_seconds > 0 < cost.server_seconds


def test_what_the_server_receives_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[bytes] = []
    receive = Server.receive_input

    def eavesdrop(self: Server, message: bytes) -> None:
        received.append(message)
        receive(self, message)

    monkeypatch.setattr(Server, "receive_input", eavesdrop)
    cohort = [replace(update, delta_D=torch.zeros(1000)) for update in updates(size=1000)]
    SECURE.aggregate(cohort, context(1000))

    def hidden() -> bool:
        words = [MaskedInput.from_bytes(message).words for message in received]
        # Of 1,000 uniform words none is expected to be zero, and two with a chance of 1e-13.
        return all((vector == 0).sum() < 2 for vector in words)

    assert len(received) == 4
    assert hidden()
    received.clear()
    monkeypatch.setattr(prg, "mask", lambda vector_D, added, subtracted: None)
    SECURE.aggregate(cohort, context(1000))
    assert not hidden(), "the check must see a mask that was not applied"


def test_the_layout_is_bound_in_the_session() -> None:
    other = replace(context(), layout=Layout(("renamed",), ((12,),)))
    assert SECURE.parameters(context()).layout_digest != SECURE.parameters(other).layout_digest
    assert SECURE.parameters(context()).dimension == 12


def test_a_sum_that_cannot_be_held_is_refused_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "receive_advert", lambda *_: pytest.fail("something was sent"))
    with pytest.raises(ConfigError, match="32 bits"):
        SecureSum(kind="secure_sum", clip=2.0**30).aggregate(updates(), context())


@pytest.mark.parametrize(("population", "bits"), [(100, 21), (1000, 18)])
def test_the_default_clip_leaves_the_documented_precision(population: int, bits: int) -> None:
    assert SECURE.parameters(context(population=population)).encoding.update.scale == 2**bits
