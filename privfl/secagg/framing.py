"""The one encoding of what travels: a header, then tables of rows; ``docs/secagg.md`` has the layouts.

Every message is a header and a payload; all numbers are little-endian::

    magic "pf"  version u8  type u8  round u32  sender u32  payload length u64      20 bytes

There is exactly one encoding of a message, and parsing accepts no other: anything extra, short, unknown or out of order is
refused. Lists are tables of rows of one length, ascending by client, so that a message of a million rows is read at once.
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
    """Who says that it sent this; None where the header is cut short."""
    return int(_HEADER.unpack_from(message)[4]) if len(message) >= _HEADER.size else None


def kind_of(message: bytes) -> int | None:
    """The type that a message says it has."""
    return int(_HEADER.unpack_from(message)[2]) if len(message) >= _HEADER.size else None


def rows(table: NDArray[Any]) -> tuple[bytes, bytes]:
    """A count and so many rows."""
    return COUNT.pack(len(table)), table.tobytes()


def read_rows(payload: memoryview, row: np.dtype[Any], kind: Kind) -> tuple[NDArray[Any], memoryview]:
    """A count, so many rows ascending by client, and what follows them.

    Raises:
        ProtocolError: too few bytes, or a client twice or out of order.
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
    """A message of a round."""
    length = sum(len(part) for part in parts)
    return b"".join((_HEADER.pack(_MAGIC, VERSION, kind, number, sender, length), *parts))


def from_client(message: bytes, kind: Kind, least: int = 0) -> tuple[int, int, bytes, memoryview]:
    """Round, sender, session and the rest of a client's message.

    Raises:
        ProtocolError: it is none of that type, or has fewer than ``least`` bytes more.
    """
    number, sender, payload = unframed(message, kind)
    check(sender != SERVER and len(payload) >= SESSION_BYTES + least, kind, f"{len(payload)} bytes from sender {sender}")
    return number, sender, bytes(payload[:SESSION_BYTES]), payload[SESSION_BYTES:]


def from_server(message: bytes, kind: Kind, least: int) -> tuple[int, memoryview]:
    """Round and payload of a server's message.

    Raises:
        ProtocolError: it is none of that type, or its payload has fewer than ``least`` bytes.
    """
    number, sender, payload = unframed(message, kind)
    check(sender == SERVER and len(payload) >= least, kind, f"{len(payload)} bytes from sender {sender}")
    return number, payload


def unframed(message: bytes, kind: Kind) -> tuple[int, int, memoryview]:
    """Round, sender and payload of a message of that type.

    Raises:
        ProtocolError: it is cut short, of another protocol, version or type, or as long as it does not say.
    """
    if len(message) < _HEADER.size:
        raise ProtocolError(f"a message of {len(message)} bytes: must be at least {_HEADER.size}; it was cut short")
    magic, version, found, number, sender, length = _HEADER.unpack_from(message)
    if magic != _MAGIC or version != VERSION:
        raise ProtocolError(f"a message of protocol {magic!r} version {version}: must be {_MAGIC!r} version {VERSION}")
    check(found == kind, kind, f"type {found} came instead")
    check(length == len(message) - _HEADER.size, kind, f"{len(message) - _HEADER.size} bytes came, {length} were announced")
    return number, sender, memoryview(message)[_HEADER.size :]


def check(passed: bool, kind: Kind, found: str) -> None:
    """Refuse a message that is not what its type asks for.

    Raises:
        ProtocolError: not ``passed``.
    """
    if not passed:
        raise ProtocolError(f"a message that is no {kind.name}: {found}; discard the round")
