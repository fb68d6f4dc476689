"""A client's payload: named vectors that travel as one.

The vectors are joined before anything is done to them, so one clip, one encoding and one sum cover them all. A plan that
clipped a part only would promise more than it keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from privfl.errors import ItemError
from privfl.vectors import Layout

UPDATE = "update"
"""The part that every payload has: local minus global model, or a multiple of it. It comes first."""

Payload = dict[str, Tensor]


@dataclass(frozen=True)
class PayloadLayout:
    """Names and layouts of a payload's parts, in order; D' is the length of them all.

    The joined layout has the update's names as they are, and ``part:name`` for those of the other parts.
    """

    parts: Mapping[str, Layout]

    @property
    def joined(self) -> Layout:
        """The layout of the joined vector."""
        named = [
            (name if part == UPDATE else f"{part}:{name}", shape)
            for part, layout in self.parts.items()
            for name, shape in zip(layout.names, layout.shapes, strict=True)
        ]
        return Layout(tuple(name for name, _ in named), tuple(shape for _, shape in named))

    def join(self, payload: Payload) -> Tensor:
        """The joined vector, shape (D',).

        Raises:
            ItemError: the payload has other parts, or parts of another length.
        """
        found = {name: tuple(vector_D.shape) for name, vector_D in payload.items()}
        needed = {name: (layout.size,) for name, layout in self.parts.items()}
        if found != needed:
            raise ItemError(f"an algorithm's upload() gave the shapes {found}; its parts() say {needed}")
        vectors = [payload[name] for name in self.parts]
        return vectors[0] if len(vectors) == 1 else torch.cat(vectors)

    def split(self, joined_D: Tensor) -> Payload:
        """The parts of vectors of shape (..., D'), as views."""
        sizes = [layout.size for layout in self.parts.values()]
        return dict(zip(self.parts, torch.split(joined_D, sizes, dim=-1), strict=True))

    def seen(self, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        """The server's view of joined vectors, by name, as one of updates; other parts are named ``part:name``."""
        found = dict(seen)
        for name in ("sum_D", "updates_KD"):
            if name in seen and len(self.parts) > 1:
                parts = self.split(seen[name])
                found |= {name if part == UPDATE else f"{part}:{name}": value for part, value in parts.items()}
        return found
