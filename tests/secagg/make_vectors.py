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
from typing import Any, NamedTuple, get_args

import numpy as np
from secagg_cohort import COMPLETE, COMPLETE_ACTIVE, Group, entropy, group, identity_of, identity_private, patched, vector_of

from privfl.privacy.distributed import DistributedCodec, Noise
from privfl.secagg import field, shamir
from privfl.secagg.agreement import MASK, KeyPair, self_mask_key
from privfl.secagg.certificate import Policy, certify
from privfl.secagg.encoding import Encoding
from privfl.secagg.identity import SURVIVORS
from privfl.secagg.messages import Consents, Delivery, Roster, survivors_statement
from privfl.secagg.packing import TYPES, Bits, pack
from privfl.secagg.prg import Keystream, Words
from privfl.secagg.session import Stage, roster_digest, round_context
from privfl.secagg.sharing import tags
from privfl.vectors import Layout

FOLDER = Path(__file__).parents[1] / "vectors" / "secagg"
LOST = {2: Stage.MASKED_INPUT}

# The graphs of the sparse rounds are small and certified all the same: of five others one may be corrupt and one lost.
_SPARSE = Policy(graph="sparse", neighbours=4, threshold=3, max_dropout=0.2)
ROUNDS: dict[str, tuple[Policy, int, Bits]] = {
    "complete": (COMPLETE, 4, 32),
    "complete_16_bits": (COMPLETE, 4, 16),
    "complete_20_bits": (COMPLETE, 4, 20),
    "complete_five": (COMPLETE, 5, 32),
    "complete_active": (COMPLETE_ACTIVE, 4, 32),
    "sparse": (replace(_SPARSE, adversary="semi_honest"), 6, 32),
    "sparse_active": (_SPARSE, 6, 32),
}


def cohort(name: str) -> Group:
    """The clients and the server of a round before it begins.

    Entropy and identities are those of ``secagg_cohort.entropy``: SHAKE-256 of a name and a counter.
    """
    policy, clients, bits = ROUNDS[name]
    return group(policy, clients, seed="golden", bits=bits, minimum_clients=3)


def round_of(name: str) -> dict[str, Any]:
    """One round over five words, of which client 2 is lost before it sends its vector."""
    one = cohort(name)
    messages: list[dict[str, Any]] = []
    while (stage := one.server.stage) is not None:
        if stage is Stage.MASKED_INPUT:
            graph, clients = one.server.certificate, {str(client): secrets_of(one, client) for client in one.numbers}
        silent = {client for client, at in LOST.items() if at is stage}
        for client in sorted(one.server.awaited - silent):
            request = one.server.request(client)
            answer = one.answer(client, request)
            said = {"request": request.hex() if request is not None else None, "answer": answer.hex()}
            messages.append({"stage": str(stage), "client": client, **said})
            one.receive(answer)
        one.server.close()
    unmasked, parameters = one.server.result(), one.parameters
    assert graph is not None
    return {
        "parameters": {**asdict(parameters), "context": parameters.context.hex()},
        "parameters_bytes": parameters.to_bytes().hex(),
        "certificate": {name: value for name, value in asdict(graph).items() if not name.startswith("log2")},
        "global_model": [0.0, 0.0, 0.0],
        "session": one.server._session.hex(),
        "masking": one.server._masking.hex(),
        "sharers": one.numbers,
        "clients": clients,
        "messages": messages,
        "survivors": list(unmasked.survivors),
        "sum": unmasked.words_D.tolist(),
    }


def secrets_of(one: Group, client: int) -> dict[str, Any]:
    """What a client has to itself when it has shared its keys, and what it makes of it; the lost one's too."""
    it, session, masking = one.clients[client], one.server._session, one.server._masking
    own = entropy(one.seed, client)
    polynomials = [own(32) for _ in range(4)][3]
    found = one.server.certificate
    assert found is not None
    rows = shamir.split([it._seed, it._mask.private], len(it._holders), found.threshold, polynomials).astype("<u2")
    holders = it._holders.tolist()
    dealt = {holder: row.tobytes() for holder, row in zip(holders, rows, strict=True)}
    peers = [int(peer) for peer in one.server._peers_of(client)]
    masks = {"self": self_mask_key(it._seed, masking)} | {
        str(peer): it._mask.shared_key(it._members[peer][1], masking, MASK) for peer in peers
    }
    identity = {"private": identity_private(client).hex(), "public": identity_of(client).public.hex()}
    return {
        "identity": identity if one.parameters.active else None,
        "channel_private": it._channel.private.hex(),
        "channel_public": it._channel.public.hex(),
        "mask_private": it._mask.private.hex(),
        "mask_public": it._mask.public.hex(),
        "seed": it._seed.hex(),
        "holders": holders,
        "polynomials": coefficients(it._seed, it._mask.private, found.threshold, polynomials),
        "shares": {str(holder): share.hex() for holder, share in dealt.items()},
        "tags": {str(holder): tags(session, client, holder, share).hex() for holder, share in dealt.items()},
        "channel_keys": {str(other): it._channel_with(other).hex() for other in holders if other != client},
        "peers": peers,
        "mask_keys": {peer: key.hex() for peer, key in masks.items()},
        "mask_words": {peer: first_words(key, one.parameters.bits) for peer, key in masks.items()},
        "vector": one.vector(client).tolist(),
    }


def coefficients(seed: bytes, mask_key: bytes, threshold: int, key: bytes) -> list[list[int]]:
    """Row j has the coefficients of x^j: of the 18 limbs of the seed, then of the 18 of the mask key."""
    constant = np.concatenate([field.limbs(seed), field.limbs(mask_key)])
    random = field.uniform((threshold - 1) * len(constant), key).reshape(threshold - 1, -1)
    return [constant.tolist(), *random.tolist()]


def first_words(key: bytes, bits: Bits) -> list[int]:
    """Five words of the type that vectors of so many bits are computed in."""
    words: Words = np.empty(5, TYPES[bits])
    Keystream(key).fill(words)
    return [int(word) for word in words]


Forge = Callable[[bytes], bytes]

REFUSED, LEFT_OUT, LIAR = "refused", "taken, without a share", "taken, and client 1 is named when the round is over"


class Forgery(NamedTuple):
    """Made of the message that stands at that stage of a round: for the server client 1's answer, to client 1 its request.

    What comes of it: if it is refused, the peer that the error names and a part of its words; if a share is left out, whose.
    """

    round: str
    receiver: str
    stage: Stage
    forge: Forge
    peer: str | None = None
    words: str = ""
    outcome: str = REFUSED


def _server(stage: Stage, forge: Forge, words: str, name: str = "complete") -> Forgery:
    return Forgery(name, "server", stage, forge, "client 1", words)


def _client(stage: Stage, forge: Forge, words: str, name: str = "complete", peer: str = "server") -> Forgery:
    return Forgery(name, "client 1", stage, forge, peer, words)


def _flipped(*at: int) -> Forge:
    def forge(message: bytes) -> bytes:
        for place in at:
            message = patched(message, place, bytes([message[place] ^ 1]))
        return message

    return forge


def _wrong_share(value: int) -> Forge:
    """The first share of a Reveal, which is client 0's, with another first number."""
    return lambda message: patched(message, 56 + 5, value.to_bytes(2, "little"))


_A, _K, _V, _U = Stage.ADVERTISE_KEYS, Stage.SHARE_KEYS, Stage.MASKED_INPUT, Stage.UNMASKING
FORGERIES: dict[str, Forgery] = {
    "cut short": _server(_A, lambda m: m[:19], "cut short"),
    "another magic": _server(_A, lambda m: patched(m, 0, b"pg"), "of protocol"),
    "another version": _server(_A, lambda m: patched(m, 2, b"\x63"), "version 99"),
    "another type": _server(_A, lambda m: patched(m, 3, b"\x05"), "type 5 came instead"),
    "another round": _server(_A, lambda m: patched(m, 4, b"\x04"), "must be of round 3"),
    "in another's name": _server(_A, lambda m: patched(m, 8, b"\x02"), "in the name of sender 2"),
    "a byte too many": _server(_A, lambda m: m + b"\0", "were announced"),
    "a key that is an alias": _server(_A, lambda m: patched(m, 20, b"\xff" * 32), "below 2^255"),
    "one key for both": _server(_A, lambda m: patched(m, 20, m[52:84]), "two of its own"),
    "a box too few": _server(_K, lambda m: _shorter(m, 124, 116), "sent 2 boxes"),
    "a box for itself": _server(_K, lambda m: patched(m, 120 + 124, b"\x01"), "for itself"),
    "another session": _server(_V, lambda m: patched(m, 20, bytes(32)), "another session"),
    "a word too few": _server(_V, lambda m: _shorter(m, 4), "must be 20"),
    "a share of the wrong kind": _server(_U, lambda m: patched(m, 60, b"\x01"), "of the wrong kind"),
    "an unknown kind of share": _server(_U, lambda m: patched(m, 60, b"\x02"), "unknown kind"),
    "a share of a stranger": _server(_U, lambda m: patched(m, 56 + 3 * 41, b"\x09"), "never sent"),
    "a share that is no element of the field": _server(_U, _wrong_share(32_771), "not below 32771"),
    "a wrong share": Forgery("complete_five", "server", _U, _wrong_share(7), outcome=LIAR),
    "a roster of another key": _client(_K, lambda m: patched(m, 61 + 68 + 4, bytes(32)), "other keys"),
    "a roster of another digest": _client(_K, lambda m: patched(m, 25, bytes(32)), "digest"),
    "a roster too short": _client(_K, lambda m: _shorter(m, 68, 57), "must list"),
    "a roster below two thirds": _client(_K, lambda m: patched(_shorter(m, 2 * 68, 57, 2), 20, b"\x02"), "at least 3"),
    "a box that was altered": Forgery("complete", "client 1", _V, _flipped(90), "client 0", outcome=LEFT_OUT),
    "a tag that was altered": Forgery("complete", "client 1", _V, _flipped(170), "client 0", outcome=LEFT_OUT),
    "two boxes that were altered": _client(_V, _flipped(90, 90 + 124), "2 of 3 boxes hold no shares"),
    "a survivor out of order": _client(_U, lambda m: patched(m, 60, m[64:68] + m[60:64]), "out of order"),
    "survivors without the client": _client(_U, lambda m: patched(m, 64, b"\x02"), "without this client"),
    "fewer survivors than counted": _client(_U, lambda m: patched(m, 52, b"\x04"), "are counted"),
}


def _shorter(message: bytes, size: int, count_at: int | None = None, rows: int = 1) -> bytes:
    """Without its last bytes, with the header's length and, where there is one, the table's count put right."""
    length = len(message) - 20 - size
    cut = patched(message[:-size], 12, length.to_bytes(8, "little"))
    if count_at is None:
        return cut
    return patched(cut, count_at, (int.from_bytes(cut[count_at : count_at + 4], "little") - rows).to_bytes(4, "little"))


def malicious() -> list[dict[str, Any]]:
    """Messages that must be refused or survived, of rounds against a semi-honest server."""
    return [_forged(name, row) for name, row in FORGERIES.items()]


def _forged(name: str, row: Forgery) -> dict[str, Any]:
    one = cohort(row.round).to(row.stage, LOST)
    request = one.server.request(1)
    message = one.answer(1, request) if row.receiver == "server" else request
    assert message is not None
    found = {"name": name, "round": row.round, "receiver": row.receiver, "stage": str(row.stage)}
    found["from"] = "client 1" if row.receiver == "server" else "server"
    return {**found, "message": row.forge(message).hex(), "outcome": row.outcome, "peer": row.peer, "reason": row.words}


# --- against an active server -----------------------------------------------------------------------------------------


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
    other = next(client for client in range(6) if client not in (*holders, sender))
    return sorted([other, 1, *[one for one in holders if one != 1][1:]])


def _without(holders: list[int], sender: int) -> list[int]:
    return [client for client in range(6) if client not in (1, sender)]


_C, _FULL, _DRAWN = Stage.CONSISTENCY_CHECK, "complete_active", "sparse_active"
ACTIVE: dict[str, Forgery] = {
    "an advert with a forged signature": _server(_A, _flipped(84), "did not sign", _FULL),
    "an advert without a signature": _server(_A, lambda m: _shorter(m, 64), "must be signed", _FULL),
    "a roster with a forged signature": _client(_K, _flipped(61 + 2 * 132 + 68), "client 2 did not sign", _FULL),
    "a roster with a key of the server's": _client(_K, _another_key, "client 2 did not sign", _FULL),
    "boxes for another number of holders": _server(_K, lambda m: _shorter(m, 124, 116), "sent 3 boxes", _DRAWN),
    "holders that were not drawn": Forgery(_DRAWN, "client 1", _V, _holders(_exchanged), "client 2", outcome=LEFT_OUT),
    "a holder that is there twice": _client(_V, _holders(lambda *_: [1, 1, 3, 4]), "twice or out of order", _DRAWN),
    "holders out of order": _client(_V, _holders(lambda holders, _: holders[::-1]), "twice or out of order", _DRAWN),
    "holders without the receiver": _client(_V, _holders(_without), "that are not others", _DRAWN),
    "survivors that did not share their keys": _client(_C, lambda m: patched(m, 68, b"\x09"), "not of the roster", _FULL),
    "a consent with a forged signature": _server(_C, _flipped(52), "did not sign", _FULL),
    "a signature for other survivors": _client(_U, _split_view, "client 0 did not sign", _FULL),
    "a forged signature among the consents": _client(_U, _flipped(56 + 2 * 68 + 4), "client 3 did not sign", _FULL),
    "a signature too few": _client(_U, lambda m: _shorter(m, 68, 52), "2 signatures", _FULL),
    "a reveal after its signature was refused": _server(_U, lambda m: patched(m, 3, b"\x07"), "type 7 came instead", _FULL),
}


def malicious_active() -> list[dict[str, Any]]:
    """The same of the rounds against a server that may lie."""
    return [_forged(name, row) for name, row in ACTIVE.items()]


# --- what goes into a round -------------------------------------------------------------------------------------------


ENCODED: list[tuple[float, int, Bits]] = [(8.0, 100, 32), (0.5, 20, 16), (0.1, 1000, 20), (1.5, 7, 64)]


def numbers() -> dict[str, Any]:
    """Packed words, encoded updates, digests and certificates."""
    key = bytes(range(32))
    return {
        "packing": [_packed(bits, count) for bits in get_args(Bits) for count in (1, 2, 3)],
        "encoding": [_encoded(*row, key) for row in ENCODED],
        "layout": _layout(Layout(("1.weight", "1.bias", "größe"), ((10, 64), (10,), ()))),
        "context": [_context(told) for told in TOLD],
        "distributed_noise": [_codec(noise, key) for noise in get_args(Noise)],
        "certificates": [_certified(*row) for row in CERTIFIED],
    }


TOLD: list[dict[str, list[float]]] = [{}, {"norm": [0.1]}, {"control": [0.0, -1.5, 2.25], "außer": []}]


def _context(told: dict[str, list[float]]) -> dict[str, Any]:
    """The context of a layout and an encoding with these numbers beside the model."""
    layout, encoding = bytes(range(32)), bytes(range(32, 64))
    digest = round_context(layout, encoding, {name: np.array(values) for name, values in told.items()})
    return {"layout": layout.hex(), "encoding": encoding.hex(), "told": told, "digest": digest.hex()}


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


_LOOKING = Policy(adversary="semi_honest")
CERTIFIED = [
    *((_LOOKING, clients, 3, clients) for clients in (3, 4, 9, 64, 100, 500, 2000, 20_000)),
    *((Policy(), clients, 3, clients) for clients in (3, 4, 9, 64, 100, 500, 2000, 20_000)),
    *((policy, 67, 3, 100) for policy in (_LOOKING, Policy())),
    (replace(_LOOKING, max_corrupt=0.2, max_dropout=0.25, security_bits=64, recovery_bits=20), 700, 540, 700),
    (Policy(graph="sparse", max_corrupt=0.3, max_dropout=0.3), 2000, 3, 2000),
    (replace(_LOOKING, graph="complete", max_dropout=0.45), 30, 12, 40),
    (Policy(graph="sparse", neighbours=100, threshold=64), 600, 3, 700),
]


def _certified(policy: Policy, clients: int, least: int, cohort: int) -> dict[str, Any]:
    found = asdict(certify(policy, clients, least, cohort))
    logs = {name: round(value, 6) if math.isfinite(value) else None for name, value in found.items() if name.startswith("log2")}
    return {"policy": asdict(policy), "minimum_clients": least, "cohort": cohort, **found, **logs}


def main() -> None:
    """Write all files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {name: round_of(name) for name in ROUNDS}
    files |= {"malicious": malicious(), "malicious_active": malicious_active(), "numbers": numbers()}
    for name, content in files.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
