"""All roles in one process: who is lost, what is measured, and what a server would have written down."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from secagg_cohort import COMPLETE, COMPLETE_ACTIVE, below, entropy, group, remember

from privfl.secagg.dropout import drawn_losses
from privfl.secagg.messages import BOX_BYTES
from privfl.secagg.prg import Words
from privfl.secagg.session import Stage
from privfl.secagg.sharing import ShareKind
from privfl.secagg.simulation import Meter, play
from privfl.secagg.transcript import Transcript


@pytest.fixture(autouse=True)
def _remember(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(monkeypatch)


def test_a_played_round_is_the_sum_and_is_measured() -> None:
    one, ticks = group(COMPLETE_ACTIVE, 5), iter(range(10_000))
    meter = Meter(clock=lambda: float(next(ticks)))
    found = play(one.server, one.clients, one.vector, {3: Stage.MASKED_INPUT}, meter)
    assert np.array_equal(found.words_D, one.plain([0, 1, 2, 4]))
    assert list(meter.stages) == list(Stage)
    # The clock moves by one between two looks at it.
    assert [cost.client_seconds for cost in meter.stages.values()] == [5, 5, 4, 4, 4]
    assert [cost.answers for cost in meter.stages.values()] == [5, 5, 4, 4, 4]
    assert meter.of(Stage.MASKED_INPUT).bytes_up == 4 * (52 + 4 * 5)
    assert meter.of(Stage.ADVERTISE_KEYS).bytes_down == 0 < meter.of(Stage.UNMASKING).bytes_down
    assert meter.refused == {}


def test_what_was_sent_to_a_client_that_is_lost_or_refuses_counts() -> None:
    one, meter = group(COMPLETE, 7), Meter()
    one.clients[2].parameters = group(COMPLETE, 7, length=4).parameters
    play(one.server, one.clients, one.vector, {3: Stage.MASKED_INPUT, 4: Stage.UNMASKING}, meter)
    # Client 2's shares are of another session; client 3 falls silent after its boxes, client 4 after the survivors.
    assert meter.of(Stage.SHARE_KEYS).bytes_down == 7 * (61 + 68 * 7)
    assert meter.of(Stage.MASKED_INPUT).bytes_down == 6 * (64 + 128 * 5)
    assert meter.of(Stage.UNMASKING).bytes_down == 5 * (60 + 4 * 5)
    assert [cost.answers for cost in meter.stages.values()] == [7, 7, 5, 4]
    assert list(meter.refused) == [2]
    one, meter = group(COMPLETE, 7), Meter()
    one.clients[1]._over = True
    play(one.server, one.clients, one.vector, meter=meter)
    assert (meter.of(Stage.ADVERTISE_KEYS).answers, meter.of(Stage.SHARE_KEYS).answers) == (6, 6)


def test_a_client_whose_message_is_refused_is_out_and_the_round_goes_on() -> None:
    one, meter = group(COMPLETE, 5), Meter()
    one.clients[2].parameters = group(COMPLETE, 5, length=4).parameters
    found = play(one.server, one.clients, one.vector, meter=meter)
    assert found.survivors == (0, 1, 3, 4)
    assert list(meter.refused) == [2]


def test_too_few_end_the_round() -> None:
    one = group(COMPLETE)
    below(play, one.server, one.clients, one.vector, dict.fromkeys(range(3), Stage.SHARE_KEYS), match="share_keys")


def test_a_transcript_holds_what_was_sent_and_no_secret(tmp_path: Path) -> None:
    one, secrets = group(COMPLETE), list[bytes]()

    def vector(number: int) -> Words:
        client = one.clients[number]
        secrets.extend([client._seed, client._mask.private, client._channel.private, one.vector(number).tobytes()])
        return one.vector(number)

    with (tmp_path / "masked").open("w+b") as file:
        transcript = Transcript(5, 32, file)
        found = play(one.server, one.clients, vector, {1: Stage.MASKED_INPUT}, Meter(heard=transcript.hear))
        arrays = transcript.arrays()
    assert arrays["clients_K"].tolist() == [0, 1, 2, 3]
    assert arrays["masked_clients_K"].tolist() == list(found.survivors) == [0, 2, 3]
    assert (arrays["box_bytes_M"] == BOX_BYTES).all()
    assert len(arrays["box_sender_M"]) == len(arrays["box_receiver_M"]) == 12
    kinds = dict(zip(arrays["owner_R"].tolist(), arrays["kind_R"].tolist(), strict=True))
    assert kinds == {0: ShareKind.SEED, 1: ShareKind.MASK_KEY, 2: ShareKind.SEED, 3: ShareKind.SEED}
    written = b"".join(array.tobytes() for array in arrays.values())
    assert len(secrets) == 12
    assert not any(secret in written for secret in secrets)


def test_a_transcript_of_nothing() -> None:
    assert all(len(array) == 0 for array in Transcript(5, 32, io.BytesIO()).arrays().values())


def test_losses_come_at_their_rates_and_follow_the_key() -> None:
    # Binomial, two-sided, 1e-9 for each: 40,000 clients reach the first stage, those who are left the next.
    rates = {Stage.SHARE_KEYS: 0.05, Stage.MASKED_INPUT: 0.2, Stage.UNMASKING: 1.0}
    lost = drawn_losses(range(40_000), rates, entropy("losses")(32))
    left = 40_000
    for stage in (Stage.SHARE_KEYS, Stage.MASKED_INPUT):
        count = sum(at is stage for at in lost.values())
        assert scipy.stats.binomtest(count, left, rates[stage]).pvalue > 1e-9
        left -= count
    assert sum(at is Stage.UNMASKING for at in lost.values()) == left
    assert drawn_losses(range(40_000), rates, entropy("losses")(32)) == lost
    assert drawn_losses(range(40_000), rates, entropy("others")(32)) != lost
    assert drawn_losses(range(10), {}, bytes(32)) == {}
