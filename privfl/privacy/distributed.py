"""Distributed differential privacy: each client adds integer noise, and only the sum modulo 2^bits is revealed.

A client clips its update in L2, rotates it at random so that no coordinate stands out, scales it, rounds it to integers at
random, adds its share of the noise and wraps around modulo 2^bits. The server undoes scale and rotation on the sum. The
release of a sum is priced by :meth:`DistributedCodec.mechanism`.

Sources: Kairouz, Liu & Steinke 2021, "The distributed discrete Gaussian mechanism for federated learning with secure
aggregation", algorithms 1 and 2, sections 4.2 and 4.4, proposition 22; Agarwal, Kairouz & Liu 2021, "The Skellam mechanism
for differentially private federated learning", section 4. Numbers as in arXiv:2102.06387 and arXiv:2110.04995.
"""

from __future__ import annotations

import functools
import math
import struct
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from privfl.errors import ConfigError, PrivacyError
from privfl.privacy import integer_noise
from privfl.privacy.mechanisms import DiscreteGaussianSum, SkellamSum
from privfl.privacy.streams import RandomStream

Floats = NDArray[np.floating[Any]]

Noise = Literal["skellam", "discrete_gaussian"]

_LABEL: Final = b"privfl distributed noise"
_BYTES: Final = struct.Struct("<BBQQdddd")

# Largest useful standard deviation of a share, in integers: rounding adds a quarter to a variance of a million.
_FINEST: Final = 1000.0

# Each rounding is accepted with probability at least 1 − β, so a thousand refusals in a row do not happen.
_TRIES: Final = 1000


@dataclass(frozen=True)
class DistributedCodec:
    """Codec of distributed noise: encodes a client's update as noisy integers, and decodes a sum of such vectors.

    **Guarantees.** For every update, a client's integers before noise have an L2 norm of at most :attr:`sensitivity_l2`,
    because a rounding that exceeds it is drawn again. That costs no privacy, as the price is that of the bound; it costs a
    bias of at most √(β / (1 − β)) / 2 steps in L2. Rounding depends on the client's own update only. The wrap-around and
    everything that the server computes are post-processing of a noisy sum over the integers. The noise is exact.

    ================  =================================================================================================
    edge              result
    ================  =================================================================================================
    a zero update     noise alone, without rounding error
    non-finite entry  refused; nothing is sent
    the sum wraps     rotated entries are wrong by multiples of 2^bits / scale; privacy is not affected
    dropouts          less noise in the sum: as much as promised at ``survivors`` honest clients, too little below, so the
                      aggregation must refuse to reveal a sum of fewer
    ================  =================================================================================================

    Args:
        noise: the distribution of a share.
        dimension: D, the length of an update.
        clip: the L2 norm to which an update is clipped.
        bits: the sum is taken modulo 2^bits; from 8 to 32.
        scale: 1/γ, the integers per unit of the update.
        variance: variance of one client's share on one entry, in integers squared.
        survivors: the smallest number of honest clients in the sum.
        rotation_key: 32 bytes, public, the same for all clients of a sum, chosen independently of all updates.
        beta: each rounding is accepted with probability at least 1 − β; in [0, 1).
    """

    noise: Noise
    dimension: int
    clip: float
    bits: int
    scale: float
    variance: float
    survivors: int
    rotation_key: bytes
    beta: float = math.exp(-0.5)

    def __post_init__(self) -> None:
        if not 8 <= self.bits <= 32:
            raise ConfigError(f"bits = {self.bits}: must be from 8 to 32; set another number")
        if not 0 <= self.beta < 1:
            raise ConfigError(f"beta = {self.beta}: must be at least 0 and below 1; set another value")
        if not (self.dimension >= 1 and self.survivors >= 1 and 0 < self.clip < math.inf and 0 < self.scale < math.inf):
            raise ConfigError(
                f"dimension {self.dimension}, survivors {self.survivors}, clip {self.clip}, scale {self.scale}: "
                "all must be positive and finite; change the one that is not"
            )
        if self.clip * self.scale + math.sqrt(self.length) >= 2**31:
            raise ConfigError(f"clip · scale = {self.clip * self.scale:g}: integers must stay below 2^31; take fewer bits")

    def to_bytes(self) -> bytes:
        """The settings that all clients must share, as bytes.

        Little-endian: label, noise u8 (0 Skellam, 1 discrete Gaussian), bits u8, dimension u64, survivors u64, clip, scale,
        variance and beta f64, rotation key.
        """
        kind = get_args(Noise).index(self.noise)
        numbers = (self.dimension, self.survivors, self.clip, self.scale, self.variance, self.beta)
        return _LABEL + _BYTES.pack(kind, self.bits, *numbers) + self.rotation_key

    @classmethod
    def fit(
        cls,
        noise: Noise,
        *,
        dimension: int,
        clip: float,
        bits: int,
        clients: int,
        survivors: int,
        noise_multiplier: float,
        rotation_key: bytes,
        beta: float = math.exp(-0.5),
        deviations: float = 4.0,
    ) -> Self:
        """The codec of the finest scale at which ``deviations`` standard deviations of an entry of the sum do not wrap.

        2^b = 2k √(c²n²/d + n (γ²/4 + σ²)) / γ, solved for 1/γ (Kairouz, Liu & Steinke 2021, section 4.4), with n clients and
        σ = z c / √survivors for a share.

        Args:
            noise: the distribution of a share.
            dimension: D, the length of an update.
            clip: c, the L2 norm to which an update is clipped.
            bits: b, from 8 to 32.
            clients: n, the largest number of clients in a sum.
            survivors: the smallest number of honest clients in the sum.
            noise_multiplier: z, the standard deviation of the noise of ``survivors`` shares, over c.
            rotation_key: 32 bytes, public, the same for all clients of a sum.
            beta: each rounding is accepted with probability at least 1 − β.
            deviations: k.

        Raises:
            ConfigError: the bits are too few for such a sum, or an argument is out of range.
        """
        if not 1 <= survivors <= clients:
            raise ConfigError(
                f"at least {survivors} survivors among {clients} clients: must be from 1 to {clients}; lower survivors"
            )
        if not 0 < noise_multiplier < math.inf:
            raise ConfigError(f"noise_multiplier = {noise_multiplier}: must be positive and finite; set another value")
        room = 4.0**bits - clients * deviations**2
        if room <= 0:
            raise ConfigError(f"bits = {bits}: must be more for a sum over {clients} clients; take more bits or fewer clients")
        length, share = _padded(dimension), noise_multiplier * clip / math.sqrt(survivors)
        spread = math.sqrt(clip**2 * clients**2 / length + clients * share**2)
        scale = min(math.sqrt(room) / (2 * deviations * spread), _FINEST / share)
        return cls(noise, dimension, clip, bits, scale, (share * scale) ** 2, survivors, rotation_key, beta)

    @property
    def length(self) -> int:
        """Number of words that a client sends: D, padded to a power of two."""
        return _padded(self.dimension)

    @property
    def sensitivity_l2(self) -> float:
        """The largest L2 norm of a client's integers before noise (proposition 22).

        Δ² = min(s²c² + d/4 + √(2 log 1/β) (sc + √d/2), (sc + √d)²)
        """
        size, root = self.clip * self.scale, math.sqrt(self.length)
        if self.beta == 0:
            return size + root
        squared = size**2 + self.length / 4 + math.sqrt(2 * math.log(1 / self.beta)) * (size + root / 2)
        return min(math.sqrt(squared), size + root)

    @property
    def sensitivity_l1(self) -> float:
        """The largest L1 norm of a client's integers: at most √d times the L2 norm, and at most its square."""
        return self.sensitivity_l2 * min(math.sqrt(self.length), self.sensitivity_l2)

    @property
    def noise_deviation(self) -> float:
        """Standard deviation of the noise of ``survivors`` shares on one entry of the decoded sum."""
        return math.sqrt(self.variance * self.survivors) / self.scale

    def mechanism(self, sample_rate: float = 1.0) -> SkellamSum | DiscreteGaussianSum:
        """The release of one sum about one client.

        Args:
            sample_rate: below 1 only if each client enters independently and no adversary of the guarantee sees who did.
        """
        kind = SkellamSum if self.noise == "skellam" else DiscreteGaussianSum
        return kind(self.sensitivity_l1, self.sensitivity_l2, self.length, self.variance, self.survivors, sample_rate)

    def encode(self, delta_D: Floats, rounding: RandomStream, noise: RandomStream) -> NDArray[np.uint32]:
        """A client's message: ``length`` words, each below 2^bits.

        Args:
            delta_D: the update; it is clipped here.
            rounding: source of the random rounding.
            noise: source of the share of noise; secret, and used for nothing else.

        Raises:
            PrivacyError: the update is not finite, or its length is not D.
        """
        integers_L = self._rounded(self._rotated(delta_D), rounding)
        sampler = integer_noise.skellam if self.noise == "skellam" else integer_noise.discrete_gaussian
        integers_L += sampler(self.variance, self.length, noise)
        return (integers_L & ((1 << self.bits) - 1)).astype(np.uint32)

    def decode(self, sum_L: NDArray[np.uint32]) -> NDArray[np.float64]:
        """The sum of the clipped updates plus noise, of length D, from the sum of messages modulo 2^bits."""
        half = 1 << (self.bits - 1)
        signed_L = ((sum_L.astype(np.int64) + half) & ((1 << self.bits) - 1)) - half
        return (hadamard(signed_L / self.scale) * self._signs)[: self.dimension]

    @functools.cached_property
    def _signs(self) -> NDArray[np.float64]:
        words = RandomStream(self.rotation_key).words(-(-self.length // 64))
        bits_L = np.unpackbits(words.view(np.uint8))[: self.length]
        return np.asarray(1.0 - 2.0 * bits_L, np.float64)

    def _rotated(self, delta_D: Floats) -> NDArray[np.float64]:
        """The update after clipping, padding with zeros, random signs, Hadamard transform and scaling."""
        if delta_D.shape != (self.dimension,):
            raise PrivacyError(f"an update of shape {delta_D.shape}: must be ({self.dimension},); flatten it first")
        peak = float(np.abs(delta_D).max())
        if not math.isfinite(peak):
            raise PrivacyError(f"an update with an entry of {peak}: must be finite; send a zero update instead")
        padded_L = np.zeros(self.length)
        if peak:
            # Divide by the largest entry first, because the square of an entry may overflow.
            padded_L[: self.dimension] = delta_D / np.float64(peak)
            norm = float(np.linalg.norm(padded_L))
            padded_L *= min(peak, self.clip / norm)
        return hadamard(padded_L * self._signs) * self.scale

    def _rounded(self, real_L: NDArray[np.float64], rounding: RandomStream) -> NDArray[np.int64]:
        """Each entry rounded up or down at random, so that its mean is kept; drawn again until the norm is within its bound."""
        floor_L = np.floor(real_L)
        part_L, down_L = real_L - floor_L, floor_L.astype(np.int64)
        for _ in range(_TRIES):
            uniform_L = (rounding.words(self.length) >> np.uint64(11)) * 2.0**-53
            integers_L = down_L + (uniform_L < part_L)
            # The product is below 2^62, so it is exact.
            if int(integers_L @ integers_L) <= self.sensitivity_l2**2:
                return integers_L
        raise PrivacyError(f"no rounding within the norm {self.sensitivity_l2:g} in {_TRIES} tries; check clip and scale")


def hadamard(real_L: NDArray[np.float64]) -> NDArray[np.float64]:
    """The orthonormal Walsh–Hadamard transform, which is its own inverse; the length must be a power of two.

    Each pass forms the sums and the differences of the two halves and interleaves them.
    """
    now, other, half = real_L.copy(), np.empty_like(real_L), len(real_L) // 2
    for _ in range(len(real_L).bit_length() - 1):
        np.add(now[:half], now[half:], out=other[0::2])
        np.subtract(now[:half], now[half:], out=other[1::2])
        now, other = other, now
    return now / math.sqrt(len(real_L))


def _padded(dimension: int) -> int:
    return 1 << (dimension - 1).bit_length()
