"""Writes ``tests/vectors/secagg/``: whole rounds, byte by byte, for whoever implements the other side.

Run it only when the protocol is meant to change: ``PYTHONPATH=tests/secagg python tests/secagg/make_vectors.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from secagg_cohort import POLICIES, Group, group, patched

from privfl.secagg.agreement import MASK, self_mask_key
from privfl.secagg.prg import Keystream
from privfl.secagg.session import Stage

FOLDER = Path(__file__).parents[1] / "vectors" / "secagg"
LOST = {2: Stage.MASKED_INPUT}
# Of four clients who draw two holders each, few draws leave everybody two when one is lost; this one does.
SEEDS = {"sparse, active": "golden 8"}


def round_of(name: str) -> dict[str, Any]:
    """One round of four clients over five words, one of whom is lost before it sends its vector.

    Entropy and identities are those of ``secagg_cohort.entropy``: SHAKE-256 of a name and a counter.
    """
    one = group(POLICIES[name], seed=SEEDS.get(name, "golden"))
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
    forged = []
    for name, (receiver, stage, forge, peer, words) in FORGERIES.items():
        one = group(POLICIES["complete"], seed="golden").to(stage, LOST)
        request = one.server.request(1)
        message = one.answer(1, request) if receiver == "server" else request
        assert message is not None
        forged.append(
            {
                "name": name,
                "receiver": "server" if receiver == "server" else "client 1",
                "stage": str(stage),
                "message": forge(message).hex(),
                "peer": peer,
                "reason": words,
            }
        )
    return forged


def main() -> None:
    """Write all files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in POLICIES:
        (FOLDER / f"{name.replace(', ', '_')}.json").write_text(json.dumps(round_of(name), indent=1) + "\n")
    (FOLDER / "malicious.json").write_text(json.dumps(malicious(), indent=1) + "\n")


if __name__ == "__main__":
    main()
