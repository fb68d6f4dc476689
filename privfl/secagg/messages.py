"""What travels between clients and server, byte by byte; ``docs/secagg.md`` has the layouts as tables.

Every message is a header and a payload; all numbers are little-endian::

    magic "pf"  version u8  type u8  round u32  sender u32  payload length u64      20 bytes

There is exactly one encoding of a message, and parsing accepts no other: anything extra, short, unknown or out of order is
refused. Lists are tables of rows of one length, ascending by client, so that a message of a million rows is read at once.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from privfl.errors import ProtocolError
from privfl.secagg.agreement import KEY_BYTES, TAG_BYTES
from privfl.secagg.graph import Clients
from privfl.secagg.identity import SIGNATURE_BYTES
from privfl.secagg.shamir import SHARE_BYTES

VERSION: Final = 1
SERVER: Final = 2**32 - 1
"""The server's number as a sender; clients are 0 to 2^32 - 2."""

SESSION_BYTES: Final = 32
BOX_BYTES: Final = 2 * SHARE_BYTES + TAG_BYTES

Table = NDArray[np.void]
"""Rows of one of the types below, ascending by their field ``client``."""

MEMBER: Final = np.dtype([("client", "<u4"), ("channel_key", "V32"), ("mask_key", "V32")])
SIGNED_MEMBER: Final = np.dtype(
    [*((name, MEMBER[name]) for name in ("client", "channel_key", "mask_key")), ("signature", "V64")]
)
BOX: Final = np.dtype([("client", "<u4"), ("box", f"V{BOX_BYTES}")])
SIGNATURE: Final = np.dtype([("client", "<u4"), ("signature", "V64")])
SHARE: Final = np.dtype([("client", "<u4"), ("kind", "u1"), ("share", "<u2", (SHARE_BYTES // 2,))])

_MAGIC: Final = b"pf"
_HEADER: Final = struct.Struct("<2sBBIIQ")
_COUNT: Final = struct.Struct("<I")
# Holders in a row of a Delivery. Each client of a roster with more would be sent 64 MiB in every box.
_MOST_HOLDERS: Final = 2**24
_ROSTER: Final = struct.Struct("<IB32s")


def box_type(degree: int) -> np.dtype[np.void]:
    """A row of a :class:`Delivery`: with the sender's ``degree`` holders where each client drew its own."""
    return np.dtype([("client", "<u4"), ("box", f"V{BOX_BYTES}"), ("holders", "<u4", (degree,))])


class Kind(IntEnum):
    """The types of message."""

    ADVERT = 1
    ROSTER = 2
    SHARES = 3
    DELIVERY = 4
    MASKED_INPUT = 5
    SURVIVORS = 6
    CONSENT = 7
    CONSENTS = 8
    REVEAL = 9


class ShareKind(IntEnum):
    """Which of a client's two secrets a share is of."""

    SEED = 0
    MASK_KEY = 1


@dataclass(frozen=True)
class Advert:
    """A client joins a round with two fresh public keys, signed where the server may be active."""

    round: int
    sender: int
    channel_key: bytes
    mask_key: bytes
    signature: bytes = b""

    def statement(self, parameters: bytes) -> bytes:
        """What is signed; with the digest of the parameters, so that an advert is good for one attempt of one run only."""
        return struct.pack("<BII", VERSION, self.round, self.sender) + self.channel_key + self.mask_key + parameters

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        return _seal(Kind.ADVERT, self.round, self.sender, self.channel_key, self.mask_key, self.signature)

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, sender, payload = _open(message, Kind.ADVERT)
        lengths = (2 * KEY_BYTES, 2 * KEY_BYTES + SIGNATURE_BYTES)
        _check(len(payload) in lengths and sender != SERVER, Kind.ADVERT, f"{len(payload)} bytes from sender {sender}")
        keys = bytes(payload)
        return cls(number, sender, keys[:KEY_BYTES], keys[KEY_BYTES : 2 * KEY_BYTES], keys[2 * KEY_BYTES :])


@dataclass(frozen=True, eq=False)
class Roster:
    """Who takes part, and with which keys.

    Args:
        round: the round's number.
        clients: n, how many take part in all.
        digest: of all n (:func:`privfl.secagg.session.roster_digest`).
        members: all of them, or, where the server chose a sparse graph, the receiver and its neighbours.
    """

    round: int
    clients: int
    digest: bytes
    members: Table

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        head = _ROSTER.pack(self.clients, self.members.dtype == SIGNED_MEMBER, self.digest)
        return _seal(Kind.ROSTER, self.round, SERVER, head, *_rows(self.members))

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, payload = _open_from_server(message, Kind.ROSTER, _ROSTER.size)
        clients, signed, digest = _ROSTER.unpack_from(payload)
        _check(signed in (0, 1), Kind.ROSTER, f"signed = {signed}")
        members, rest = _table(payload[_ROSTER.size :], SIGNED_MEMBER if signed else MEMBER, Kind.ROSTER)
        _check(len(rest) == 0, Kind.ROSTER, f"{len(rest)} bytes too many")
        return cls(number, clients, digest, members)


@dataclass(frozen=True, eq=False)
class Shares:
    """A client's shares for its neighbours, each in a box that the neighbour alone can open, and its seed's commitment."""

    round: int
    sender: int
    session: bytes
    commitment: bytes
    boxes: Table

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        return _seal(Kind.SHARES, self.round, self.sender, self.session, self.commitment, *_rows(self.boxes))

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, sender, session, payload = _open_from_client(message, Kind.SHARES, KEY_BYTES)
        boxes, rest = _table(payload[KEY_BYTES:], BOX, Kind.SHARES)
        _check(len(rest) == 0, Kind.SHARES, f"{len(rest)} bytes too many")
        return cls(number, sender, session, bytes(payload[:KEY_BYTES]), boxes)


@dataclass(frozen=True, eq=False)
class Delivery:
    """What a client is sent before it masks: who shared its keys, all or the receiver's neighbours, and the boxes for it."""

    round: int
    session: bytes
    sharers: Clients
    boxes: Table

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        degree = self.boxes.dtype["holders"].shape[0]
        return _seal(
            Kind.DELIVERY, self.round, SERVER, self.session, *_rows(self.sharers), _COUNT.pack(degree), *_rows(self.boxes)
        )

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, payload = _open_from_server(message, Kind.DELIVERY, SESSION_BYTES)
        sharers, rest = _table(payload[SESSION_BYTES:], np.dtype("<u4"), Kind.DELIVERY)
        _check(len(rest) >= _COUNT.size, Kind.DELIVERY, "it ends before its boxes")
        (degree,) = _COUNT.unpack_from(rest)
        _check(degree <= _MOST_HOLDERS, Kind.DELIVERY, f"{degree} holders of each client")
        boxes, rest = _table(rest[_COUNT.size :], box_type(degree), Kind.DELIVERY)
        _check(len(rest) == 0, Kind.DELIVERY, f"{len(rest)} bytes too many")
        return cls(number, bytes(payload[:SESSION_BYTES]), sharers, boxes)


@dataclass(frozen=True, eq=False)
class MaskedInput:
    """One client's masked vector, packed (:mod:`privfl.secagg.packing`)."""

    round: int
    sender: int
    session: bytes
    packed: memoryview

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        return _seal(Kind.MASKED_INPUT, self.round, self.sender, self.session, self.packed)

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse; ``packed`` is a view into the message.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, sender, session, payload = _open_from_client(message, Kind.MASKED_INPUT)
        return cls(number, sender, session, payload)


@dataclass(frozen=True, eq=False)
class Survivors:
    """Whose vectors arrived: how many in all, and which of them, all or those that concern the receiver."""

    round: int
    session: bytes
    survivors: int
    clients: Clients

    def statement(self) -> bytes:
        """What is signed, where all are listed."""
        return survivors_statement(self.session, self.clients)

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        return _seal(Kind.SURVIVORS, self.round, SERVER, self.session, _COUNT.pack(self.survivors), *_rows(self.clients))

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, payload = _open_from_server(message, Kind.SURVIVORS, SESSION_BYTES + _COUNT.size)
        (survivors,) = _COUNT.unpack_from(payload, SESSION_BYTES)
        clients, rest = _table(payload[SESSION_BYTES + _COUNT.size :], np.dtype("<u4"), Kind.SURVIVORS)
        _check(len(rest) == 0, Kind.SURVIVORS, f"{len(rest)} bytes too many")
        return cls(number, bytes(payload[:SESSION_BYTES]), survivors, clients)


@dataclass(frozen=True)
class Consent:
    """A client's signature for the set of survivors that it was told."""

    round: int
    sender: int
    session: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        return _seal(Kind.CONSENT, self.round, self.sender, self.session, self.signature)

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, sender, session, payload = _open_from_client(message, Kind.CONSENT)
        _check(len(payload) == SIGNATURE_BYTES, Kind.CONSENT, f"a signature of {len(payload)} bytes")
        return cls(number, sender, session, bytes(payload))


@dataclass(frozen=True, eq=False)
class Consents:
    """The signatures for one set of survivors, for every client to check before it reveals anything."""

    round: int
    session: bytes
    signatures: Table

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        return _seal(Kind.CONSENTS, self.round, SERVER, self.session, *_rows(self.signatures))

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, payload = _open_from_server(message, Kind.CONSENTS, SESSION_BYTES)
        signatures, rest = _table(payload[SESSION_BYTES:], SIGNATURE, Kind.CONSENTS)
        _check(len(rest) == 0, Kind.CONSENTS, f"{len(rest)} bytes too many")
        return cls(number, bytes(payload[:SESSION_BYTES]), signatures)


@dataclass(frozen=True, eq=False)
class Reveal:
    """One share about each client whose shares the sender holds: of the seed of a survivor, of the mask key of a lost one."""

    round: int
    sender: int
    session: bytes
    shares: Table

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        return _seal(Kind.REVEAL, self.round, self.sender, self.session, *_rows(self.shares))

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, sender, session, payload = _open_from_client(message, Kind.REVEAL)
        shares, rest = _table(payload, SHARE, Kind.REVEAL)
        _check(len(rest) == 0, Kind.REVEAL, f"{len(rest)} bytes too many")
        _check(bool((shares["kind"] <= max(ShareKind)).all()), Kind.REVEAL, "a share of an unknown kind")
        return cls(number, sender, session, shares)


def survivors_statement(session: bytes, clients: Clients) -> bytes:
    """What each client signs: the session and all survivors."""
    return session + clients.astype("<u4").tobytes()


def sender_of(message: bytes) -> int | None:
    """Who says that it sent this, for an error about a message that cannot be read otherwise."""
    return int(_HEADER.unpack_from(message)[4]) if len(message) >= _HEADER.size else None


def _rows(table: NDArray[Any]) -> tuple[bytes, bytes]:
    return _COUNT.pack(len(table)), table.tobytes()


def _table(payload: memoryview, row: np.dtype[Any], kind: Kind) -> tuple[NDArray[Any], memoryview]:
    """A count, so many rows ascending by client, and what follows them."""
    _check(len(payload) >= _COUNT.size, kind, "it ends before a count")
    (count,) = _COUNT.unpack_from(payload)
    body = payload[_COUNT.size :]
    _check(count * row.itemsize <= len(body), kind, f"{len(body)} bytes for {count} rows of {row.itemsize}")
    table: NDArray[Any] = np.frombuffer(body, row, count) if count else np.empty(0, row)
    clients = table["client"] if row.names else table
    ascending = count == 0 or (bool((clients[1:] > clients[:-1]).all()) and int(clients[-1]) < SERVER)
    _check(ascending, kind, "a client is listed twice or out of order")
    return table, body[count * row.itemsize :]


def _seal(kind: Kind, number: int, sender: int, *parts: bytes | memoryview) -> bytes:
    length = sum(len(part) for part in parts)
    return b"".join((_HEADER.pack(_MAGIC, VERSION, kind, number, sender, length), *parts))


def _open_from_client(message: bytes, kind: Kind, least: int = 0) -> tuple[int, int, bytes, memoryview]:
    """Round, sender, session and the rest of a client's message."""
    number, sender, payload = _open(message, kind)
    _check(sender != SERVER and len(payload) >= SESSION_BYTES + least, kind, f"{len(payload)} bytes from sender {sender}")
    return number, sender, bytes(payload[:SESSION_BYTES]), payload[SESSION_BYTES:]


def _open_from_server(message: bytes, kind: Kind, least: int) -> tuple[int, memoryview]:
    """Round and payload of a server's message."""
    number, sender, payload = _open(message, kind)
    _check(sender == SERVER and len(payload) >= least, kind, f"{len(payload)} bytes from sender {sender}")
    return number, payload


def _open(message: bytes, kind: Kind) -> tuple[int, int, memoryview]:
    """Round, sender and payload of a message of that type."""
    if len(message) < _HEADER.size:
        raise ProtocolError(f"a message of {len(message)} bytes: must be at least {_HEADER.size}; it was cut short")
    magic, version, found, number, sender, length = _HEADER.unpack_from(message)
    if magic != _MAGIC or version != VERSION:
        raise ProtocolError(f"a message of protocol {magic!r} version {version}: must be {_MAGIC!r} version {VERSION}")
    _check(found == kind, kind, f"type {found} came instead")
    _check(length == len(message) - _HEADER.size, kind, f"{len(message) - _HEADER.size} bytes came, {length} were announced")
    return number, sender, memoryview(message)[_HEADER.size :]


def _check(passed: bool, kind: Kind, found: str) -> None:
    if not passed:
        raise ProtocolError(f"a message that is no {kind.name}: {found}; discard the round")
