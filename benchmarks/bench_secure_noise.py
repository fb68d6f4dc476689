"""What does secure noise cost? Noise on a sum by ``SecureNoise`` beside PyTorch's ``normal_``, and exact integer noise.

All on one core; ``normal_`` is what an experiment's seeded noise takes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from _harness import Figures, Sample, figures, interleaved, options, print_table, write_json

from privfl.privacy import integer_noise
from privfl.privacy.noise import SecureNoise
from privfl.privacy.streams import RandomStream

CNN = 26_010
QUICK = (CNN, 100_000)
FULL = (CNN, 100_000, 1_000_000)


def measure(dimension: int, repeats: int) -> dict[str, Sample]:
    """All figures for one length."""
    value, secure, stream = torch.zeros(dimension), SecureNoise(), RandomStream.from_os()
    generator = torch.Generator().manual_seed(0)
    taken = interleaved(
        {
            "normal": lambda: value + torch.empty(dimension).normal_(generator=generator),
            "secure": lambda: secure.added(value, 1.0),
            "discrete_gaussian": lambda: integer_noise.discrete_gaussian(1e4, dimension, stream),
            "skellam": lambda: integer_noise.skellam(1e4, dimension, stream),
            "words": lambda: stream.words(dimension),
        },
        repeats,
    )
    return {f"{name}_ms": sample.times(1e3) for name, sample in taken.items()} | {
        "secure_over_normal_time": taken["secure"].over(taken["normal"])
    }


def main(argv: Sequence[str] | None = None, sizes: Sequence[int] | None = None) -> int:
    """Measure, then print or write."""
    chosen = options("What does secure noise cost?", argv)
    torch.set_num_threads(1)
    flat: Figures = {}
    columns: dict[str, dict[str, str]] = {}
    for dimension in sizes or (QUICK if chosen.quick else FULL):
        samples = measure(dimension, 7 if chosen.quick else 21)
        flat |= figures(f"d{dimension}", samples)
        columns[f"D = {dimension:,}"] = {
            "normal_, ms": f"{samples['normal_ms']:.3f}",
            "secure noise, ms": f"{samples['secure_ms']:.3f}",
            "secure / normal_ time": f"{samples['secure_over_normal_time']:.1f}",
            "discrete Gaussian, σ = 100, ms": f"{samples['discrete_gaussian_ms']:.3f}",
            "Skellam, σ = 100, ms": f"{samples['skellam_ms']:.3f}",
            "  a random word each, ms": f"{samples['words_ms']:.3f}",
        }
    if chosen.json is not None:
        write_json(chosen.json, flat)
    else:
        print_table("Secure noise: median ± half the interquartile range", columns)
    return 0


if __name__ == "__main__":
    sys.exit(main())
