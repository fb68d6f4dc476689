"""One seed -> named, independent streams of randomness.

No other module makes randomness out of nothing. A stream is named by a path, for example
``Seed(0) / "round" / 3 / "client" / 17 / "noise"``; two different paths never share a stream, so a run that is resumed
in the middle draws exactly the numbers of the uninterrupted run.

These streams make *experiments* repeatable. Anybody who knows the seed can subtract the noise: a deployment draws its
noise from the operating system instead. The keys of secure aggregation are always drawn from the operating system.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

# How PyTorch lays out the state of its CPU generator (ATen/CPUGeneratorImpl.cpp, CPUGeneratorImplStateLegacy): the seed
# (8 bytes), `left` and `seeded` (4 each), `next` (8), then the 624 words of MT19937, each in 8 bytes.
_WORDS_AT, _WORDS = 24, 624


@dataclass(frozen=True)
class Seed:
    """A node in the tree of streams.

    Args:
        root: the run's seed, any integer.
        path: names from the root to this node.
    """

    root: int
    path: tuple[str | int, ...] = ()

    def __truediv__(self, name: str | int) -> Seed:
        """The child stream of that name; ``"1"`` and ``1`` are different names."""
        return Seed(self.root, (*self.path, name))

    def key(self, size: int = 32) -> bytes:
        """``size`` bytes, SHAKE-256 of the root and the path (each part tagged with its type and length)."""
        digest = hashlib.shake_256(b"privfl seed")
        for part in (self.root, *self.path):
            text = str(part).encode()
            digest.update(type(part).__name__.encode() + len(text).to_bytes(4, "big") + text)
        return digest.digest(size)

    def numpy(self) -> np.random.Generator:
        """A NumPy generator (PCG64, seeded with 256 bits)."""
        return np.random.default_rng(int.from_bytes(self.key(), "big"))

    def torch(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A PyTorch generator on ``device``.

        ``torch.Generator.manual_seed`` keeps only 32 bits on the CPU, so that among 100,000 streams one would expect
        a collision, that is, two clients with the same noise. The whole state of the Mersenne Twister is set instead.
        """
        generator = torch.Generator(device)
        if generator.device.type != "cpu":
            return generator.manual_seed(int.from_bytes(self.key(8), "big") >> 1)
        state = _seeded_state().copy()
        state[_WORDS_AT : _WORDS_AT + 8 * _WORDS].view(np.uint64)[:] = np.frombuffer(self.key(4 * _WORDS), np.uint32)
        return generator.set_state(torch.from_numpy(state))


@functools.cache
def _seeded_state() -> NDArray[np.uint8]:
    """The state of a CPU generator that was just seeded, in bytes; each stream puts words of its own into a copy."""
    state: NDArray[np.uint8] = torch.Generator().manual_seed(0).get_state().numpy()
    return state


assert sys.byteorder == "little", "the generator's state is written for little-endian machines"
