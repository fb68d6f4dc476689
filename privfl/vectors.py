"""A model and its one flat vector: the only form in which a model or an update travels.

A :class:`Layout` fixes the order, names and shapes of the trained parameters, which are those that require a gradient. Frozen
ones and buffers are constants, which every side has from the model itself. Whatever comes back is checked against the layout;
nothing is ever loaded loosely.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from privfl.errors import ModelError


@dataclass(frozen=True)
class Layout:
    """Names and shapes of a model's trained parameters, in order; D = ``size``."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """The layout of ``model``.

        Raises:
            ModelError: nothing is trained; or a layer keeps running means in buffers, which a vector would not carry.
        """
        for name, module in model.named_modules():
            if isinstance(module, _NormBase) and module.running_mean is not None:
                raise written(f"{name}.running_mean" if name else "running_mean")
        named = trained(model)
        if not named:
            raise ModelError(
                "none of the model's parameters requires a gradient, so there is nothing to train; "
                "leave requires_grad = True with those that are to be trained"
            )
        return cls(tuple(named), tuple(tuple(value.shape) for value in named.values()))

    @property
    def size(self) -> int:
        """D, how many numbers are trained."""
        return sum(math.prod(shape) for shape in self.shapes)

    def followed_by(self, name: str) -> Layout:
        """The same with one number more at its end."""
        return Layout((*self.names, name), (*self.shapes, ()))

    def without(self, names: Collection[str]) -> Layout:
        """The same without some parameters."""
        kept = [(name, shape) for name, shape in zip(self.names, self.shapes, strict=True) if name not in names]
        return Layout(tuple(name for name, _ in kept), tuple(shape for _, shape in kept))

    def places(self, names: Collection[str]) -> Tensor:
        """Whether each entry belongs to one of these parameters, bool, shape (D,)."""
        of = [torch.full((math.prod(s),), name in names) for name, s in zip(self.names, self.shapes, strict=True)]
        return torch.cat(of)

    def spread(self, vectors: Tensor, whole: Layout) -> Tensor:
        """Vectors of this layout, shape (..., D), as vectors of one with more parameters, in which those are 0."""
        if self == whole:
            return vectors
        found = vectors.new_zeros((*vectors.shape[:-1], whole.size))
        found[..., whole.places(self.names).to(vectors.device)] = vectors
        return found

    def to_bytes(self) -> bytes:
        """Names and shapes as JSON in ASCII, a space after each comma: ``[["a", "b"], [[2, 3], [2]]]``."""
        return json.dumps([self.names, self.shapes]).encode()

    def digest(self) -> bytes:
        """SHA-256 of that; two ends that agree on it agree on the meaning of each coordinate."""
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


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient, in order; one that several layers share comes once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def constants(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model that no vector carries: its frozen parameters and its buffers."""
    frozen = {name: value.detach() for name, value in model.named_parameters() if not value.requires_grad}
    return frozen | dict(model.named_buffers())


def written(name: str) -> ModelError:
    """The error that a layer writes a constant."""
    return ModelError(
        f"{name} is written by a layer when examples go through it, and a federated update carries trained parameters only: "
        "replace BatchNorm by GroupNorm, and whatever else keeps running values by a layer that keeps none"
    )


def to_vector(model: nn.Module) -> Tensor:
    """A copy of the model's trained parameters as one float32 vector of length D."""
    return Layout.of(model).flatten(trained(model))


@torch.no_grad()
def load_vector(model: nn.Module, vector_D: Tensor) -> None:
    """Write a vector of length D into the model's trained parameters, in place.

    Raises:
        ModelError: the vector's shape is not (D,).
    """
    parts = Layout.of(model).unflatten(vector_D)
    for name, parameter in trained(model).items():
        parameter.copy_(parts[name])


def state_of(model: nn.Module, vector_D: Tensor) -> dict[str, Tensor]:
    """The state for the model's ``load_state_dict``: these parameters and its constants, on the CPU, each in its own memory.

    A parameter that several layers share comes under each of its names.
    """
    parts = Layout.of(model).unflatten(vector_D)
    of_parameter = {id(parameter): parts[name] for name, parameter in trained(model).items()}
    found = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found[name] = of_parameter.get(id(parameter), parameter)
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in found.items()}


def are_finite(vectors: Sequence[Tensor]) -> list[bool]:
    """Whether every entry is a finite number, for each vector; a GPU is waited for once.

    Whatever is not finite leaves a sum that is not: one pass in place of two. A sum can also overflow by itself, so that
    only the entries can say no.
    """
    if not vectors:
        return []
    by_sum = torch.stack([vector_D.sum() for vector_D in vectors]).isfinite().tolist()
    return [found or bool(vector_D.isfinite().all()) for vector_D, found in zip(vectors, by_sum, strict=True)]
