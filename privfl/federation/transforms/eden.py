"""DRIVE and EDEN: a random rotation, and one bit or a few for each rotated entry (Vargaftik et al. 2021 and 2022)."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.stats import norm

from privfl.federation.transforms._coded import Code, Coded
from privfl.privacy.distributed import hadamard
from privfl.seeding import Seed
from privfl.vectors import Layout


class Eden(Coded):
    """The vector is rotated, its entries are rounded to 2^``bits`` levels, and one scale is sent.

    The rotation is a Hadamard transform after random signs, on v padded to a power of two. The levels are those of least
    squared error for a normal distribution (Lloyd and Max). With one bit they are two, and this is DRIVE. Let r be the rotated
    vector and q its levels. With ``scale = "unbiased"`` the scale is ‖v‖²/⟨r, q⟩ (EDEN, algorithm 1). With ``"least_error"`` it
    is ⟨r, q⟩/‖q‖², which is biased towards zero.

    **Bytes.** ``bits`` for an entry, D' padded to a power of two, and 12 bytes for scale and the seed of the signs. **Error.**
    The relative squared error of one bit is near π/2 − 1 = 0.571 if unbiased and 1 − 2/π = 0.363 at the least. **Masks.** It is
    not linear: each message is decoded by itself.

    **Privacy.** As for ``qsgd``.
    """

    bits: Annotated[int, Field(ge=1, le=8)] = 1
    scale: Literal["unbiased", "least_error"] = "unbiased"

    def counts(self, size: int) -> tuple[int, int, int]:
        """The levels of the padded vector, and the scale."""
        return _padded(size), self.bits, 1

    def message_bytes(self, layout: Layout) -> int:
        """The code, and eight bytes of a seed for the signs."""
        return super().message_bytes(layout) + 8

    def encode(self, payload_D: NDArray[np.float64], own: Seed) -> Code:
        """See the class."""
        length = _padded(len(payload_D))
        padded_L = np.zeros(length)
        padded_L[: len(payload_D)] = payload_D
        rotated_L = hadamard(padded_L * _signs(own, length))
        centres, cuts = _levels(self.bits)
        size = np.linalg.norm(rotated_L)
        if not size:
            return Code(np.zeros(length, np.int64), self.bits, np.zeros(1, np.float32))
        nearest_L = np.searchsorted(cuts, rotated_L * (np.sqrt(length) / size))
        level_L = centres[nearest_L]
        along = float(rotated_L @ level_L)
        scale = size**2 / along if self.scale == "unbiased" else along / float(level_L @ level_L)
        return Code(nearest_L.astype(np.int64), self.bits, np.array([scale], np.float32))

    def decode(self, code: Code, size: int, own: Seed) -> NDArray[np.float64]:
        """See the class."""
        centres, _ = _levels(self.bits)
        level_L = centres[code.integers] * np.float64(code.floats[0])
        decoded_L: NDArray[np.float64] = hadamard(level_L) * _signs(own, len(level_L))
        return decoded_L[:size]


def _padded(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _signs(own: Seed, length: int) -> NDArray[np.float64]:
    return np.asarray(2.0 * (own / "signs").numpy().integers(0, 2, length) - 1.0, np.float64)


@functools.cache
def _levels(bits: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The 2^bits levels for a standard normal distribution, ascending, and the cuts between them (Lloyd 1982, Max 1960)."""
    count = 2**bits
    centres = norm.ppf((np.arange(count) + 0.5) / count)
    for _ in range(2000):
        cuts = (centres[1:] + centres[:-1]) / 2
        edges = np.concatenate([[-np.inf], cuts, [np.inf]])
        # The mean of a standard normal number between a and b is (φ(a) − φ(b)) / (Φ(b) − Φ(a)).
        centres = -np.diff(norm.pdf(edges)) / np.diff(norm.cdf(edges))
    return centres, (centres[1:] + centres[:-1]) / 2
