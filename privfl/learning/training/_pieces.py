"""Cuts the batches of a cohort's step into pieces that fit the memory budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """Some examples of consecutive clients; of client ``first + j`` the part ``spans[j]``, from and to, of its batch."""

    first: int
    spans: tuple[tuple[int, int], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many examples of each client."""
        return tuple(stop - start for start, stop in self.spans)


def pieces(sizes: Sequence[int], limit: int, *, padded: bool = False) -> Iterator[Piece]:
    """Pieces of at most ``limit`` examples that hold every example of every batch once.

    A client's batch is cut only if it alone is longer than a piece may be.

    Args:
        sizes: the length of each client's batch.
        limit: at least 1.
        padded: whether each batch of a piece will be as long as its longest.
    """
    first, spans, taken, longest = 0, list[tuple[int, int]](), 0, 0
    for client, size in enumerate(sizes):
        would_be = max(longest, size) * (len(spans) + 1) if padded else taken + size
        if would_be > limit and spans:
            yield Piece(first, tuple(spans))
            first, spans, taken, longest = client, [], 0, 0
        for start in range(0, max(size - limit, 0), limit):
            yield Piece(client, ((start, start + limit),))
        rest = (size - 1) % limit + 1 if size else 0
        spans.append((size - rest, size))
        taken, longest = taken + rest, max(longest, rest)
    if spans:
        yield Piece(first, tuple(spans))
