"""Encoding of updates as words of the secure sum, and their sum without masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from privfl.federation.aggregators import ClientUpdate, RoundContext
from privfl.secagg.agreement import hkdf
from privfl.secagg.encoding import Encoding
from privfl.secagg.packing import TYPES
from privfl.secagg.prg import Words


def encoded(encoding: Encoding, update: ClientUpdate, context: RoundContext) -> tuple[Words, int]:
    """A client's D + 1 words and the number of clipped coordinates; the same in every aggregator with that encoding."""
    return encoding.encode(as_array(update.delta_D), update.weight, rounding_key(context, update.client))


def sum_of_words(words: Sequence[Words], encoding: Encoding) -> Words:
    """The sum of the words modulo 2^bits."""
    found = np.zeros(len(words[0]), TYPES[encoding.bits])
    for one in words:
        found += one
    return found


def rounding_key(context: RoundContext, client: int) -> bytes:
    """32 bytes that decide how one client's update is rounded: HKDF(key of the round, client)."""
    return hkdf(context.simulation_key, salt=b"privfl rounding", info=client.to_bytes(4, "little"))


def as_array(vector_D: Tensor) -> NDArray[Any]:
    """The vector as a NumPy array on the CPU."""
    array: NDArray[Any] = vector_D.detach().cpu().numpy()
    return array
