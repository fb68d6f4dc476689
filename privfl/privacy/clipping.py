"""Clipping of a client's whole update, which bounds its contribution to a sum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from privfl.vectors import Layout


@dataclass(frozen=True)
class Clipped:
    """A clipped update, and whether it was within the norm before clipping."""

    delta_D: Tensor
    within: bool


def clip_update(delta_D: Tensor, norm: float, layout: Layout, scheme: Literal["flat", "per_layer"]) -> Clipped:
    """Scale an update to an L2 norm of at most ``norm`` (McMahan 2018, section 2.1).

    **Guarantees.** ‖result‖₂ ≤ ``norm`` for every update, up to float32 rounding (a relative 1e-6). An update that holds a
    NaN or an infinity becomes zero. A zero update stays zero.

    Args:
        delta_D: the update.
        norm: C > 0.
        layout: names and shapes of the parameter tensors in the vector.
        scheme: ``flat`` gives Δ · min(1, C/‖Δ‖); ``per_layer`` clips each of L tensors by itself, to C/√L.

    Returns:
        the clipped update; ``within`` is True if nothing was scaled, and False for a non-finite update.
    """
    if not bool(torch.isfinite(delta_D).all()):
        return Clipped(torch.zeros_like(delta_D), within=False)
    parts = [delta_D] if scheme == "flat" else list(layout.unflatten(delta_D).values())
    limit = norm / math.sqrt(len(parts))
    # Norms in float64, because the square of a large float32 overflows.
    lengths = [float(part.double().norm()) for part in parts]
    scaled = [
        (part * (limit / length) if length > limit else part).reshape(-1) for part, length in zip(parts, lengths, strict=True)
    ]
    return Clipped(torch.cat(scaled), within=all(length <= limit for length in lengths))
