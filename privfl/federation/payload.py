"""A client's payload: named vectors that are joined into one vector before they are sent.

Clipping, encoding and summing all act on the joined vector, so none of them can miss a part. A plan that clipped only some of
the parts would promise more privacy than it gives.
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
    """Names and layouts of a payload's parts, in order. D' is the length of all of them together.

    ``model`` is the layout of the model; the update may lack some of its parameters, which stay at the clients.
    The joined layout keeps the names of the update's parameters and calls those of any other part ``part:name``.
    """

    parts: Mapping[str, Layout]
    model: Layout

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
        """Join the parts into one vector of shape (D',).

        Raises:
            ItemError: the payload has other parts, or a part of another length.
        """
        found = {name: tuple(vector_D.shape) for name, vector_D in payload.items()}
        needed = {name: (layout.size,) for name, layout in self.parts.items()}
        if found != needed:
            raise ItemError(f"an algorithm's upload() returned the shapes {found}; they must be those of its parts(): {needed}")
        vectors = [payload[name] for name in self.parts]
        return vectors[0] if len(vectors) == 1 else torch.cat(vectors)

    def split(self, joined_D: Tensor) -> Payload:
        """Split vectors of shape (..., D') into their parts, as views."""
        sizes = [layout.size for layout in self.parts.values()]
        return dict(zip(self.parts, torch.split(joined_D, sizes, dim=-1), strict=True))

    def seen(self, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        """The server's view with joined vectors split into parts; a part other than the update is called ``part:name``.

        An update that lacks parameters of the model has zeros in their places, the change that the server knows of.
        """
        found = dict(seen)
        for name in ("sum_D", "updates_KD"):
            if name in seen:
                parts = self.split(seen[name]) if len(self.parts) > 1 else {UPDATE: seen[name]}
                found |= {name if part == UPDATE else f"{part}:{name}": value for part, value in parts.items()}
                found[name] = self.parts[UPDATE].spread(found[name], self.model)
        return found
