"""The second client answers the vectors and the server: what docs/secagg.md says is enough to build the other side."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import second_client
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from second_client import LABELS, Client, Draws, Memory, Parameters, Refused, u32
from second_numbers import (
    Malformed,
    certificate,
    context_digest,
    encode,
    encoding_digest,
    keystream,
    layout_digest,
    noise_digest,
    packed,
    scale,
    word_type,
)

from privfl.errors import ThresholdError
from privfl.secagg.certificate import Policy, certify
from privfl.secagg.identity import Directory
from privfl.secagg.packing import Bits
from privfl.secagg.server import Server
from privfl.secagg.session import Parameters as ServerParameters

VECTORS = Path(__file__).parents[1] / "vectors" / "secagg"
ROUNDS = ["complete", "complete_16_bits", "complete_20_bits", "complete_five", "complete_active", "sparse", "sparse_active"]


def vectors(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


def client_of(golden: Mapping[str, Any], number: int) -> Client:
    """The client that has drawn what a vector says."""
    parameters, mine = Parameters.of(golden["parameters"]), golden["clients"][str(number)]
    secret = {name: bytes.fromhex(mine[name]) for name in ("channel_private", "mask_private", "seed")}
    drawn = [holder for holder in mine["holders"] if holder != number]
    identities = {int(i): who["identity"] for i, who in golden["clients"].items() if who["identity"]}
    return Client(
        number,
        parameters,
        np.array(golden["global_model"], "<f4"),
        np.array(mine["vector"], word_type(parameters.bits)),
        Draws(secret["channel_private"], secret["mask_private"], secret["seed"], mine["polynomials"], drawn),
        Ed25519PrivateKey.from_private_bytes(bytes.fromhex(mine["identity"]["private"])) if identities else None,
        {i: bytes.fromhex(identity["public"]) for i, identity in identities.items()},
    )


def replay(golden: Mapping[str, Any]) -> dict[int, Client]:
    """Give each client its requests in turn and compare its answers with the vector's."""
    clients = {int(number): client_of(golden, int(number)) for number in golden["clients"]}
    for message in golden["messages"]:
        client = clients[message["client"]]
        assert client.stage == message["stage"]
        request = message["request"]
        assert client.answer(request and bytes.fromhex(request)).hex() == message["answer"], message["stage"]
    return clients


@pytest.mark.parametrize("name", ROUNDS)
def test_a_client_that_was_built_from_the_page_answers_every_golden_request(name: str) -> None:
    golden = vectors(name)
    clients = replay(golden)
    assert Parameters.of(golden["parameters"]).encoded().hex() == golden["parameters_bytes"]
    for client in clients.values():
        assert client.session.hex() == golden["session"]
        numbers = client.certificate._asdict()
        assert {key: numbers[key] for key in ("graph", "neighbours", "threshold", "survivors", "quorum")} == {
            key: golden["certificate"][key] for key in ("graph", "neighbours", "threshold", "survivors", "quorum")
        }


@pytest.mark.parametrize("name", ROUNDS)
def test_it_derives_the_keys_and_shares_of_the_lost_client_too(name: str) -> None:
    golden = vectors(name)
    for number, client in replay(golden).items():
        mine = golden["clients"][str(number)]
        client.draws = client_of(golden, number).draws
        assert {str(j): share.hex() for j, share in client.shares.items()} == mine["shares"]
        tags = {str(j): client.tags(number, j, share).hex() for j, share in client.shares.items()}
        assert tags == mine["tags"]
        assert {str(j): client.channel_key(j).hex() for j in client.holders} == mine["channel_keys"]
        keys = client.mask_keys(bytes.fromhex(golden["masking"]), mine["peers"])
        named = {"self" if j == number else str(j): key for j, key in keys.items()}
        assert {j: key.hex() for j, key in named.items()} == mine["mask_keys"]
        words = {j: keystream(key, 5, word_type(client.parameters.bits)).tolist() for j, key in named.items()}
        assert words == mine["mask_words"]


@pytest.mark.parametrize("name", ["malicious", "malicious_active"])
def test_it_refuses_what_a_client_must_refuse(name: str) -> None:
    cases = [case for case in vectors(name) if case["receiver"] == "client 1"]
    assert len(cases) >= 9
    for case in cases:
        golden = vectors(case["round"])
        client = client_of(golden, 1)
        requests = {m["stage"]: m for m in golden["messages"] if m["client"] == 1}
        while client.stage != case["stage"]:
            client.answer(bytes.fromhex(requests[client.stage]["request"] or ""))
        message = bytes.fromhex(case["message"])
        if case["outcome"] == "refused":
            with pytest.raises(Refused) as refused:
                client.answer(message)
            assert refused.value.stage == case["stage"], case["name"]
            with pytest.raises(Refused):
                client.answer(bytes.fromhex(requests[case["stage"]]["request"]))
            continue
        assert case["outcome"] == "taken, without a share"
        assert client.answer(message).hex() == requests[case["stage"]]["answer"], case["name"]
        while client.due < len(second_client.STAGES):
            stage = client.stage
            answer = client.answer(bytes.fromhex(requests[stage]["request"]))
        left_out = owners(bytes.fromhex(requests["unmasking"]["answer"])) - owners(answer)
        assert [f"client {owner}" for owner in left_out] == [case["peer"]], case["name"]


def owners(reveal: bytes) -> set[int]:
    """Whose shares a client reveals."""
    return {int.from_bytes(reveal[start : start + 4], "little") for start in range(56, len(reveal), 41)}


def test_it_computes_the_certificates_of_the_page() -> None:
    for golden in vectors("numbers")["certificates"]:
        found = certificate(golden["policy"], golden["minimum_clients"], golden["cohort"], golden["clients"])
        for key in ("graph", "neighbours", "threshold", "survivors", "quorum"):
            assert getattr(found, key) == golden[key], (golden, found)
        for key, bound in zip(("shares", "disconnected", "recovery"), (found.shares, found.apart, found.lost), strict=True):
            exact = golden[f"log2_{key}"]
            assert (exact is None) == (bound == 0), (key, golden)
            assert exact is None or abs(np.log2(bound) - exact) < 1e-5, (key, golden)


def test_neither_side_has_a_certificate_if_more_must_sign_than_there_are() -> None:
    """Of a cohort of 69, 36 may be a roster, but 51 must sign for a sum."""
    policy = Policy(roster_share=0.51, max_corrupt=0.45)
    with pytest.raises(Malformed, match="too small"):
        certificate(dataclasses.asdict(policy), 3, 69, 36)
    with pytest.raises(ThresholdError, match="51 must sign"):
        certify(policy, 36, 3, 69)


def test_it_refuses_a_member_with_the_number_of_the_server() -> None:
    golden = vectors("sparse")
    client, requests = client_of(golden, 0), [m["request"] for m in golden["messages"] if m["client"] == 0]
    client.answer(None)
    roster = bytes.fromhex(requests[1])
    with pytest.raises(Refused, match="out of order"):
        client.answer(roster[:-68] + b"\xff" * 4 + roster[-64:])


@pytest.mark.parametrize(("stage", "reason"), [("masked_input", "too few holders"), ("unmasking", "too few survivors")])
def test_it_goes_on_with_no_fewer_than_the_certificate_says(stage: str, reason: str) -> None:
    """Of four clients only 0 and 1 are left; three must be."""
    golden = vectors("complete")
    client, requests = client_of(golden, 1), {m["stage"]: m["request"] for m in golden["messages"] if m["client"] == 1}
    while client.stage != stage:
        client.answer(bytes.fromhex(requests[client.stage] or ""))
    request = bytes.fromhex(requests[stage])
    box = request[76:200]  # client 0's, after three sharers and both counts
    few = u32(1, 0) + u32(0) + u32(1) + box if stage == "masked_input" else u32(2) + u32(2, 0, 1)
    payload = request[20:52] + few
    with pytest.raises(Refused, match=reason):
        client.answer(request[:12] + len(payload).to_bytes(8, "little") + payload)


def test_it_packs_and_encodes_as_the_page_says() -> None:
    numbers = vectors("numbers")
    for golden in numbers["packing"]:
        assert packed(np.array(golden["words"], word_type(golden["bits"])), golden["bits"]).hex() == golden["packed"]
    for golden in numbers["encoding"]:
        setting = golden["clip"], golden["population"], golden["bits"]
        assert scale(*setting) == golden["scale"]
        assert scale(1.0, *setting[1:]) == golden["weight_scale"]
        words = encode(golden["update"], golden["weight"], *setting, bytes.fromhex(golden["rounding_key"]))
        assert words.tolist() == golden["words"], setting
        assert encoding_digest(*setting).hex() == golden["digest"]
    for golden in numbers["distributed_noise"]:
        fields = {key: value for key, value in golden.items() if key not in ("bytes", "digest")}
        assert noise_digest(**{**fields, "rotation_key": bytes.fromhex(golden["rotation_key"])}).hex() == golden["digest"]
    for golden in numbers["context"]:
        layout, encoding = (bytes.fromhex(golden[name]) for name in ("layout", "encoding"))
        assert context_digest(layout, encoding, golden["told"]).hex() == golden["digest"]
    assert layout_digest(numbers["layout"]["names"], numbers["layout"]["shapes"]).hex() == numbers["layout"]["digest"]


@pytest.mark.parametrize("label", sorted(LABELS))
def test_a_client_with_another_label_fails_the_vectors(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LABELS, label, LABELS[label] + b"!")
    with pytest.raises((AssertionError, Refused)):
        replay(vectors("sparse_active"))


def test_a_client_takes_part_in_an_attempt_once_and_in_no_other_after_a_release() -> None:
    golden = vectors("complete")
    client = client_of(golden, 1)
    requests = [m["request"] for m in golden["messages"] if m["client"] == 1]
    for request in requests:
        client.answer(request and bytes.fromhex(request))
    assert client.memory == Memory(attempt=(3, 0), released=(3, 0))
    for round_index, attempt in ((3, 0), (3, 1), (2, 7)):
        parameters = dataclasses.replace(client.parameters, round=round_index, attempt=attempt)
        again = Client(1, parameters, client.global_model, client.vector, memory=client.memory)
        with pytest.raises(Refused, match="this attempt is over"):
            again.answer(None)
    following = dataclasses.replace(client.parameters, round=4)
    Client(1, following, client.global_model, client.vector, memory=client.memory).answer(None)


LIVE: dict[str, tuple[Policy, Bits]] = {
    "semi-honest, complete": (Policy(adversary="semi_honest"), 16),
    "semi-honest, sparse": (Policy("sparse", "semi_honest", max_dropout=0.2, neighbours=6, threshold=4), 20),
    "active, complete": (Policy(), 32),
    "active, sparse": (Policy("sparse", max_dropout=0.2, neighbours=10, threshold=7), 64),
}


@pytest.mark.parametrize("case", LIVE)
def test_rounds_with_the_server_give_the_sum_to_the_bit(case: str) -> None:
    """Of twelve clients one refuses a damaged roster, one is silent when its vector is due and one when shares are."""
    policy, bits = LIVE[case]
    model, words = np.arange(7, dtype=np.float32), np.random.default_rng(5).integers(0, 2**bits, (12, 7), np.uint64)
    parameters = ServerParameters("live", 3, 7, bits, 12, 12, bytes(range(32)), policy=policy)
    identities = [Ed25519PrivateKey.generate() for _ in range(12)] if parameters.active else [None] * 12
    directory = {i: key.public_key().public_bytes_raw() for i, key in enumerate(identities) if key}
    server = Server(parameters, range(12), model, directory=Directory(directory) if directory else None)
    mine = Parameters(**dataclasses.asdict(parameters))
    clients = {
        i: Client(i, mine, model, row.astype(word_type(bits)), identity=identities[i], directory=directory)
        for i, row in enumerate(words)
    }
    while server.stage is not None:
        for i in sorted(server.awaited):
            request = server.request(i)
            if (i, server.stage) == (1, "share_keys"):
                server.receive(i, refusal(clients[i], (request or b"") + b"!"))
            elif (i, server.stage) not in {(5, "masked_input"), (7, "unmasking")}:
                server.receive(i, clients[i].answer(request))
        server.close()
    result = server.result()
    assert list(server.refusals) == [1]
    assert result.survivors == (0, 2, 3, 4, 6, 7, 8, 9, 10, 11)
    exact = [sum(int(word) for word in column) % 2**bits for column in words[list(result.survivors)].T]
    assert [int(word) % 2**bits for word in result.words_D] == exact
    assert not server.liars


def refusal(client: Client, request: bytes) -> bytes:
    """What a client says instead of an answer to a damaged request."""
    with pytest.raises(Refused) as refused:
        client.answer(request)
    return client.refusal(refused.value)
