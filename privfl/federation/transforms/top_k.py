"""Top-k with error feedback: a client sends its k largest entries and remembers the rest (Stich et al. 2018, algorithm 1)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from privfl.federation.transforms import Share, count_of
from privfl.federation.transforms._coded import Code, Coded, bits_for
from privfl.seeding import Seed


class TopK(Coded):
    """The k = ``share`` · D' entries of largest absolute value, with their indices; equal ones in order of their indices.

    **Bytes.** 4 k for the values and ⌈log₂ D'⌉ k bits for the indices. **Error.** It is biased; the part of the squared norm
    that is outside the k entries is lost, and is added to the next upload. **Masks.** It is not linear: each client has indices
    of its own.

    **Privacy.** The choice of the indices reveals something of the data, so noise on k entries would not do. Under an
    example-level plan they are chosen from the noised update. Under a client-level plan with a trusted server, the server adds
    noise to all D' entries of the sum.

    With ``share`` = 1 nothing is changed, to the bit.
    """

    remembers: ClassVar[bool] = True

    share: Share

    def counts(self, size: int) -> tuple[int, int, int]:
        """An index and a value for each entry that is sent."""
        kept = count_of(self.share, size)
        return kept, bits_for(size), kept

    def encode(self, payload_D: NDArray[np.float64], own: Seed) -> Code:  # noqa: ARG002
        """See the class."""
        kept, bits, _ = self.counts(len(payload_D))
        places = np.sort(np.argsort(-np.abs(payload_D), kind="stable")[:kept])
        return Code(places, bits, payload_D[places].astype(np.float32))

    def decode(self, code: Code, size: int, own: Seed) -> NDArray[np.float64]:  # noqa: ARG002
        """The values at their places, and zeros elsewhere."""
        decoded_D = np.zeros(size)
        decoded_D[code.integers] = code.floats
        return decoded_D
