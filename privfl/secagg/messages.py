"""Messages between clients and server, one class for each; ``docs/secagg.md`` has their layouts as tables."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from privfl.secagg.agreement import KEY_BYTES, TAG_BYTES
from privfl.secagg.field import PRIME
from privfl.secagg.framing import (
    COUNT,
    SERVER,
    SESSION_BYTES,
    VERSION,
    Kind,
    check,
    frame,
    from_client,
    from_server,
    read_rows,
    rows,
    unframed,
)
from privfl.secagg.graph import Clients
from privfl.secagg.identity import SIGNATURE_BYTES
from privfl.secagg.shamir import SHARE_BYTES
from privfl.secagg.sharing import TAG_BYTES as SHARE_TAG_BYTES
from privfl.secagg.sharing import ShareKind

BOX_BYTES: Final = 2 * SHARE_BYTES + TAG_BYTES

Table = NDArray[np.void]
"""Rows of one of the types below, ascending by their field ``client``."""

MEMBER: Final = np.dtype([("client", "<u4"), ("channel_key", "V32"), ("mask_key", "V32")])
SIGNED_MEMBER: Final = np.dtype(
    [*((name, MEMBER[name]) for name in ("client", "channel_key", "mask_key")), ("signature", "V64")]
)
TAGS_BYTES: Final = 2 * SHARE_TAG_BYTES
BOX: Final = np.dtype([("client", "<u4"), ("box", f"V{BOX_BYTES}"), ("tags", f"V{TAGS_BYTES}")])
"""A box of shares to ``client``, or from it, and the tags of the two shares in it (:mod:`privfl.secagg.sharing`)."""

SIGNATURE: Final = np.dtype([("client", "<u4"), ("signature", "V64")])
SHARE: Final = np.dtype([("client", "<u4"), ("kind", "u1"), ("share", "<u2", (SHARE_BYTES // 2,))])

# Most holders in a row of a Delivery. With more, a client would be sent over 64 MiB with every box.
_MOST_HOLDERS: Final = 2**24
_ROSTER: Final = struct.Struct("<IB32s")
_REFUSAL: Final = struct.Struct("<IBI")
_LONGEST_REASON: Final = 1000
_STAGES: Final = 5


def box_type(degree: int) -> np.dtype[np.void]:
    """Data type of a row of a :class:`Delivery`, with the sender's ``degree`` holders; 0 unless each client drew its own."""
    return np.dtype([*((name, BOX[name]) for name in BOX.names or ()), ("holders", "<u4", (degree,))])


@dataclass(frozen=True)
class Advert:
    """Message by which a client joins a round: two fresh public keys, signed if the server may be active."""

    round: int
    sender: int
    channel_key: bytes
    mask_key: bytes
    signature: bytes = b""

    def statement(self, parameters: bytes) -> bytes:
        """The statement that is signed, with the parameters' digest: an advert is valid in one attempt of one run only."""
        return struct.pack("<BII", VERSION, self.round, self.sender) + self.channel_key + self.mask_key + parameters

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        return frame(Kind.ADVERT, self.round, self.sender, self.channel_key, self.mask_key, self.signature)

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, sender, payload = unframed(message, Kind.ADVERT)
        lengths = (2 * KEY_BYTES, 2 * KEY_BYTES + SIGNATURE_BYTES)
        check(len(payload) in lengths and sender != SERVER, Kind.ADVERT, f"{len(payload)} bytes from sender {sender}")
        keys = bytes(payload)
        return cls(number, sender, keys[:KEY_BYTES], keys[KEY_BYTES : 2 * KEY_BYTES], keys[2 * KEY_BYTES :])


@dataclass(frozen=True, eq=False)
class Roster:
    """Message with the clients that take part and their keys.

    Args:
        round: number of the round.
        clients: n, the number of all clients that take part.
        digest: digest of all n (:func:`privfl.secagg.session.roster_digest`).
        members: all n; if the server chose a sparse graph, the receiver and its neighbours.
    """

    round: int
    clients: int
    digest: bytes
    members: Table

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        head = _ROSTER.pack(self.clients, self.members.dtype == SIGNED_MEMBER, self.digest)
        return frame(Kind.ROSTER, self.round, SERVER, head, *rows(self.members))

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, payload = from_server(message, Kind.ROSTER, _ROSTER.size)
        clients, signed, digest = _ROSTER.unpack_from(payload)
        check(signed in (0, 1), Kind.ROSTER, f"signed = {signed}")
        members, rest = read_rows(payload[_ROSTER.size :], SIGNED_MEMBER if signed else MEMBER, Kind.ROSTER)
        check(len(rest) == 0, Kind.ROSTER, f"{len(rest)} bytes too many")
        return cls(number, clients, digest, members)


@dataclass(frozen=True, eq=False)
class Shares:
    """Message with a client's shares for its neighbours, in boxes that only the receiving neighbour can open.

    Args:
        round: number of the round.
        sender: the owner of the shares.
        session: the session id.
        commitment: commitment to the seed.
        own_tags: tags of the two shares that the sender holds itself.
        boxes: boxes and tags, by holder.
    """

    round: int
    sender: int
    session: bytes
    commitment: bytes
    own_tags: bytes
    boxes: Table

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        head = (self.session, self.commitment, self.own_tags)
        return frame(Kind.SHARES, self.round, self.sender, *head, *rows(self.boxes))

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, sender, session, payload = from_client(message, Kind.SHARES, KEY_BYTES + TAGS_BYTES)
        boxes, rest = read_rows(payload[KEY_BYTES + TAGS_BYTES :], BOX, Kind.SHARES)
        check(len(rest) == 0, Kind.SHARES, f"{len(rest)} bytes too many")
        own_tags = bytes(payload[KEY_BYTES : KEY_BYTES + TAGS_BYTES])
        return cls(number, sender, session, bytes(payload[:KEY_BYTES]), own_tags, boxes)


@dataclass(frozen=True, eq=False)
class Delivery:
    """Message to a client before it masks: the clients that shared their keys, and the boxes for the receiver.

    Args:
        round: number of the round.
        session: the session id.
        sharers: against an active server, all clients that shared their keys; against a semi-honest one, those of the
            receiver's neighbours that did, without the receiver.
        boxes: boxes, tags and holders, by sender.
    """

    round: int
    session: bytes
    sharers: Clients
    boxes: Table

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        degree = self.boxes.dtype["holders"].shape[0]
        return frame(
            Kind.DELIVERY, self.round, SERVER, self.session, *rows(self.sharers), COUNT.pack(degree), *rows(self.boxes)
        )

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, payload = from_server(message, Kind.DELIVERY, SESSION_BYTES)
        sharers, rest = read_rows(payload[SESSION_BYTES:], np.dtype("<u4"), Kind.DELIVERY)
        check(len(rest) >= COUNT.size, Kind.DELIVERY, "it ends before its boxes")
        (degree,) = COUNT.unpack_from(rest)
        check(degree <= _MOST_HOLDERS, Kind.DELIVERY, f"{degree} holders of each client")
        boxes, rest = read_rows(rest[COUNT.size :], box_type(degree), Kind.DELIVERY)
        check(len(rest) == 0, Kind.DELIVERY, f"{len(rest)} bytes too many")
        holders = boxes["holders"]
        check(bool((holders[:, 1:] > holders[:, :-1]).all()), Kind.DELIVERY, "holders of a box twice or out of order")
        return cls(number, bytes(payload[:SESSION_BYTES]), sharers, boxes)


@dataclass(frozen=True, eq=False)
class MaskedInput:
    """Message with one client's masked vector, packed (:mod:`privfl.secagg.packing`)."""

    round: int
    sender: int
    session: bytes
    packed: memoryview

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        return frame(Kind.MASKED_INPUT, self.round, self.sender, self.session, self.packed)

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse; ``packed`` is a view of the message.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, sender, session, payload = from_client(message, Kind.MASKED_INPUT)
        return cls(number, sender, session, payload)


@dataclass(frozen=True, eq=False)
class Survivors:
    """Message with the clients whose vectors arrived.

    Args:
        round: number of the round.
        session: the session id.
        survivors: the number of all survivors.
        clients: all survivors; if the server chose a sparse graph, the receiver and those of its peers that survived.
    """

    round: int
    session: bytes
    survivors: int
    clients: Clients

    def statement(self) -> bytes:
        """The statement that is signed if all survivors are listed."""
        return survivors_statement(self.session, self.clients)

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        return frame(Kind.SURVIVORS, self.round, SERVER, self.session, COUNT.pack(self.survivors), *rows(self.clients))

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, payload = from_server(message, Kind.SURVIVORS, SESSION_BYTES + COUNT.size)
        (survivors,) = COUNT.unpack_from(payload, SESSION_BYTES)
        clients, rest = read_rows(payload[SESSION_BYTES + COUNT.size :], np.dtype("<u4"), Kind.SURVIVORS)
        check(len(rest) == 0, Kind.SURVIVORS, f"{len(rest)} bytes too many")
        return cls(number, bytes(payload[:SESSION_BYTES]), survivors, clients)


@dataclass(frozen=True)
class Consent:
    """Message with a client's signature for the set of survivors that it was sent."""

    round: int
    sender: int
    session: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        return frame(Kind.CONSENT, self.round, self.sender, self.session, self.signature)

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, sender, session, payload = from_client(message, Kind.CONSENT)
        check(len(payload) == SIGNATURE_BYTES, Kind.CONSENT, f"a signature of {len(payload)} bytes")
        return cls(number, sender, session, bytes(payload))


@dataclass(frozen=True, eq=False)
class Consents:
    """Message with the signatures for one set of survivors, which every client checks before it reveals anything."""

    round: int
    session: bytes
    signatures: Table

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        return frame(Kind.CONSENTS, self.round, SERVER, self.session, *rows(self.signatures))

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, payload = from_server(message, Kind.CONSENTS, SESSION_BYTES)
        signatures, rest = read_rows(payload[SESSION_BYTES:], SIGNATURE, Kind.CONSENTS)
        check(len(rest) == 0, Kind.CONSENTS, f"{len(rest)} bytes too many")
        return cls(number, bytes(payload[:SESSION_BYTES]), signatures)


@dataclass(frozen=True, eq=False)
class Reveal:
    """Message with one share for each client whose shares the sender holds: of a survivor's seed, of a lost client's mask key.

    Clients about which the sender does not answer are left out.
    """

    round: int
    sender: int
    session: bytes
    shares: Table

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        return frame(Kind.REVEAL, self.round, self.sender, self.session, *rows(self.shares))

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, sender, session, payload = from_client(message, Kind.REVEAL)
        shares, rest = read_rows(payload, SHARE, Kind.REVEAL)
        check(len(rest) == 0, Kind.REVEAL, f"{len(rest)} bytes too many")
        check(bool((shares["kind"] <= max(ShareKind)).all()), Kind.REVEAL, "a share of an unknown kind")
        check(bool((shares["share"] < PRIME).all()), Kind.REVEAL, f"a share that is not below {PRIME}")
        return cls(number, sender, session, shares)


@dataclass(frozen=True)
class Refusal:
    """Message by which a client leaves a round and gives the reason, so that it is not taken for one that was lost.

    It is no evidence: the server concludes from it only that its sender is out. No client is out because another says so.

    Args:
        round: number of the round.
        sender: the client that refuses.
        attempt: number of the attempt at the round.
        stage: number of the stage among all five, from 1.
        at_fault: sender of the message or share that is refused: a client's number, or the server's.
        reason: at most 1,000 bytes of UTF-8; a longer one is cut.
    """

    round: int
    sender: int
    attempt: int
    stage: int
    at_fault: int
    reason: str

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        reason = self.reason.encode()[:_LONGEST_REASON].decode(errors="ignore").encode()
        return frame(Kind.REFUSAL, self.round, self.sender, _REFUSAL.pack(self.attempt, self.stage, self.at_fault), reason)

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, sender, payload = unframed(message, Kind.REFUSAL)
        length = len(payload) - _REFUSAL.size
        check(sender != SERVER and 0 <= length <= _LONGEST_REASON, Kind.REFUSAL, f"{len(payload)} bytes from sender {sender}")
        attempt, stage, at_fault = _REFUSAL.unpack_from(payload)
        check(1 <= stage <= _STAGES, Kind.REFUSAL, f"stage {stage}")
        try:
            reason = bytes(payload[_REFUSAL.size :]).decode()
        except UnicodeDecodeError:
            reason = ""
        check(reason.isprintable() and bool(reason), Kind.REFUSAL, "a reason that is no line of text")
        return cls(number, sender, attempt, stage, at_fault, reason)


def survivors_statement(session: bytes, clients: Clients) -> bytes:
    """The statement that each client signs: the session id and all survivors."""
    return session + clients.astype("<u4").tobytes()
