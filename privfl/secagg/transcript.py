"""Transcript of a round: the answers that reached the server, as a real server could have recorded them, and nothing else.

The server cannot open the boxes of shares; the transcript holds the sender, the receiver and the size of each. Signatures are
left out. Masked vectors, most of the data, are written to a file as they arrive, so that no two of them are in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from privfl.secagg.framing import SERVER
from privfl.secagg.messages import BOX_BYTES, Advert, MaskedInput, Reveal, Shares
from privfl.secagg.packing import TYPES, Bits, unpack
from privfl.secagg.session import Stage

Arrays = dict[str, NDArray[Any]]


@dataclass
class Transcript:
    """Transcript of one round, which collects the answers as they reach the server.

    Args:
        length: number of words of a vector.
        bits: bits of each word.
        file: an empty file, open for reading and writing, for the masked vectors.
    """

    length: int
    bits: Bits
    file: IO[bytes]
    _adverts: list[Advert] = field(default_factory=list)
    _boxes: list[tuple[int, NDArray[np.int64]]] = field(default_factory=list)
    _masked: list[int] = field(default_factory=list)
    _reveals: list[Reveal] = field(default_factory=list)

    def hear(self, stage: Stage, client: int, answer: bytes) -> None:
        """Record one answer.

        Raises:
            OSError: the file cannot be written.
        """
        assert client != SERVER
        match stage:
            case Stage.ADVERTISE_KEYS:
                self._adverts.append(Advert.from_bytes(answer))
            case Stage.SHARE_KEYS:
                shares = Shares.from_bytes(answer)
                self._boxes.append((shares.sender, shares.boxes["client"].astype(np.int64)))
            case Stage.MASKED_INPUT:
                masked = MaskedInput.from_bytes(answer)
                self.file.write(np.ascontiguousarray(unpack(masked.packed, self.length, self.bits)).data)
                self._masked.append(masked.sender)
            case Stage.UNMASKING:
                self._reveals.append(Reveal.from_bytes(answer))
            case _:
                # A signature for the survivors reveals nothing about a vector.
                pass

    def arrays(self) -> Arrays:
        """The transcript as arrays.

        Returns:
            ``clients_K`` with their ``channel_keys_K32`` and ``mask_keys_K32``; ``box_sender_M``, ``box_receiver_M`` and
            ``box_bytes_M``; ``masked_clients_K`` with their ``masked_KD`` words, which stay in the file; and, for each revealed
            share, ``holder_R``, ``owner_R``, ``kind_R`` (0: of a seed, 1: of a mask key) and ``share_RL``.
        """
        adverts, reveals = self._adverts, self._reveals
        sent = [len(receivers) for _, receivers in self._boxes]
        return {
            "clients_K": _numbers([one.sender for one in adverts]),
            "channel_keys_K32": _octets([one.channel_key for one in adverts]),
            "mask_keys_K32": _octets([one.mask_key for one in adverts]),
            "box_sender_M": np.repeat(_numbers([sender for sender, _ in self._boxes]), sent),
            "box_receiver_M": _joined([receivers for _, receivers in self._boxes], np.int64),
            "box_bytes_M": np.full(sum(sent), BOX_BYTES, np.int64),
            "masked_clients_K": _numbers(self._masked),
            "masked_KD": self._vectors(),
            "holder_R": np.repeat(_numbers([one.sender for one in reveals]), [len(one.shares) for one in reveals]),
            "owner_R": _joined([one.shares["client"].astype(np.int64) for one in reveals], np.int64),
            "kind_R": _joined([one.shares["kind"] for one in reveals], np.uint8),
            "share_RL": np.concatenate([one.shares["share"].astype(np.int32) for one in reveals])
            if reveals
            else np.empty((0, 0), np.int32),
        }

    def _vectors(self) -> NDArray[np.signedinteger[Any]]:
        """The masked words with the same bits as signed integers, which every reader of the file supports."""
        kind = np.dtype(f"<i{TYPES[self.bits].itemsize}")
        shape = (len(self._masked), self.length)
        if not self._masked:
            return np.empty(shape, kind)
        self.file.flush()
        return np.memmap(self.file, kind, "c", shape=shape)


def _numbers(clients: list[int]) -> NDArray[np.int64]:
    return np.array(clients, np.int64)


def _octets(keys: list[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1) if keys else np.empty((0, 32), np.uint8)


def _joined(parts: list[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, kind)
