from __future__ import annotations

import hashlib
import struct
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from aggregator_inputs import context, expected_mean, sum_without_masks, updates
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from privfl.errors import ConfigError, ThresholdError
from privfl.federation.aggregators import Aggregate, ClientUpdate
from privfl.federation.aggregators.secure_sum import Dropout, SecureSum
from privfl.privacy.distributed import DistributedCodec
from privfl.running.run_folder import RunFolder
from privfl.running.views import ServerView, observe_transcripts, open_view
from privfl.secagg import prg
from privfl.secagg.messages import MaskedInput
from privfl.secagg.packing import narrow_bits, unpack
from privfl.secagg.server import Server
from privfl.secagg.session import Stage
from privfl.vectors import Layout

SECURE = SecureSum(kind="secure_sum")


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.integers(3, 8), st.integers(1, 30), st.floats(1e-3, 1e3), st.floats(1e-3, 100), st.binary(min_size=32, max_size=32))
def test_it_is_the_plain_sum_bit_for_bit(clients: int, size: int, scale: float, clip: float, key: bytes) -> None:
    secure = SecureSum(kind="secure_sum", clip=clip)
    cohort = [replace(update, delta_D=scale * update.delta_D) for update in updates(clients, size)]
    plain, found = sum_without_masks(secure, cohort, context(size, key=key)), secure.aggregate(cohort, context(size, key=key))
    assert torch.equal(found.seen["sum_D"], torch.from_numpy(plain.sum_D))
    assert float(found.seen["weight_sum"]) == plain.weight_sum
    assert found.mean_D is not None
    assert torch.equal(found.mean_D, torch.from_numpy(plain.mean()).float())


def test_the_server_sees_the_sum_and_nothing_for_each_client() -> None:
    found = SECURE.aggregate(updates(), context())
    assert SECURE.hides_updates
    assert {name: tuple(value.shape) for name, value in found.seen.items()} == {"sum_D": (12,), "weight_sum": ()}
    assert found.transcripts == ()


def test_the_result_repeats_and_follows_the_rounding_key() -> None:
    one, again = (SECURE.aggregate(updates(), context()) for _ in range(2))
    other = SECURE.aggregate(updates(), context(key=b"q" * 32))
    assert torch.equal(one.seen["sum_D"], again.seen["sum_D"])
    assert not torch.equal(one.seen["sum_D"], other.seen["sum_D"])


def test_whatever_clients_are_told_is_in_the_parameters() -> None:
    """As docs/secagg.md has it: a server that tells one client another norm agrees on no keys between it and the others."""
    given = context()
    told = {"norm": torch.tensor(0.5, dtype=torch.float64), "control": torch.ones(12)}
    plain, with_told = (SECURE.parameters(one, 4).context for one in (given, replace(given, told=told)))
    digests = given.layout.digest() + SECURE.encoding(given).digest()
    assert plain == hashlib.sha256(digests).digest()
    parts = [b"privfl secagg told"]
    for name, numbers in (("control", [1.0] * 12), ("norm", [0.5])):
        parts.append(struct.pack("<I", len(name)) + name.encode() + struct.pack(f"<Q{len(numbers)}d", len(numbers), *numbers))
    assert with_told == hashlib.sha256(digests + hashlib.sha256(b"".join(parts)).digest()).digest()
    other = replace(given, told=told | {"norm": torch.tensor(0.0, dtype=torch.float64)})
    assert SECURE.parameters(other, 4).context != with_told


def test_clients_round_independently() -> None:
    same = [ClientUpdate(client, torch.full((500,), 1 / 3) if client < 2 else torch.zeros(500), 1.0) for client in range(3)]
    encoding = SECURE.encoding(context(500))
    steps = (sum_without_masks(SECURE, same, context(500)).sum_D * encoding.update.scale).round()
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
    found = losing(adversary="semi_honest").aggregate(updates(clients), context())
    assert found.secure is not None
    up = {stage.stage: stage.bytes_up for stage in found.secure.stages}
    down = {stage.stage: stage.bytes_down for stage in found.secure.stages}
    assert up == {
        "advertise_keys": clients * 84,
        "share_keys": clients * (120 + 124 * (clients - 1)),
        "masked_input": clients * (52 + 4 * (size + 1)),
        "unmasking": clients * (56 + 41 * clients),
    }
    assert down == {
        "advertise_keys": 0,
        "share_keys": clients * (61 + 68 * clients),
        "masked_input": clients * (64 + (4 + 124) * (clients - 1)),
        "unmasking": clients * (60 + 4 * clients),
    }
    assert (found.cost.bytes_up, found.cost.bytes_down) == (sum(up.values()), sum(down.values()))
    assert found.cost.client_seconds > 0 < found.cost.server_seconds


def test_what_the_server_receives_is_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = [replace(update, delta_D=torch.zeros(1000)) for update in updates(size=1000)]

    def hidden() -> bool:
        (sent,) = SECURE.aggregate(cohort, replace(context(1000), transcript=tmp_path)).transcripts
        # Of 1,000 uniform words none is expected to be zero, and two with a chance of 1e-13.
        return bool(((sent["masked_KD"] == 0).sum(1) < 2).all())

    assert hidden()
    monkeypatch.setattr(prg, "mask", lambda vector_D, added, subtracted, threads: None)
    assert not hidden(), "the check must see a mask that was not applied"


@pytest.mark.parametrize("bits", [16, 20, 24, 32, 64])
def test_masked_vectors_are_kept_in_a_file_without_a_name(bits: int, tmp_path: Path) -> None:
    """Of 40 clients no more is in memory than a few vectors, all the way to the run folder; what is read is what was sent."""
    size, octets = 100_000, {16: 2, 20: 4, 24: 4, 32: 4, 64: 8}[bits]
    cohort, sent = updates(40, size), list[bytes]()
    looking = {"adversary": "semi_honest", "graph": "sparse", "max_corrupt": 0.0, "max_dropout": 0.0}
    folder, secure = RunFolder(tmp_path), losing(bits=bits, clip=0.5, **looking)
    given = replace(context(size, population=200), transcript=tmp_path)
    take = Server._take_input

    def take_and_note(server: Server, masked: MaskedInput) -> None:
        take(server, masked)
        sent.append(hashlib.sha256(unpack(masked.packed, size + 1, narrow_bits(bits)).tobytes()).digest())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "_take_input", take_and_note)
        tracemalloc.start()
        try:
            found = secure.aggregate(cohort, given)
            assert not list(tmp_path.iterdir()), "a file with a name would be left by a crash"
            observe_transcripts(folder, 2, found.transcripts)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert len(sent) == 40
    # An encoded vector, a masked one, their sum and the decoded one, and what the last is checked with.
    assert peak < 5 * size * (octets + 8) < 40 * size * octets
    view = open_view(folder, "server", given.layout)
    assert isinstance(view, ServerView)
    (kept,) = view.transcripts(2)
    assert [hashlib.sha256(row.numpy().tobytes()).digest() for row in kept["masked_KD"]] == sent
    assert {name: tensor.dtype for name, tensor in kept.items()} == {
        name: tensor.dtype for name, tensor in found.transcripts[0].items()
    }
    assert all(torch.equal(kept[name], found.transcripts[0][name]) for name in kept)


@pytest.mark.parametrize("bits", [16, 20, 32])
def test_the_encoding_moves_an_update_by_no_more_than_it_says(bits: int) -> None:
    secure = losing(bits=bits, clip=0.5)
    bound, moved = secure.rounding_norm(context()), []
    for number in range(200):
        given = updates(3, seed=number)
        zeros = [replace(one, delta_D=torch.zeros(12), weight=1.0) for one in given[1:]]
        given = [replace(given[0], weight=1.0), *zeros]
        found = sum_without_masks(secure, given, context(key=number.to_bytes(32, "big"))).sum_D
        moved.append(float((torch.from_numpy(found) - given[0].delta_D.double()).norm()))
    assert 0.2 * bound < max(moved) <= bound


# --- lost clients -----------------------------------------------------------------------------------------------------


def losing(**changes: Any) -> SecureSum:
    return SecureSum.model_validate({"kind": "secure_sum", **changes})


def test_a_lost_client_is_not_in_the_mean_and_nothing_else_is_missing() -> None:
    given = updates(7)
    loss = {"round": 2, "stage": "masked_input", "clients": [given[1].client]}
    late = {"round": 2, "stage": "unmasking", "clients": [given[2].client]}
    secure = losing(dropout={"schedule": [loss, late]})
    found = secure.aggregate(given, context())
    left = [update for update in given if update is not given[1]]
    assert found.survivors == tuple(update.client for update in left)
    assert torch.equal(found.seen["sum_D"], torch.from_numpy(sum_without_masks(secure, left, context()).sum_D))
    assert found.secure is not None
    assert found.secure.lost == {"masked_input": [given[1].client], "unmasking": [given[2].client]}
    # The self masks of six survivors, and the mask that each of them made with the one that was lost.
    assert found.secure.masks_server == 12
    other_round = secure.aggregate(given, context(number=3))
    assert other_round.survivors == tuple(update.client for update in given)


@pytest.mark.parametrize("adversary", ["semi_honest", "active"])
def test_losses_at_given_rates_repeat_and_leave_the_exact_sum(adversary: str) -> None:
    secure = losing(adversary=adversary, max_dropout=0.4, dropout={"share_keys": 0.1, "masked_input": 0.1, "unmasking": 0.1})
    given, sums = updates(12), set()
    for number in range(12):
        found, again = (secure.aggregate(given, context(number=number, key=bytes([number]) * 32)) for _ in range(2))
        assert found.survivors == again.survivors
        assert found.secure is not None
        assert again.secure is not None
        assert found.secure.lost == again.secure.lost
        if found.mean_D is None:
            continue
        left = [update for update in given if update.client in found.survivors]
        plain = sum_without_masks(secure, left, context(number=number, key=bytes([number]) * 32))
        assert torch.equal(found.seen["sum_D"], torch.from_numpy(plain.sum_D))
        sums.add(len(left))
    assert len(sums) > 1, "somebody must have been lost"


def all_lost(stage: str) -> dict[str, Any]:
    return {"schedule": [{"round": 2, "stage": stage, "clients": [1, 4, 7, 10]}]}


@pytest.mark.parametrize("stage", ["advertise_keys", "share_keys", "masked_input"])
def test_below_the_threshold_the_round_is_repeated_skipped_or_the_run_stops(stage: str) -> None:
    given = updates(4)
    # The schedule holds for the first attempt only.
    repeated = losing(dropout=all_lost(stage)).aggregate(given, context())
    assert repeated.survivors == (1, 4, 7, 10)
    assert repeated.secure is not None
    assert repeated.secure.attempts == 2
    plain = sum_without_masks(SECURE, given, context())
    assert torch.equal(repeated.seen["sum_D"], torch.from_numpy(plain.sum_D))
    skipped = losing(dropout=all_lost(stage), below_threshold="skip").aggregate(given, context())
    assert (skipped.mean_D, skipped.survivors, skipped.seen) == (None, (), {})
    assert skipped.failed is not None
    assert skipped.failed.startswith(stage)
    assert skipped.secure is not None
    assert not skipped.ends_run
    stopped = losing(dropout=all_lost(stage), below_threshold="stop").aggregate(given, context())
    assert (stopped.ends_run, stopped.failed, stopped.mean_D) == (True, skipped.failed, None)


class Late(Dropout):
    """Everybody is lost: first on the way, then before there is a roster."""

    def lost_at(self, clients: Sequence[int], round_number: int, attempt: int, key: bytes) -> dict[int, Stage]:
        del round_number, key
        return dict.fromkeys(clients, Stage.MASKED_INPUT if attempt == 0 else Stage.ADVERTISE_KEYS)


def test_what_is_known_of_a_round_is_recorded_however_it_ends() -> None:
    secure = losing(attempts=2).model_copy(update={"dropout": Late()})
    found = secure.aggregate(updates(), context())
    assert found.failed is not None
    assert found.failed.startswith("advertise_keys")
    assert found.secure is not None
    assert (found.secure.attempts, found.secure.clients, found.secure.threshold) == (2, 4, 3)
    assert found.secure.lost == {"advertise_keys": [1, 4, 7, 10]}
    assert sum(stage.bytes_up for stage in found.secure.stages) == found.cost.bytes_up > 0
    never = losing(dropout={"advertise_keys": 1.0}, adversary="active").aggregate(updates(), context()).secure
    assert never is not None
    assert (never.attempts, never.clients, never.neighbours, never.adversary) == (3, None, None, "active")


def test_a_schedule_does_not_bring_back_whoever_is_lost_already() -> None:
    loss = {"round": 2, "stage": "unmasking", "clients": [1, 4]}
    late = losing(dropout={"masked_input": 1.0, "schedule": [loss]}).dropout
    assert late.lost_at([1, 4, 7], 2, 0, bytes(32)) == dict.fromkeys((1, 4, 7), Stage.MASKED_INPUT)
    early = losing(dropout={"unmasking": 1.0, "schedule": [{**loss, "stage": "share_keys"}, loss]}).dropout
    assert early.lost_at([1, 7], 2, 0, bytes(32)) == {1: Stage.SHARE_KEYS, 7: Stage.UNMASKING}


def test_attempts_are_bounded(tmp_path: Path) -> None:
    found = losing(dropout={"masked_input": 1.0}, attempts=3).aggregate(updates(), replace(context(), transcript=tmp_path))
    assert found.mean_D is None
    assert len(found.transcripts) == 3
    assert found.secure is not None
    assert found.secure.attempts == 3


@pytest.mark.parametrize("noised", [False, True], ids=["plain", "distributed noise"])
@pytest.mark.parametrize(
    ("adversary", "stage"), [("semi_honest", "unmasking"), ("active", "consistency_check"), ("active", "unmasking")]
)
def test_a_round_is_not_begun_again_once_shares_were_asked_for(
    adversary: str, stage: str, noised: bool, tmp_path: Path
) -> None:
    """Five of ten answered: with a corrupt sixth the server has the sum, and the difference to another would be one update."""
    given = [replace(update, weight=1.0) for update in updates(10)]
    schedule = [
        {"round": 2, "stage": stage, "clients": [update.client for update in given[5:]]},
    ]
    distributed = replace(context(), codec=codec(12), noise_key=b"n" * 32) if noised else context()
    heard = replace(distributed, transcript=tmp_path)
    found = losing(adversary=adversary, max_dropout=0.3, dropout={"schedule": schedule}).aggregate(given, heard)
    assert found.mean_D is None
    assert len(found.transcripts) == 1, "the same update was masked a second time"
    assert found.failed is not None
    assert found.failed.startswith(stage)
    assert found.secure is not None
    assert found.secure.attempts == 1
    stopping = losing(adversary=adversary, max_dropout=0.3, below_threshold="stop", dropout={"schedule": schedule})
    assert stopping.aggregate(given, heard).ends_run


@pytest.mark.parametrize("adversary", ["semi_honest", "active"])
def test_clients_refuse_an_attempt_that_a_server_claims_is_needed(adversary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Server] = []

    class Liar(Server):
        """It has the sum of all, says that it does not, and would have that of all but one."""

        def close(self) -> None:
            made.extend([self] if self not in made else [])
            done = self.stage is Stage.UNMASKING and len(made) == 1
            super().close()
            self.releasing = False
            if done:
                raise ThresholdError("too few, honestly")

    monkeypatch.setattr("privfl.federation.aggregators.secure_sum.Server", Liar)
    found = losing(adversary=adversary).aggregate(updates(10), context())
    assert found.mean_D is None
    assert len(made) == 3
    assert [one._result is None for one in made] == [False, True, True]
    assert all(not one._adverts for one in made[1:]), "a client took part in a second attempt"


def test_masks_of_two_attempts_are_unrelated(tmp_path: Path) -> None:
    cohort = [replace(update, delta_D=torch.zeros(1000)) for update in updates(size=1000)]
    secure = losing(dropout={"schedule": [{"round": 2, "stage": "masked_input", "clients": [7, 10]}]})
    one, other = secure.aggregate(cohort, replace(context(1000), transcript=tmp_path)).transcripts
    assert one["masked_clients_K"].tolist() == [1, 4]
    assert ((one["masked_KD"] == other["masked_KD"][:2]).sum(1) < 2).all()


@pytest.mark.parametrize("bits", [16, 20, 24, 64])
def test_fewer_or_more_bits(bits: int) -> None:
    secure = losing(bits=bits, clip=0.5)
    found = secure.aggregate(updates(), context())
    assert torch.equal(found.seen["sum_D"], torch.from_numpy(sum_without_masks(secure, updates(), context()).sum_D))
    assert found.mean_D is not None
    step = 1 / secure.encoding(context()).update.scale
    # The weight is rounded too, and at 16 bits coarsely.
    torch.testing.assert_close(found.mean_D.double(), expected_mean(updates()), rtol=0.02, atol=4 * step)
    assert found.secure is not None
    masked = next(stage for stage in found.secure.stages if stage.stage == "masked_input")
    assert masked.bytes_up == 4 * (52 + (13 * bits + 7) // 8)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"max_corrupt": 0.6, "max_dropout": 0.45}, "must be below 1"),
        ({"max_dropout": 0.5}, r"must be in \[0, 1\) and in \[0, 0.5\)"),
        ({"security_bits": 39}, r"must be in \[40, 128\]"),
        ({"roster_share": 0.5}, r"must be in \(0.5, 1\]"),
        ({"graph": "sparse", "neighbours": 22, "threshold": 11}, "must be at least 12"),
        ({"adversary": "active", "max_corrupt": 0.3, "max_dropout": 0.4}, "no majority"),
        ({"threshold": 1}, "at least 2"),
        ({"graph": "complete", "neighbours": 4}, "for graph = 'sparse' only"),
        ({"adversary": "semi_honest", "dropout": {"consistency_check": 0.1}}, "aggregator.adversary = 'active'"),
        ({"bits": 18}, "16, 20, 24, 32 or 64"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        losing(**changes)


# --- distributed noise ------------------------------------------------------------------------------------------------


def codec(size: int, survivors: int = 3, noise: float = 1e-6) -> DistributedCodec:
    return DistributedCodec.fit(
        "skellam",
        dimension=size,
        clip=1.0,
        bits=20,
        clients=20,
        survivors=survivors,
        noise_multiplier=noise,
        rotation_key=b"k" * 32,
    )


def test_words_of_a_codec_are_summed_and_every_client_weighs_the_same() -> None:
    given = [replace(update, weight=1.0) for update in updates(6)]
    noised = replace(context(), codec=codec(12), noise_key=b"n" * 32)
    found = losing(dropout={"schedule": [{"round": 2, "stage": "masked_input", "clients": [4]}]}).aggregate(given, noised)
    left = [update for update in given if update.client != 4]
    assert found.survivors == tuple(update.client for update in left)
    assert float(found.seen["weight_sum"]) == 5
    exact_D = torch.stack([update.delta_D.double() for update in left]).sum(0)
    torch.testing.assert_close(found.seen["sum_D"], exact_D, rtol=0, atol=0.01)
    assert found.secure is not None
    assert found.secure.bits == 20


def test_a_sum_of_too_few_shares_of_noise_is_never_revealed() -> None:
    # Of 10 invited one may be corrupt, so that 7 honest shares need 8 survivors; a threshold of 6 would give 7 away.
    given = [replace(update, weight=1.0) for update in updates(10)]
    noised = replace(context(), codec=codec(12, survivors=7), noise_key=b"n" * 32)
    names = [update.client for update in given]

    def aggregate(lost: int) -> Aggregate:
        schedule = [{"round": 2, "stage": "masked_input", "clients": names[:lost]}]
        return losing(max_dropout=0.3, below_threshold="skip", dropout={"schedule": schedule}).aggregate(given, noised)

    assert len(aggregate(2).survivors) == 8
    too_few = aggregate(3)
    assert too_few.mean_D is None
    assert "must be at least 8" in str(too_few.failed)


def test_shares_of_noise_differ_between_clients_and_follow_the_key() -> None:
    given = [replace(update, weight=1.0, delta_D=torch.zeros(12)) for update in updates(6)]

    def noise(key: bytes, clients: int = 6) -> torch.Tensor:
        noised = replace(context(), codec=codec(12, noise=1.0), noise_key=key)
        return SECURE.aggregate(given[:clients], noised).seen["sum_D"]

    assert torch.equal(noise(b"n" * 32), noise(b"n" * 32))
    assert not torch.equal(noise(b"n" * 32), noise(b"m" * 32))
    # Two clients of one share would give its double.
    one, two = noise(b"n" * 32, 5), noise(b"n" * 32, 6)
    assert not torch.allclose(two, one * 6 / 5)


def test_the_layout_is_bound_in_the_session() -> None:
    other = replace(context(), layout=Layout(("renamed",), ((12,),)))
    assert SECURE.parameters(context(), 4).context != SECURE.parameters(other, 4).context
    assert SECURE.parameters(context(), 4).length == 13


def test_a_sum_that_cannot_be_held_is_refused_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "receive", lambda *_: pytest.fail("something was sent"))
    with pytest.raises(ConfigError, match="32 bits"):
        SecureSum(kind="secure_sum", clip=2.0**30).aggregate(updates(), context())


@pytest.mark.parametrize(("population", "bits"), [(100, 21), (1000, 18)])
def test_the_default_clip_leaves_the_documented_precision(population: int, bits: int) -> None:
    assert SECURE.encoding(context(population=population)).update.scale == 2**bits
