"""QSGD: each entry is rounded at random to one of a few levels of the norm (Alistarh et al. 2017, section 3.1)."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from privfl.federation.transforms._coded import Code, Coded, bits_for
from privfl.seeding import Seed


class Qsgd(Coded):
    """Entry v_i becomes ‖v‖ sign(v_i) l/s with s = ``levels``; l is s |v_i|/‖v‖ rounded up or down so that its mean is kept.

    **Bytes.** ⌈log₂(2s + 1)⌉ bits for an entry and 4 bytes for the norm. The paper's Elias code, whose length depends on the
    data, is not used. **Error.** It is unbiased, and its relative squared error is at most min(D'/s², √D'/s) (lemma 3.1).
    **Masks.** It is not linear: each client has a norm of its own.

    **Privacy.** Under an example-level plan it is post-processing. Under a client-level plan with a trusted server, the client
    lowers the norm that it sends until the decoded vector is within the clipping norm.

    With large ``levels`` an entry is changed by at most ‖v‖/s.
    """

    levels: Annotated[int, Field(ge=1, le=2**24)] = 15

    def counts(self, size: int) -> tuple[int, int, int]:
        """An integer for each entry, and the norm."""
        return size, bits_for(2 * self.levels + 1), 1

    def encode(self, payload_D: NDArray[np.float64], own: Seed) -> Code:
        """See the class; a zero vector is sent as zeros."""
        _, bits, _ = self.counts(len(payload_D))
        sent = np.array([np.linalg.norm(payload_D)], np.float32)
        if not sent[0]:
            return Code(np.full(len(payload_D), self.levels, np.int64), bits, np.zeros(1, np.float32))
        # The norm is rounded to float32, so that a ratio may exceed 1 by that rounding.
        scaled_D = np.minimum(np.abs(payload_D) / np.float64(sent[0]), 1.0) * self.levels
        rounded_D = np.floor(scaled_D + own.numpy().random(len(payload_D))).astype(np.int64)
        signed_D = np.where(payload_D < 0, -1, 1) * np.minimum(rounded_D, self.levels)
        return Code(signed_D + self.levels, bits, sent)

    def decode(self, code: Code, size: int, own: Seed) -> NDArray[np.float64]:  # noqa: ARG002
        """See the class."""
        return (code.integers - self.levels) * (np.float64(code.floats[0]) / self.levels)
