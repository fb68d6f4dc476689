"""FetchSGD: clients send count sketches, and the server takes the largest entries of their mean (Rothchild et al. 2020)."""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from privfl.federation.transforms import Share, Shared, State, Transform, count_of
from privfl.seeding import Seed
from privfl.vectors import Layout

_ERROR = "error"


class CountSketch(Transform):
    """Each of ``rows`` hash functions adds every entry, with a random sign, to one of c columns; rows · c = ``share`` · D'.

    The server adds the mean sketch to the error sketch, estimates each entry by the median over the rows, and takes the ``top``
    share of entries of largest absolute value. It sets to zero the columns of the error sketch that these entries are added to,
    as the authors' code does; algorithm 1 subtracts their sketch, which diverges if most estimates are noise. The algorithm's
    momentum is the server optimizer's part (``server = "fedavgm"``). Clients keep nothing.

    The sketch is divided by √rows, so that its norm is the vector's on average. ``hash_seed`` fixes the hash functions, which
    are the same in all rounds.

    **Bytes.** 4 rows c. **Error.** The mean of the rows' estimates is unbiased over the hash functions, with a relative squared
    error near D'/(rows c); the server's choice of the largest entries is biased, and the rest stays in the error sketch.
    **Masks.** It is linear.

    **Privacy.** A client-level plan clips the sketch itself, and its noise is on rows · c numbers. The error sketch is made of
    released means.
    """

    linear: ClassVar[bool] = True

    rows: PositiveInt = 5
    share: Share = 0.25
    top: Share = 0.2
    hash_seed: NonNegativeInt = 0

    def message(self, layout: Layout) -> Layout:
        """The sketch."""
        return Layout(("sketch",), ((self.rows, self._columns(layout)),))

    def init(self, layout: Layout, stream: Seed) -> State:  # noqa: ARG002
        """``error``: the sketch of all that was not taken yet."""
        return {_ERROR: torch.zeros(self.rows * self._columns(layout))}

    def compress(self, payload_D: Tensor, shared: Shared, own: Seed) -> Tensor:  # noqa: ARG002
        """The sketch of the payload."""
        places_RD, signs_RD = self._hashes(shared.layout, payload_D)
        sketch_M = payload_D.new_zeros(self.rows * self._columns(shared.layout))
        sketch_M.index_add_(0, places_RD.reshape(-1), (signs_RD * payload_D).reshape(-1))
        return sketch_M / math.sqrt(self.rows)

    def restore(self, message_M: Tensor, shared: Shared) -> Tensor:
        """The mean of the rows' estimates."""
        rows = message_M.chunk(self.rows, -1)
        places_RD, signs_RD = self._hashes(shared.layout, message_M)
        first_R = self._columns(shared.layout) * torch.arange(self.rows, device=message_M.device)
        parts = zip(rows, places_RD - first_R[:, None], signs_RD, strict=True)
        total_D = sum((row[..., places_D] * signs_D for row, places_D, signs_D in parts), message_M.new_zeros(()))
        return total_D / math.sqrt(self.rows)

    def at_server(self, mean_M: Tensor, shared: Shared) -> tuple[Tensor, State]:
        """See the class."""
        whole_M = mean_M + shared.state[_ERROR].to(mean_M)
        estimate_D = self._estimates(whole_M, shared).median(-2).values
        kept = count_of(self.top, len(estimate_D))
        places = estimate_D.abs().sort(descending=True, stable=True).indices[:kept]
        taken_D = torch.zeros_like(estimate_D)
        taken_D[places] = estimate_D[places]
        cleared_M = self.compress(taken_D, shared, shared.stream) != 0
        return taken_D, {_ERROR: whole_M.masked_fill(cleared_M, 0.0)}

    def _columns(self, layout: Layout) -> int:
        return max(1, round(self.share * layout.size / self.rows))

    def _estimates(self, message_M: Tensor, shared: Shared) -> Tensor:
        """Each row's estimate of each entry, shape (rows, D')."""
        places_RD, signs_RD = self._hashes(shared.layout, message_M)
        return message_M[places_RD] * signs_RD * math.sqrt(self.rows)

    def _hashes(self, layout: Layout, like: Tensor) -> tuple[Tensor, Tensor]:
        """The place in the sketch and the sign of each entry in each row, both of shape (rows, D')."""
        places_RD, signs_RD = _drawn(self.hash_seed, self.rows, self._columns(layout), layout.size)
        return places_RD.to(like.device), signs_RD.to(like)


@functools.lru_cache(maxsize=2)
def _drawn(hash_seed: int, rows: int, columns: int, size: int) -> tuple[Tensor, Tensor]:
    generator = (Seed(hash_seed) / "count sketch").numpy()
    places_RD = generator.integers(0, columns, (rows, size)) + columns * np.arange(rows)[:, None]
    signs_RD = 2 * generator.integers(0, 2, (rows, size)) - 1
    return torch.from_numpy(places_RD), torch.from_numpy(signs_RD)
