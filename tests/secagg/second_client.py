"""A second client of the secure aggregation protocol, written from docs/secagg.md and the vectors alone.

It imports nothing of privfl, so that the page and the code cannot drift apart unseen: where they differ, this client and the
server do not understand each other. It is a check of the page, not a model of style or speed.
"""

import hashlib
import math
import secrets
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from second_numbers import Malformed, Words, certificate, demand, keystream, packed, word_type

VERSION = 2
SERVER = 2**32 - 1
PRIME = 32_771
LIMBS = 18
STAGES = ("advertise_keys", "share_keys", "masked_input", "consistency_check", "unmasking")
ADVERT, ROSTER, SHARES, DELIVERY, MASKED_INPUT, SURVIVORS, CONSENT, CONSENTS, REVEAL, REFUSAL = range(1, 11)
LABELS = {
    name: b"privfl secagg " + name.encode()
    for name in (
        *("run", "parameters", "advert", "roster", "session", "channel", "share", "commitment"),
        *("sharers", "mask", "self", "survivors"),
    )
}


class Refused(Exception):  # noqa: N818
    """A request that the client does not answer, with the stage that was due; the server is at fault."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage, self.reason = stage, reason


@dataclass(frozen=True)
class Parameters:
    """What a round is about, with the JSON names of the vectors."""

    run: str
    round: int
    length: int
    bits: int
    population: int
    cohort: int
    context: bytes
    minimum_clients: int
    policy: Mapping[str, Any]
    attempt: int = 0

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Parameters":
        """Return the parameters that a vector's object states."""
        return cls(**{**fields, "context": bytes.fromhex(fields["context"])})

    @property
    def active(self) -> bool:
        """Whether the server may lie."""
        return bool(self.policy["adversary"] == "active")

    def encoded(self) -> bytes:
        """Return the bytes that are hashed."""
        p = self.policy
        run = hashlib.sha256(LABELS["run"] + self.run.encode()).digest()
        head = struct.pack("<B32sIIQB", VERSION, run, self.round, self.attempt, self.length, self.bits)
        sizes = struct.pack("<QQQ32s", self.population, self.cohort, self.minimum_clients, self.context)
        graph = ("auto", "complete", "sparse").index(p["graph"])
        shares = struct.pack("<BBddd", graph, self.active, p["roster_share"], p["max_corrupt"], p["max_dropout"])
        bits = (p["security_bits"], p["recovery_bits"], p["neighbours"] or 0, p["threshold"] or 0)
        return head + sizes + shares + struct.pack("<IIQQ", *bits)


# Keys and messages


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """Return HKDF-SHA256 with 32 bytes."""
    return HKDF(SHA256(), 32, salt, info).derive(secret)


def public(private: bytes) -> bytes:
    """Return the public X25519 key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def shared_key(label: str, private: bytes, peer: bytes, salt: bytes) -> bytes:
    """Return the key that two clients share for a label."""
    secret = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(peer))
    return hkdf(secret, salt, LABELS[label] + b"".join(sorted([public(private), peer])))


def signed_by(key: bytes, signature: bytes, text: bytes) -> bool:
    """Return whether an Ed25519 signature is genuine."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, text)
    except InvalidSignature:
        return False
    return True


def limbs(secret: bytes) -> list[int]:
    """Return the 18 limbs of 15 bits."""
    number = int.from_bytes(secret, "little")
    return [number >> 15 * i & 0x7FFF for i in range(LIMBS)]


def u32(*numbers: int) -> bytes:
    """Return numbers of four bytes."""
    return struct.pack(f"<{len(numbers)}I", *numbers)


def table(rows: Mapping[int, bytes]) -> bytes:
    """Return a table, ascending by client."""
    return u32(len(rows)) + b"".join(u32(number) + rows[number] for number in sorted(rows))


class Reader:
    """The payload of a message from the server, taken from the front."""

    def __init__(self, message: bytes, kind: int, round_index: int) -> None:
        demand(len(message) >= 20, "cut short")
        magic, version, came, of_round, sender, length = struct.unpack("<2sBBIIQ", message[:20])
        demand(magic == b"pf" and version == VERSION and came == kind, f"not a message of type {kind}")
        demand(of_round == round_index and sender == SERVER, "of another round or sender")
        demand(length == len(message) - 20, "of another length than announced")
        self.rest = message[20:]

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        demand(len(self.rest) >= count, "cut short")
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def number(self) -> int:
        """Return the next u32."""
        return int.from_bytes(self.take(4), "little")

    def table(self, width: int) -> dict[int, bytes]:
        """Return a table by client; ``width`` bytes follow a client's number."""
        count = self.number()
        rows = [self.take(4 + width) for _ in range(count)] if count * (4 + width) <= len(self.rest) else []
        demand(len(rows) == count, "cut short")
        numbers = [int.from_bytes(row[:4], "little") for row in rows]
        demand(all(a < b for a, b in pairwise([*numbers, SERVER])), "a table out of order")
        return {number: row[4:] for number, row in zip(numbers, rows, strict=True)}

    def end(self) -> None:
        """Check that nothing is left."""
        demand(not self.rest, "bytes too many")


# The client


@dataclass
class Draws:
    """What a client draws for an attempt; the vectors state it, a live client draws it afresh."""

    channel: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    mask: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    seed: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    coefficients: Sequence[Sequence[int]] | None = None
    holders: Sequence[int] | None = None

    def polynomials(self, t: int) -> Sequence[Sequence[int]]:
        """Return t rows of 36 coefficients, the secrets' limbs first."""
        drawn = self.coefficients or [[secrets.randbelow(PRIME) for _ in range(2 * LIMBS)] for _ in range(t)]
        return [limbs(self.seed) + limbs(self.mask), *drawn[1:]]

    def chosen(self, others: Sequence[int], k: int) -> list[int]:
        """Return k holders among the others."""
        return sorted(self.holders or secrets.SystemRandom().sample(others, k))


@dataclass
class Memory:
    """What a client took part in: its last attempt, and the last of which it helped to release the sum."""

    attempt: tuple[int, int] = (-1, -1)
    released: tuple[int, int] = (-1, -1)

    def begin(self, attempt: tuple[int, int]) -> None:
        """Note an attempt before the advert leaves."""
        demand(attempt > self.attempt and attempt[0] > self.released[0], "this attempt is over")
        self.attempt = attempt

    def release(self, attempt: tuple[int, int]) -> None:
        """Note an attempt before its survivors are signed or shares are revealed."""
        demand(attempt[0] > self.released[0] or attempt == self.released, "another attempt was released")
        self.released = attempt


@dataclass
class Client:
    """One client in one attempt: it is given each request in turn and returns the answer or refuses.

    ``global_model`` is float32; ``vector`` has words of the parameters' bits. Against an active server the client needs its
    ``identity`` and the ``directory`` of all public identities.
    """

    number: int
    parameters: Parameters
    global_model: Words
    vector: Words
    draws: Draws = field(default_factory=Draws)
    identity: Ed25519PrivateKey | None = None
    directory: Mapping[int, bytes] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    due: int = 0

    @property
    def stage(self) -> str:
        """The stage that is due."""
        return STAGES[self.due]

    def answer(self, request: bytes | None) -> bytes:
        """Return the answer to the request of the stage that is due; raises Refused, after which nothing is answered."""
        steps = [self._advertise, self._share, self._mask, self._consent, self._reveal]
        if self.due >= len(STAGES):
            raise Refused(STAGES[-1], "the round is over")
        stage, step, self.due = self.stage, steps[self.due], len(STAGES)
        try:
            answer = step(request or b"")
        except Malformed as error:
            self.draws = Draws(b"", b"", b"")
            raise Refused(stage, str(error)) from error
        skipped = stage == "masked_input" and not self.parameters.active
        self.due = STAGES.index(stage) + 1 + skipped
        return answer

    def refusal(self, error: Refused) -> bytes:
        """Return the message that tells the server."""
        stage = bytes([STAGES.index(error.stage) + 1])
        return self._frame(REFUSAL, u32(self.parameters.attempt) + stage + u32(SERVER) + error.reason.encode())

    def _frame(self, kind: int, payload: bytes) -> bytes:
        head = struct.pack("<2sBBIIQ", b"pf", VERSION, kind, self.parameters.round, self.number, len(payload))
        return head + payload

    def _read(self, request: bytes, kind: int) -> Reader:
        reader = Reader(request, kind, self.parameters.round)
        demand(kind == ROSTER or reader.take(32) == self.session, "of another session")
        return reader

    @property
    def _attempt(self) -> tuple[int, int]:
        return self.parameters.round, self.parameters.attempt

    def _sign(self, text: bytes) -> bytes:
        assert self.identity is not None
        return self.identity.sign(text)

    def _advert_text(self, number: int, keys: bytes) -> bytes:
        digest = hashlib.sha256(LABELS["parameters"] + self.parameters.encoded()).digest()
        return LABELS["advert"] + bytes([VERSION]) + u32(self.parameters.round, number) + keys + digest

    def _advertise(self, request: bytes) -> bytes:
        demand(not request, "nothing is sent before an advert")
        self.memory.begin(self._attempt)
        self.keys = public(self.draws.channel) + public(self.draws.mask)
        signature = self._sign(self._advert_text(self.number, self.keys)) if self.parameters.active else b""
        return self._frame(ADVERT, self.keys + signature)

    def _read_roster(self, request: bytes) -> None:
        p, reader = self.parameters, self._read(request, ROSTER)
        self.n, signed, digest = reader.number(), reader.take(1)[0], reader.take(32)
        demand(signed == p.active, "signed adverts are for an active server")
        members = reader.table(128 if signed else 64)
        reader.end()
        demand(members.get(self.number, b"")[:64] == self.keys, "without this client's own keys")
        demand(len(members) <= self.n, "more members than counted")
        demand(not p.active or len(members) == self.n, "fewer members than counted")
        self.certificate = certificate(p.policy, p.minimum_clients, p.cohort, self.n)
        self.drawn = self.certificate.graph == "sparse" and p.active
        self.whole = self.certificate.graph == "complete" or p.active
        demand(len(members) == (self.n if self.whole else self.certificate.neighbours + 1), "members too few or too many")
        self.members = {number: row[:64] for number, row in members.items()}
        rows = b"".join(u32(number) + row for number, row in self.members.items())
        own = hashlib.sha256(LABELS["roster"] + rows).digest()
        demand(not self.whole or own == digest, "of another digest")
        model = hashlib.sha256(np.asarray(self.global_model, "<f4").tobytes()).digest()
        self.session = hashlib.sha256(LABELS["session"] + p.encoded() + model + u32(self.n) + digest).digest()
        keys = [key for row in self.members.values() for key in (row[:32], row[32:])]
        demand(len(set(keys)) == len(keys), "a key appears twice")
        demand(all(self._usable(key) for key in keys), "a key that is no key")
        for number, row in members.items() if p.active else ():
            demand(number in self.directory, f"client {number} is not in the directory")
            text = self._advert_text(number, row[:64])
            demand(signed_by(self.directory[number], row[64:], text), f"client {number} did not sign")

    def _usable(self, key: bytes) -> bool:
        try:
            X25519PrivateKey.from_private_bytes(self.draws.channel).exchange(X25519PublicKey.from_public_bytes(key))
        except ValueError:
            return False
        return int.from_bytes(key, "little") < 2**255 - 19

    def channel_key(self, other: int) -> bytes:
        """Return the key of the boxes between this client and another."""
        return shared_key("channel", self.draws.channel, self.members[other][:32], self.session)

    def _box_of(self, sender: int, receiver: int, holders: Sequence[int]) -> tuple[bytes, bytes]:
        data = u32(sender, receiver) + self.session + (u32(*sorted([*holders, sender])) if self.drawn else b"")
        return u32(sender) + bytes(8), data

    def tags(self, owner: int, holder: int, shares: bytes) -> bytes:
        """Return the two tags of a holder's shares."""
        both = ((kind, shares[36 * kind : 36 * kind + 36]) for kind in (0, 1))
        text = LABELS["share"] + self.session + u32(owner, holder)
        return b"".join(hashlib.sha256(text + bytes([kind]) + share).digest()[:16] for kind, share in both)

    def _share(self, request: bytes) -> bytes:
        self._read_roster(request)
        others = [number for number in self.members if number != self.number]
        self.holders = self.draws.chosen(others, self.certificate.neighbours) if self.drawn else others
        rows, self.shares = self.draws.polynomials(self.certificate.threshold), dict[int, bytes]()
        for x, holder in enumerate(sorted([*self.holders, self.number]), 1):
            values = [sum(row[i] * x**j for j, row in enumerate(rows)) % PRIME for i in range(2 * LIMBS)]
            self.shares[holder] = struct.pack("<36H", *values)
        boxes = dict[int, bytes]()
        for holder in self.holders:
            nonce, data = self._box_of(self.number, holder, self.holders)
            box = ChaCha20Poly1305(self.channel_key(holder)).encrypt(nonce, self.shares[holder], data)
            boxes[holder] = box + self.tags(self.number, holder, self.shares[holder])
        commitment = hkdf(self.draws.seed, self.session, LABELS["commitment"])
        own = self.tags(self.number, self.number, self.shares[self.number])
        return self._frame(SHARES, self.session + commitment + own + table(boxes))

    def _open(self, sender: int, row: bytes, holders: Sequence[int]) -> bytes | None:
        nonce, data = self._box_of(sender, self.number, holders)
        try:
            shares = ChaCha20Poly1305(self.channel_key(sender)).decrypt(nonce, row[:88], data)
        except InvalidTag:
            return None
        fits = max(struct.unpack("<36H", shares)) < PRIME and self.tags(sender, self.number, shares) == row[88:120]
        return shares if fits else None

    def _read_delivery(self, request: bytes) -> None:
        reader = self._read(request, DELIVERY)
        self.sharers, width = set(reader.table(0)), reader.number()
        demand(width == (self.certificate.neighbours if self.drawn else 0), "holders too few or too many")
        rows = reader.table(120 + 4 * width)
        reader.end()
        demand(self.sharers <= set(self.members), "a sharer that is not a member")
        demand((self.number in self.sharers) == self.parameters.active, "this client among the sharers, or not")
        others = self.sharers - {self.number}
        demand(set(rows) <= others if self.drawn else set(rows) == others, "boxes of others than the sharers")
        needed = self.certificate.threshold - (self.certificate.graph == "complete")
        demand(len(others & set(self.holders)) >= needed, "too few holders are left")
        self.drew = {sender: struct.unpack(f"<{width}I", row[120:]) for sender, row in rows.items()}
        self.drew[self.number] = tuple(self.holders)
        self.held = {self.number: self.shares[self.number]}
        for sender, row in rows.items():
            holders = self.drew[sender]
            if self.drawn:
                demand(all(a < b for a, b in pairwise(holders)), "holders twice or out of order")
                allowed = set(self.members) - {sender}
                demand(self.number in holders and set(holders) <= allowed, "holders that are not others")
            if (shares := self._open(sender, row, holders)) is not None:
                self.held[sender] = shares
        failed = len(rows) + 1 - len(self.held)
        corrupt = max(1, math.ceil(self.parameters.policy["max_corrupt"] * self.n - 1e-9))
        demand(failed <= corrupt, f"{failed} boxes hold no shares")
        self.peers = (others & set(self.holders)) | set(rows)

    def mask_keys(self, masking: bytes, peers: Sequence[int]) -> dict[int, bytes]:
        """Return the keys of the masks by peer, that of the self mask under the client's own number."""
        keys = {j: shared_key("mask", self.draws.mask, self.members[j][32:], masking) for j in peers}
        return {**keys, self.number: hkdf(self.draws.seed, masking, LABELS["self"])}

    def _mask(self, request: bytes) -> bytes:
        self._read_delivery(request)
        masking = self.session
        if self.parameters.active:
            masking = hashlib.sha256(LABELS["sharers"] + self.session + u32(*sorted(self.sharers))).digest()
        bits, dtype = self.parameters.bits, word_type(self.parameters.bits)
        masked = np.array(self.vector, dtype)
        for peer, key in self.mask_keys(masking, sorted(self.peers)).items():
            mask = keystream(key, len(masked), dtype)
            masked = masked - mask if peer < self.number else masked + mask
        return self._frame(MASKED_INPUT, self.session + packed(masked, bits))

    def _read_survivors(self, request: bytes) -> None:
        reader = self._read(request, SURVIVORS)
        count, self.survivors = reader.number(), list(reader.table(0))
        reader.end()
        demand(self.number in self.survivors, "survivors without this client")
        demand(set(self.survivors) <= self.sharers | {self.number}, "a survivor that is no sharer")
        demand(count == len(self.survivors) or (not self.whole and len(self.survivors) < count <= self.n), "counted falsely")
        demand(count >= self.certificate.survivors, "too few survivors")

    def _survivors_text(self) -> bytes:
        return LABELS["survivors"] + self.session + u32(*self.survivors)

    def _consent(self, request: bytes) -> bytes:
        self._read_survivors(request)
        self.memory.release(self._attempt)
        return self._frame(CONSENT, self.session + self._sign(self._survivors_text()))

    def _reveal(self, request: bytes) -> bytes:
        signers = set[int]()
        if self.parameters.active:
            reader = self._read(request, CONSENTS)
            consents = reader.table(64)
            reader.end()
            signers = set(consents)
            demand(signers <= set(self.survivors), "a signature of somebody who is no survivor")
            demand(len(signers) >= self.certificate.quorum, f"{len(signers)} signatures")
            for number, signature in consents.items():
                genuine = signed_by(self.directory[number], signature, self._survivors_text())
                demand(genuine, f"client {number} did not sign")
        else:
            self._read_survivors(request)
        self.memory.release(self._attempt)
        shares = dict[int, bytes]()
        for owner, held in self.held.items():
            if not self.drawn or len(signers.intersection(self.drew[owner])) >= self.certificate.threshold:
                kind = owner not in self.survivors
                shares[owner] = bytes([kind]) + held[36 * kind : 36 * kind + 36]
        self.draws = Draws(b"", b"", b"")
        return self._frame(REVEAL, self.session + table(shares))
