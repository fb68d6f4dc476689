"""Writes ``tests/vectors/secagg/``: whole rounds, byte by byte, for whoever implements the other side.

Run it only when the protocol is meant to change: ``PYTHONPATH=tests/secagg python tests/secagg/make_vectors.py``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from secagg_cohort import POLICIES, Group, group, identity_of, patched, vector_of

from privfl.privacy.distributed import DistributedCodec, Noise
from privfl.secagg.agreement import MASK, KeyPair, self_mask_key
from privfl.secagg.certificate import Policy, certify
from privfl.secagg.encoding import Encoding
from privfl.secagg.identity import SURVIVORS
from privfl.secagg.messages import Consents, Delivery, Roster, survivors_statement
from privfl.secagg.packing import Bits, pack
from privfl.secagg.prg import Keystream
from privfl.secagg.session import Stage, roster_digest
from privfl.vectors import Layout

FOLDER = Path(__file__).parents[1] / "vectors" / "secagg"
LOST = {2: Stage.MASKED_INPUT}
# Of four clients who draw two holders each, few draws leave everybody two when one is lost; this one does.
SEEDS = {"sparse, active": "golden 8"}


# Rounds of words that are no whole number of 32-bit words on the wire.
NARROW: tuple[Bits, ...] = (16, 20)


def round_of(name: str, bits: Bits = 32) -> dict[str, Any]:
    """One round of four clients over five words, one of whom is lost before it sends its vector.

    Entropy and identities are those of ``secagg_cohort.entropy``: SHAKE-256 of a name and a counter.
    """
    one = group(POLICIES[name], seed=SEEDS.get(name, "golden"), bits=bits)
    messages: list[dict[str, Any]] = []
    while (stage := one.server.stage) is not None:
        silent = {client for client, at in LOST.items() if at is stage}
        for client in sorted(one.server.awaited - silent):
            request = one.server.request(client)
            answer = one.answer(client, request)
            messages.append(
                {
                    "stage": str(stage),
                    "client": client,
                    "request": request.hex() if request is not None else None,
                    "answer": answer.hex(),
                }
            )
            one.server.receive(answer)
        one.server.close()
    unmasked = one.server.result()
    parameters = one.parameters
    return {
        "parameters": {**asdict(parameters), "context": parameters.context.hex()},
        "parameters_bytes": parameters.to_bytes().hex(),
        "global_model": [0.0, 0.0, 0.0],
        "vectors": {str(client): one.vector(client).tolist() for client in one.numbers},
        "session": one.clients[0]._session.hex(),
        "masking": one.clients[0]._masking.hex(),
        "secrets": {str(client): secrets_of(one, client) for client in one.numbers if client not in LOST},
        "messages": messages,
        "survivors": list(unmasked.survivors),
        "sum": unmasked.words_D.tolist(),
    }


def secrets_of(one: Group, client: int) -> dict[str, Any]:
    """What a client has to itself, and the first words of its masks."""
    it = one.clients[client]
    masks = {"self": self_mask_key(it._seed, it._masking)} | {
        str(peer): it._mask.shared_key(it._members[peer][1], it._masking, MASK) for peer in sorted(it._peers)
    }
    return {
        "channel_private": it._channel.private.hex(),
        "mask_private": it._mask.private.hex(),
        "seed": it._seed.hex(),
        "mask_keys": {peer: key.hex() for peer, key in masks.items()},
        "mask_words": {peer: first_words(key) for peer, key in masks.items()},
    }


def first_words(key: bytes) -> list[int]:
    """Five words of 32 bits."""
    words = np.empty(5, np.uint32)
    Keystream(key).fill(words)
    return words.tolist()


Forge = Callable[[bytes], bytes]

# Each is made of the message that stands at that stage of the complete, semi-honest round: for the server client 1's answer,
# to client 1 the request of the server. What comes of it: the stage and the peer that the error names, and a part of its words.
FORGERIES: dict[str, tuple[str, Stage, Forge, str | None, str]] = {
    "cut short": ("server", Stage.ADVERTISE_KEYS, lambda m: m[:19], None, "cut short"),
    "another magic": ("server", Stage.ADVERTISE_KEYS, lambda m: patched(m, 0, b"pg"), "client 1", "of protocol"),
    "another version": ("server", Stage.ADVERTISE_KEYS, lambda m: patched(m, 2, b"\x63"), "client 1", "version 99"),
    "another type": ("server", Stage.ADVERTISE_KEYS, lambda m: patched(m, 3, b"\x05"), "client 1", "type 5 came instead"),
    "another round": ("server", Stage.ADVERTISE_KEYS, lambda m: patched(m, 4, b"\x04"), "client 1", "must be of round 3"),
    "a stranger": ("server", Stage.ADVERTISE_KEYS, lambda m: patched(m, 8, b"\x09"), "client 9", "is not awaited"),
    "a byte too many": ("server", Stage.ADVERTISE_KEYS, lambda m: m + b"\0", "client 1", "were announced"),
    "a key that is an alias": (
        "server",
        Stage.ADVERTISE_KEYS,
        lambda m: patched(m, 20, b"\xff" * 32),
        "client 1",
        "below 2^255",
    ),
    "one key for both": ("server", Stage.ADVERTISE_KEYS, lambda m: patched(m, 20, m[52:84]), "client 1", "two of its own"),
    "a box too few": ("server", Stage.SHARE_KEYS, lambda m: _shorter(m, 92, 84), "client 1", "sent 2 boxes"),
    "another session": ("server", Stage.MASKED_INPUT, lambda m: patched(m, 20, bytes(32)), "client 1", "another session"),
    "a word too few": ("server", Stage.MASKED_INPUT, lambda m: _shorter(m, 4), "client 1", "must be 20"),
    "a share of the wrong kind": (
        "server",
        Stage.UNMASKING,
        lambda m: patched(m, 60, b"\x01"),
        "client 1",
        "of the wrong kind",
    ),
    "an unknown kind of share": ("server", Stage.UNMASKING, lambda m: patched(m, 60, b"\x02"), "client 1", "unknown kind"),
    "a roster of another key": (
        "client",
        Stage.SHARE_KEYS,
        lambda m: patched(m, 61 + 68 + 4, bytes(32)),
        "server",
        "other keys",
    ),
    "a roster of another digest": ("client", Stage.SHARE_KEYS, lambda m: patched(m, 25, bytes(32)), "server", "digest"),
    "a roster too short": ("client", Stage.SHARE_KEYS, lambda m: _shorter(m, 68, 57), "server", "must list"),
    "a box that was altered": (
        "client",
        Stage.MASKED_INPUT,
        lambda m: patched(m, 90, bytes([m[90] ^ 1])),
        "client 0",
        "not sealed",
    ),
    "a survivor out of order": (
        "client",
        Stage.UNMASKING,
        lambda m: patched(m, 60, m[64:68] + m[60:64]),
        "server",
        "out of order",
    ),
    "survivors without the client": (
        "client",
        Stage.UNMASKING,
        lambda m: patched(m, 64, b"\x02"),
        "server",
        "without this client",
    ),
    "fewer survivors than counted": ("client", Stage.UNMASKING, lambda m: patched(m, 52, b"\x04"), "server", "are counted"),
}


def _shorter(message: bytes, size: int, count_at: int | None = None) -> bytes:
    """Without its last bytes, with the header's length and, where there is one, the table's count put right."""
    length = len(message) - 20 - size
    cut = patched(message[:-size], 12, length.to_bytes(8, "little"))
    if count_at is None:
        return cut
    return patched(cut, count_at, (int.from_bytes(cut[count_at : count_at + 4], "little") - 1).to_bytes(4, "little"))


def malicious() -> list[dict[str, Any]]:
    """Messages that must be refused, made of those of the complete, semi-honest round."""
    return [_forged(name, "complete", *row) for name, row in FORGERIES.items()]


def _forged(name: str, policy: str, receiver: str, stage: Stage, forge: Forge, peer: str | None, words: str) -> dict[str, Any]:
    one = group(POLICIES[policy], seed=SEEDS.get(policy, "golden")).to(stage, LOST)
    request = one.server.request(1)
    message = one.answer(1, request) if receiver == "server" else request
    assert message is not None
    return {
        "name": name,
        "round": policy,
        "receiver": "server" if receiver == "server" else "client 1",
        "stage": str(stage),
        "message": forge(message).hex(),
        "peer": peer,
        "reason": words,
    }


# --- against an active server -----------------------------------------------------------------------------------------


def _flipped(at: int) -> Forge:
    return lambda message: patched(message, at, bytes([message[at] ^ 1]))


def _another_key(message: bytes) -> bytes:
    """The server puts a mask key of its own in client 2's place, and makes the digest fit."""
    roster = Roster.from_bytes(message)
    members = roster.members.copy()
    members["mask_key"][2] = np.void(KeyPair(b"m" * 32).public)
    return replace(roster, members=members, digest=roster_digest(members)).to_bytes()


def _split_view(message: bytes) -> bytes:
    """Client 0 was told that client 3 was lost too, and signed that."""
    consents = Consents.from_bytes(message)
    rows = consents.signatures.copy()
    told = survivors_statement(consents.session, np.array([0, 1], np.uint32))
    rows["signature"][0] = np.void(identity_of(0).sign(SURVIVORS, told))
    return replace(consents, signatures=rows).to_bytes()


def _holders(change: Callable[[list[int], int], list[int]]) -> Forge:
    """Another list of the holders that the first sender of a box drew."""

    def forge(message: bytes) -> bytes:
        delivery = Delivery.from_bytes(message)
        boxes = delivery.boxes.copy()
        boxes["holders"][0] = change(boxes["holders"][0].tolist(), int(boxes["client"][0]))
        return replace(delivery, boxes=boxes).to_bytes()

    return forge


def _exchanged(holders: list[int], sender: int) -> list[int]:
    other = next(client for client in range(4) if client not in (*holders, sender))
    return sorted((1, other))


ACTIVE: dict[str, tuple[str, str, Stage, Forge, str, str]] = {
    "an advert with a forged signature": (
        "complete, active",
        "server",
        Stage.ADVERTISE_KEYS,
        _flipped(84),
        "client 1",
        "did not sign",
    ),
    "an advert without a signature": (
        "complete, active",
        "server",
        Stage.ADVERTISE_KEYS,
        lambda m: _shorter(m, 64),
        "client 1",
        "must be signed",
    ),
    "a roster with a forged signature": (
        "complete, active",
        "client",
        Stage.SHARE_KEYS,
        _flipped(61 + 2 * 132 + 68),
        "client 2",
        "did not sign",
    ),
    "a roster with a key of the server's": (
        "complete, active",
        "client",
        Stage.SHARE_KEYS,
        _another_key,
        "client 2",
        "did not sign",
    ),
    "holders that were not drawn": (
        "sparse, active",
        "client",
        Stage.MASKED_INPUT,
        _holders(_exchanged),
        "client 0",
        "not sealed",
    ),
    "a holder that is there twice": (
        "sparse, active",
        "client",
        Stage.MASKED_INPUT,
        _holders(lambda *_: [1, 1]),
        "client 0",
        "not distinct others",
    ),
    "holders without the receiver": (
        "sparse, active",
        "client",
        Stage.MASKED_INPUT,
        _holders(lambda *_: [2, 3]),
        "client 0",
        "not distinct others",
    ),
    "survivors that did not share their keys": (
        "complete, active",
        "client",
        Stage.CONSISTENCY_CHECK,
        lambda m: patched(m, 68, b"\x09"),
        "server",
        "not of the roster",
    ),
    "a consent with a forged signature": (
        "complete, active",
        "server",
        Stage.CONSISTENCY_CHECK,
        _flipped(52),
        "client 1",
        "did not sign",
    ),
    "a signature for other survivors": (
        "complete, active",
        "client",
        Stage.UNMASKING,
        _split_view,
        "client 0",
        "did not sign",
    ),
    "a forged signature among the consents": (
        "complete, active",
        "client",
        Stage.UNMASKING,
        _flipped(56 + 2 * 68 + 4),
        "client 3",
        "did not sign",
    ),
    "a signature too few": (
        "complete, active",
        "client",
        Stage.UNMASKING,
        lambda m: _shorter(m, 68, 52),
        "server",
        "2 signatures",
    ),
}


def malicious_active() -> list[dict[str, Any]]:
    """Messages that must be refused where the server may lie, made of those of the two rounds against such a server."""
    return [_forged(name, *row) for name, row in ACTIVE.items()]


# --- what goes into a round -------------------------------------------------------------------------------------------


ENCODED: list[tuple[float, int, Bits]] = [(8.0, 100, 32), (0.5, 20, 16), (0.1, 1000, 20), (1.5, 7, 64)]


def numbers() -> dict[str, Any]:
    """Packed words, encoded updates, digests and certificates."""
    key = bytes(range(32))
    return {
        "packing": [_packed(bits, count) for bits in get_args(Bits) for count in (1, 2, 3)],
        "encoding": [_encoded(*row, key) for row in ENCODED],
        "layout": _layout(Layout(("1.weight", "1.bias", "größe"), ((10, 64), (10,), ()))),
        "distributed_noise": [_codec(noise, key) for noise in get_args(Noise)],
        "certificates": [_certified(policy, clients, least) for policy, clients, least in CERTIFIED],
    }


def _packed(bits: Bits, count: int) -> dict[str, Any]:
    words = vector_of(count, count, bits)
    return {"bits": bits, "words": words.tolist(), "packed": bytes(pack(words, bits)).hex()}


def _encoded(clip: float, population: int, bits: Bits, key: bytes) -> dict[str, Any]:
    encoding, update, weight = Encoding.fit(clip, population, bits), np.array([0.1, -0.25, 2.0, -1e-9, 0.0], np.float32), 0.75
    words, clipped = encoding.encode(update, weight, key)
    return {
        "clip": clip,
        "population": population,
        "bits": bits,
        "scale": encoding.update.scale,
        "weight_scale": encoding.weight.scale,
        "bytes": encoding.to_bytes().hex(),
        "digest": encoding.digest().hex(),
        "update": update.tolist(),
        "weight": weight,
        "rounding_key": key.hex(),
        "words": words.tolist(),
        "clipped": clipped,
    }


def _layout(layout: Layout) -> dict[str, Any]:
    octets = layout.to_bytes()
    return {"names": layout.names, "shapes": layout.shapes, "bytes": octets.decode(), "digest": layout.digest().hex()}


def _codec(noise: Noise, key: bytes) -> dict[str, Any]:
    codec = DistributedCodec(noise, 650, 1.0, 20, 1234.5, 60000.25, 7, key, 0.5)
    octets = codec.to_bytes()
    found = {"rotation_key": key.hex(), "bytes": octets.hex(), "digest": hashlib.sha256(octets).hexdigest()}
    return {**asdict(codec), **found}


CERTIFIED = [
    *((Policy(), clients, 2) for clients in (4, 64, 100, 500, 2000, 20_000)),
    *((Policy(adversary="active"), clients, 2) for clients in (4, 64, 100, 500, 2000, 20_000)),
    (Policy(max_corrupt=0.2, max_dropout=0.25, security_bits=64, recovery_bits=20), 700, 540),
    (Policy(graph="sparse", adversary="active", max_corrupt=0.3, max_dropout=0.3), 2000, 2),
    (Policy(graph="complete", max_dropout=0.7), 30, 12),
    (Policy(graph="sparse", adversary="active", neighbours=100, threshold=64), 600, 2),
]


def _certified(policy: Policy, clients: int, least: int) -> dict[str, Any]:
    found = asdict(certify(policy, clients, least))
    logs = {name: round(value, 6) if math.isfinite(value) else None for name, value in found.items() if name.startswith("log2")}
    return {"policy": asdict(policy), "minimum_clients": least, **found, **logs}


def main() -> None:
    """Write all files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {name.replace(", ", "_"): round_of(name) for name in POLICIES}
    files |= {f"complete_{bits}_bits": round_of("complete", bits) for bits in NARROW}
    files |= {"malicious": malicious(), "malicious_active": malicious_active(), "numbers": numbers()}
    for name, content in files.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
