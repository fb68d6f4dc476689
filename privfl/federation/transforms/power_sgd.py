"""PowerSGD: matrices are sent as two thin factors, on bases that follow the updates (Vogels et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from privfl.federation.transforms import Shared, State, Transform
from privfl.seeding import Seed
from privfl.vectors import Layout


class PowerSgd(Transform):
    """A client sends M Q and Mᵀ P for each a × b matrix M of its payload; P and Q are public bases of ``rank`` r columns.

    The server restores P (Mᵀ P)ᵀ + (M Q) Qᵀ − P Pᵀ (M Q) Qᵀ: all of M but (1 − P Pᵀ) M (1 − Q Qᵀ). The next P and Q are the
    orthonormal bases of the mean M Q and of the mean Mᵀ P, one step of the power iteration on each side. They begin at random.
    A vector, and a matrix that has no more entries than its factors, is sent whole. A convolution's weights are a matrix with a
    row for each channel that it gives.

    The paper's algorithm 1 sends M Q, orthonormalises the mean and then sends Mᵀ P with the new P. That takes two exchanges
    with two sums. Here both use the bases of the last round: one exchange of the same r (a + b) numbers, one clip, one release.

    **Bytes.** 4 r (a + b) for a matrix. **Error.** It is biased; the rest of M is added to the next upload. **Masks.** It is
    linear.

    **Privacy.** The bases are made of released means. A client-level plan clips both factors together, and its noise is on
    r (a + b) numbers.

    With ``rank`` = min(a, b) nothing is changed, to the bit.
    """

    linear: ClassVar[bool] = True
    remembers: ClassVar[bool] = True

    rank: PositiveInt = 2

    def message(self, layout: Layout) -> Layout:
        """M Q and Mᵀ P for each matrix, called ``name:left`` and ``name:right``; other tensors as they are."""
        names, shapes = list[str](), list[tuple[int, ...]]()
        for name, shape in zip(layout.names, layout.shapes, strict=True):
            if (sides := self._sides(shape)) is None:
                names, shapes = [*names, name], [*shapes, shape]
            else:
                names += [f"{name}:left", f"{name}:right"]
                shapes += [(sides[0], self.rank), (sides[1], self.rank)]
        return Layout(tuple(names), tuple(shapes))

    def init(self, layout: Layout, stream: Seed) -> State:
        """Random orthonormal bases: ``left.i`` is P and ``right.i`` is Q of the tensor at place i."""
        found: State = {}
        for place, shape in enumerate(layout.shapes):
            if (sides := self._sides(shape)) is not None:
                for name, rows in zip(("left", "right"), sides, strict=True):
                    drawn = torch.randn(rows, self.rank, generator=(stream / name / place).torch())
                    found[f"{name}.{place}"] = torch.linalg.qr(drawn).Q
        return found

    def compress(self, payload_D: Tensor, shared: Shared, own: Seed) -> Tensor:  # noqa: ARG002
        """The factors of each matrix on the public bases."""
        sent = []
        for place, _, matrix in self._tensors(payload_D, shared.layout):
            if (bases := _bases(shared.state, place, payload_D)) is None:
                sent.append(matrix.reshape(-1))
            else:
                left, right = bases
                sent += [(matrix @ right).reshape(-1), (matrix.T @ left).reshape(-1)]
        return torch.cat(sent)

    def restore(self, message_M: Tensor, shared: Shared) -> Tensor:
        """All of each matrix that its factors determine."""
        if message_M.dim() > 1:
            return torch.stack([self.restore(one, shared) for one in message_M])
        restored, parts = [], iter(_parts(message_M, self.message(shared.layout)))
        for place in range(len(shared.layout.shapes)):
            part = next(parts)
            if (bases := _bases(shared.state, place, message_M)) is not None:
                left, right = bases
                # M̂ = P Wᵀ + (Y − P Pᵀ Y) Qᵀ with Y = M Q and W = Mᵀ P.
                part = left @ next(parts).T + (part - left @ (left.T @ part)) @ right.T
            restored.append(part.reshape(-1))
        return torch.cat(restored)

    def at_server(self, mean_M: Tensor, shared: Shared) -> tuple[Tensor, State]:
        """The restored mean, and the bases of its factors."""
        state, parts = dict(shared.state), iter(_parts(mean_M, self.message(shared.layout)))
        for place in range(len(shared.layout.shapes)):
            part = next(parts)
            if f"left.{place}" in state:
                for name, factor in (("left", part), ("right", next(parts))):
                    state[f"{name}.{place}"] = _orthonormal(factor, state[f"{name}.{place}"])
        return self.restore(mean_M, shared), state

    def _sides(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """The numbers of rows and of columns of a tensor that is sent as factors; None if it is sent whole."""
        if len(shape) < 2:
            return None
        rows, columns = shape[0], math.prod(shape[1:])
        return (rows, columns) if self.rank * (rows + columns) < rows * columns else None

    def _tensors(self, payload_D: Tensor, layout: Layout) -> Iterator[tuple[int, tuple[int, ...], Tensor]]:
        for place, (shape, part) in enumerate(zip(layout.shapes, _parts(payload_D, layout), strict=True)):
            yield place, shape, part.reshape(shape[0], -1) if len(shape) > 1 else part


def _parts(vector_D: Tensor, layout: Layout) -> list[Tensor]:
    pieces = torch.split(vector_D, [math.prod(shape) for shape in layout.shapes])
    return [piece.reshape(shape) for piece, shape in zip(pieces, layout.shapes, strict=True)]


def _bases(state: State, place: int, like: Tensor) -> tuple[Tensor, Tensor] | None:
    if f"left.{place}" not in state:
        return None
    return state[f"left.{place}"].to(like), state[f"right.{place}"].to(like)


def _orthonormal(factor: Tensor, before: Tensor) -> Tensor:
    """An orthonormal basis of the factor's columns; the basis before if they are zero or not finite."""
    if not bool(factor.isfinite().all()) or not bool(factor.any()):
        return before
    # On the CPU and in double precision, so that all machines agree on the basis.
    basis: Tensor = torch.linalg.qr(factor.detach().cpu().double()).Q
    return basis.to(before)
