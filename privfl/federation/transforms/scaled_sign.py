"""Scaled signs with error feedback: one bit for an entry (Karimireddy et al. 2019, "Error feedback fixes SignSGD")."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from privfl.federation.transforms._coded import Code, Coded
from privfl.seeding import Seed


class ScaledSign(Coded):
    """The signs of all entries, and one scale ‖v‖₁/D' (algorithm 2); the sign of 0 is +.

    **Bytes.** A bit for an entry and 4 bytes for the scale. **Error.** It is biased; 1 − ‖v‖₁²/(D' ‖v‖²) of the squared norm is
    lost and added to the next upload. **Masks.** It is not linear. A majority of signs without scales is a sum; the aggregator
    ``sign_majority`` takes it in the clear.

    **Privacy.** As for ``qsgd``. The decoded vector is never longer than v, so a client clips it by the scale.
    """

    remembers: ClassVar[bool] = True

    def counts(self, size: int) -> tuple[int, int, int]:
        """A bit for each entry, and the scale."""
        return size, 1, 1

    def encode(self, payload_D: NDArray[np.float64], own: Seed) -> Code:  # noqa: ARG002
        """See the class."""
        return Code((payload_D >= 0).astype(np.int64), 1, np.array([np.abs(payload_D).mean()], np.float32))

    def decode(self, code: Code, size: int, own: Seed) -> NDArray[np.float64]:  # noqa: ARG002
        """See the class."""
        return (2.0 * code.integers - 1.0) * np.float64(code.floats[0])
