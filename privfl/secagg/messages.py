"""What travels between clients and server, byte by byte.

Every message is a header and a payload; all numbers are little-endian::

    magic "pf"  version u8  type u8  round u32  sender u32  payload length u64      20 bytes

    type 1  Advert        client -> server    public key (32)
    type 2  Roster        server -> clients   count u32, then count times: client u32, public key (32); clients ascending
    type 3  MaskedInput   client -> server    session (32), then the masked vector, u32 each

There is exactly one encoding of a message, and parsing accepts no other: anything extra, short or unknown is refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Final, Self

import numpy as np

from privfl.errors import ProtocolError
from privfl.secagg.agreement import KEY_BYTES
from privfl.secagg.prg import Words

VERSION: Final = 1
SERVER: Final = 2**32 - 1
"""The server's number as a sender; clients are 0 to 2^32 - 2."""

SESSION_BYTES: Final = 32

_MAGIC: Final = b"pf"
_HEADER: Final = struct.Struct("<2sBBIIQ")
_COUNT: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct(f"<I{KEY_BYTES}s")


class Kind(IntEnum):
    """The types of message."""

    ADVERT = 1
    ROSTER = 2
    MASKED_INPUT = 3


@dataclass(frozen=True)
class Advert:
    """A client joins a round with a fresh public key."""

    round: int
    sender: int
    public_key: bytes

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        return _seal(Kind.ADVERT, self.round, self.sender, self.public_key)

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, sender, payload = _open(message, Kind.ADVERT)
        _check(len(payload) == KEY_BYTES and sender != SERVER, Kind.ADVERT, f"{len(payload)} bytes from sender {sender}")
        return cls(number, sender, bytes(payload))


@dataclass(frozen=True)
class Roster:
    """Who takes part, and with which key: (client, public key), clients strictly ascending."""

    round: int
    keys: tuple[tuple[int, bytes], ...]

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        entries = (_ENTRY.pack(client, key) for client, key in self.keys)
        return _seal(Kind.ROSTER, self.round, SERVER, _COUNT.pack(len(self.keys)), *entries)

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse.

        Raises:
            ProtocolError: not exactly such a message; a client twice, or out of order.
        """
        number, sender, payload = _open(message, Kind.ROSTER)
        _check(sender == SERVER and len(payload) >= _COUNT.size, Kind.ROSTER, f"{len(payload)} bytes from sender {sender}")
        (count,) = _COUNT.unpack_from(payload)
        entries = payload[_COUNT.size :]
        _check(len(entries) == count * _ENTRY.size, Kind.ROSTER, f"{len(entries)} bytes for {count} clients")
        keys: tuple[tuple[int, bytes], ...] = tuple(_ENTRY.iter_unpack(entries))
        clients = [client for client, _ in keys]
        ascending = all(one < other for one, other in pairwise([*clients, SERVER]))
        _check(ascending, Kind.ROSTER, "a client is listed twice or out of order")
        return cls(number, keys)


@dataclass(frozen=True, eq=False)
class MaskedInput:
    """One client's masked vector, bound to a session."""

    round: int
    sender: int
    session: bytes
    words: Words

    def to_bytes(self) -> bytes:
        """The one encoding of this message."""
        words = np.ascontiguousarray(self.words, dtype="<u4")
        return _seal(Kind.MASKED_INPUT, self.round, self.sender, self.session, words.data.cast("B"))

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """Parse; ``words`` is a read-only view into the message.

        Raises:
            ProtocolError: not exactly such a message.
        """
        number, sender, payload = _open(message, Kind.MASKED_INPUT)
        body = payload[SESSION_BYTES:]
        whole = len(payload) >= SESSION_BYTES and len(body) % 4 == 0 and sender != SERVER
        _check(whole, Kind.MASKED_INPUT, f"{len(payload)} bytes from sender {sender}")
        return cls(number, sender, bytes(payload[:SESSION_BYTES]), np.frombuffer(body, "<u4").astype(np.uint32, copy=False))


def _seal(kind: Kind, number: int, sender: int, *parts: bytes | memoryview) -> bytes:
    length = sum(len(part) for part in parts)
    return b"".join((_HEADER.pack(_MAGIC, VERSION, kind, number, sender, length), *parts))


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
