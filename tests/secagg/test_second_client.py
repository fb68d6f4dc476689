"""The second client answers the vectors and the server: what docs/secagg.md says is enough to build the other side."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from second_client import Client, Draws, Parameters
from second_numbers import word_type

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
