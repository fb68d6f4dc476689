"""A model and its one flat vector: the only form in which a model or an update travels.

A :class:`Layout` fixes the order, names and shapes of a model's parameters. Whatever comes back is checked against it;
nothing is ever loaded loosely.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from privfl.errors import ModelError


@dataclass(frozen=True)
class Layout:
    """Names and shapes of a model's parameters, in order; D = ``size``."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """The layout of ``model``.

        Raises:
            ModelError: the model keeps state outside its parameters (buffers), which a vector would not carry.
        """
        buffers = [name for name, _ in model.named_buffers()]
        if buffers:
            raise ModelError(
                f"the model keeps state in buffers ({', '.join(buffers[:3])}); a federated update carries parameters only: "
                "replace BatchNorm by GroupNorm, and other buffers by parameters or constants"
            )
        named = list(model.named_parameters())
        return cls(tuple(name for name, _ in named), tuple(tuple(value.shape) for _, value in named))

    @property
    def size(self) -> int:
        """D, the number of parameters."""
        return sum(math.prod(shape) for shape in self.shapes)

    def followed_by(self, name: str) -> Layout:
        """The same with one number more at its end."""
        return Layout((*self.names, name), (*self.shapes, ()))

    def to_bytes(self) -> bytes:
        """Names and shapes as JSON in ASCII, a space after each comma: ``[["a", "b"], [[2, 3], [2]]]``."""
        return json.dumps([self.names, self.shapes]).encode()

    def digest(self) -> bytes:
        """SHA-256 of that; two ends that agree on it agree on what each coordinate means."""
        return hashlib.sha256(self.to_bytes()).digest()

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Named tensors -> one float32 vector of length D.

        Raises:
            ModelError: a name is missing or unknown, or a shape differs.
        """
        if set(tensors) != set(self.names):
            differing = sorted(set(tensors) ^ set(self.names))
            raise ModelError(f"these tensors are not this model's: {', '.join(differing[:5])} is missing or unknown")
        for name, shape in zip(self.names, self.shapes, strict=True):
            if tuple(tensors[name].shape) != shape:
                raise ModelError(f"{name} has shape {tuple(tensors[name].shape)}; the model's is {shape}")
        return torch.cat([tensors[name].detach().reshape(-1).to(torch.float32) for name in self.names])

    def unflatten(self, vector_D: Tensor) -> dict[str, Tensor]:
        """One vector of length D -> named tensors (views into it).

        Raises:
            ModelError: the vector's shape is not (D,).
        """
        if tuple(vector_D.shape) != (self.size,):
            raise ModelError(f"a vector of shape {tuple(vector_D.shape)} came for a model of {self.size} parameters")
        parts = torch.split(vector_D, [math.prod(shape) for shape in self.shapes])
        return {name: part.view(shape) for name, shape, part in zip(self.names, self.shapes, parts, strict=True)}


def to_vector(model: nn.Module) -> Tensor:
    """A copy of the model's parameters as one float32 vector of length D."""
    return Layout.of(model).flatten(dict(model.named_parameters()))


@torch.no_grad()
def load_vector(model: nn.Module, vector_D: Tensor) -> None:
    """Write a vector of length D into the model's parameters, in place.

    Raises:
        ModelError: the vector's shape is not (D,).
    """
    parts = Layout.of(model).unflatten(vector_D)
    for name, parameter in model.named_parameters():
        parameter.copy_(parts[name])


def are_finite(vectors: Sequence[Tensor]) -> list[bool]:
    """Of each vector, whether every entry is a finite number; a GPU is waited for once.

    Whatever is not finite leaves a sum that is not: one pass in place of two. A sum can also overflow by itself, so that
    only the entries can say no.
    """
    if not vectors:
        return []
    by_sum = torch.stack([vector_D.sum() for vector_D in vectors]).isfinite().tolist()
    return [found or bool(vector_D.isfinite().all()) for vector_D, found in zip(vectors, by_sum, strict=True)]
