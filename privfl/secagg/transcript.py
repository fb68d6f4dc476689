"""What a real server would have written down of a round: everything that reached it, and nothing else.

Of the boxes of shares, which it cannot open, it keeps who sent one to whom and its size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privfl.secagg.messages import BOX_BYTES, SERVER, Advert, MaskedInput, Reveal, Shares
from privfl.secagg.packing import Bits, unpack
from privfl.secagg.session import Stage

Arrays = dict[str, NDArray[Any]]


@dataclass
class Transcript:
    """Collects the answers of one round as they reach the server.

    Args:
        length: of a vector.
        bits: of its words.
    """

    length: int
    bits: Bits
    _heard: list[tuple[Stage, bytes]] = field(default_factory=list)

    def hear(self, stage: Stage, client: int, answer: bytes) -> None:
        """Keep one answer."""
        assert client != SERVER
        self._heard.append((stage, answer))

    def arrays(self) -> Arrays:
        """What was heard, as arrays.

        Returns:
            ``clients_K`` with their ``channel_keys_K32`` and ``mask_keys_K32``; ``box_sender_M``, ``box_receiver_M`` and
            ``box_bytes_M``; ``masked_clients_K`` with their ``masked_KD`` words; and of the revealed shares ``holder_R``,
            ``owner_R``, ``kind_R`` (0 of a seed, 1 of a mask key) and ``share_RL``.
        """
        adverts = [Advert.from_bytes(answer) for answer in self._of(Stage.ADVERTISE_KEYS)]
        shares = [Shares.from_bytes(answer) for answer in self._of(Stage.SHARE_KEYS)]
        inputs = [MaskedInput.from_bytes(answer) for answer in self._of(Stage.MASKED_INPUT)]
        reveals = [Reveal.from_bytes(answer) for answer in self._of(Stage.UNMASKING)]
        sent = [len(one.boxes) for one in shares]
        return {
            "clients_K": _numbers([one.sender for one in adverts]),
            "channel_keys_K32": _octets([one.channel_key for one in adverts]),
            "mask_keys_K32": _octets([one.mask_key for one in adverts]),
            "box_sender_M": np.repeat(_numbers([one.sender for one in shares]), sent),
            "box_receiver_M": _joined([one.boxes["client"].astype(np.int64) for one in shares], np.int64),
            "box_bytes_M": np.full(sum(sent), BOX_BYTES, np.int64),
            "masked_clients_K": _numbers([one.sender for one in inputs]),
            "masked_KD": np.stack([self._signed(one) for one in inputs]) if inputs else np.empty((0, self.length), np.int32),
            "holder_R": np.repeat(_numbers([one.sender for one in reveals]), [len(one.shares) for one in reveals]),
            "owner_R": _joined([one.shares["client"].astype(np.int64) for one in reveals], np.int64),
            "kind_R": _joined([one.shares["kind"] for one in reveals], np.uint8),
            "share_RL": np.concatenate([one.shares["share"].astype(np.int32) for one in reveals])
            if reveals
            else np.empty((0, 0), np.int32),
        }

    def _of(self, stage: Stage) -> list[bytes]:
        return [answer for found, answer in self._heard if found is stage]

    def _signed(self, masked: MaskedInput) -> NDArray[np.signedinteger[Any]]:
        """The same bits as signed numbers, the only ones that every reader of the file has."""
        words_D = unpack(masked.packed, self.length, self.bits)
        return words_D.view(f"<i{words_D.itemsize}")


def _numbers(clients: list[int]) -> NDArray[np.int64]:
    return np.array(clients, np.int64)


def _octets(keys: list[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1) if keys else np.empty((0, 32), np.uint8)


def _joined(parts: list[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, kind)
