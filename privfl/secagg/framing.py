"""Wire format of messages: a header, then a payload of fields and tables; ``docs/secagg.md`` has the layouts.

All numbers are little-endian. The header is::

    magic "pf"  version u8  type u8  round u32  sender u32  payload length u64      20 bytes

Each message has exactly one encoding, and parsing accepts no other: anything extra, short, unknown or out of order is
refused. A list is a table of rows of one length, ascending by client, so that a message of a million rows is parsed at once.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from privfl.errors import ProtocolError

VERSION: Final = 2
SERVER: Final = 2**32 - 1
"""The server's number as a sender; clients are 0 to 2^32 - 2."""

SESSION_BYTES: Final = 32
COUNT: Final = struct.Struct("<I")

_MAGIC: Final = b"pf"
_HEADER: Final = struct.Struct("<2sBBIIQ")
HEADER_BYTES: Final = _HEADER.size


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
    REFUSAL = 10


def sender_of(message: bytes) -> int | None:
    """The sender that a message claims to have; None if the message is shorter than a header."""
    return int(_HEADER.unpack_from(message)[4]) if len(message) >= _HEADER.size else None


def kind_of(message: bytes) -> int | None:
    """The type that a message claims to have; None if the message is shorter than a header."""
    return int(_HEADER.unpack_from(message)[2]) if len(message) >= _HEADER.size else None


def rows(table: NDArray[Any]) -> tuple[bytes, bytes]:
    """Encode a table: the number of rows, then the rows."""
    return COUNT.pack(len(table)), table.tobytes()


def read_rows(payload: memoryview, row: np.dtype[Any], kind: Kind) -> tuple[NDArray[Any], memoryview]:
    """Parse a table, whose rows must be strictly ascending by client; return it and the rest of the payload.

    Raises:
        ProtocolError: too few bytes, a client that is listed twice or out of order, or the server's number as a client.
    """
    check(len(payload) >= COUNT.size, kind, "it ends before a count")
    (count,) = COUNT.unpack_from(payload)
    body = payload[COUNT.size :]
    check(count * row.itemsize <= len(body), kind, f"{len(body)} bytes for {count} rows of {row.itemsize}")
    table: NDArray[Any] = np.frombuffer(body, row, count) if count else np.empty(0, row)
    clients = table["client"] if row.names else table
    ascending = count == 0 or (bool((clients[1:] > clients[:-1]).all()) and int(clients[-1]) < SERVER)
    check(ascending, kind, "a client is listed twice or out of order")
    return table, body[count * row.itemsize :]


def frame(kind: Kind, number: int, sender: int, *parts: bytes | memoryview) -> bytes:
    """Encode a message of a round: the header, then the parts of the payload."""
    length = sum(len(part) for part in parts)
    return b"".join((_HEADER.pack(_MAGIC, VERSION, kind, number, sender, length), *parts))


def from_client(message: bytes, kind: Kind, least: int = 0) -> tuple[int, int, bytes, memoryview]:
    """Parse a client's message into round, sender, session id and the rest of the payload.

    Raises:
        ProtocolError: it is no client's message of that type, or fewer than ``least`` bytes follow the session id.
    """
    number, sender, payload = unframed(message, kind)
    check(sender != SERVER and len(payload) >= SESSION_BYTES + least, kind, f"{len(payload)} bytes from sender {sender}")
    return number, sender, bytes(payload[:SESSION_BYTES]), payload[SESSION_BYTES:]


def from_server(message: bytes, kind: Kind, least: int) -> tuple[int, memoryview]:
    """Parse the server's message into round and payload.

    Raises:
        ProtocolError: it is no server's message of that type, or its payload has fewer than ``least`` bytes.
    """
    number, sender, payload = unframed(message, kind)
    check(sender == SERVER and len(payload) >= least, kind, f"{len(payload)} bytes from sender {sender}")
    return number, payload


def unframed(message: bytes, kind: Kind) -> tuple[int, int, memoryview]:
    """Parse a message of that type into round, sender and payload.

    Raises:
        ProtocolError: it is cut short, of another protocol, version or type, or its length is not the announced one.
    """
    if len(message) < _HEADER.size:
        raise ProtocolError(f"a message of {len(message)} bytes: must be at least {_HEADER.size}; it was cut short")
    magic, version, found, number, sender, length = _HEADER.unpack_from(message)
    if magic != _MAGIC or version != VERSION:
        raise ProtocolError(
            f"a message of protocol {magic!r} version {version}: must be {_MAGIC!r} version {VERSION} at both ends"
        )
    check(found == kind, kind, f"type {found} came instead")
    check(length == len(message) - _HEADER.size, kind, f"{len(message) - _HEADER.size} bytes came, {length} were announced")
    return number, sender, memoryview(message)[_HEADER.size :]


def check(passed: bool, kind: Kind, found: str) -> None:
    """Refuse a message unless it passed a check of its type.

    Raises:
        ProtocolError: it did not pass; ``found`` says why.
    """
    if not passed:
        raise ProtocolError(f"a message that is no {kind.name}: {found}; discard the round")
