"""Random-k: all clients send the same k random entries of their updates (Konečný et al. 2016, "random mask")."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from privfl.federation.transforms import Share, Shared, Transform, count_of
from privfl.seeding import Seed
from privfl.vectors import Layout


class RandomK(Transform):
    """Each round public randomness draws k = ``share`` · D' entries; the server divides them by k/D' (section 3.2 there).

    **Bytes.** 4 k; the indices are not sent. **Error.** It is unbiased, and its relative squared error is D'/k − 1 for every
    vector. **Masks.** It is linear.

    **Privacy.** The indices are public and independent of the data. A client-level plan clips the k entries as they are sent,
    before the division, and its noise is on k numbers. Their norm is √(k/D') of the whole update's on average, so
    ``max_update_norm`` may be smaller by as much.

    With ``share`` = 1 nothing is changed, to the bit.
    """

    linear: ClassVar[bool] = True

    share: Share

    def message(self, layout: Layout) -> Layout:
        """Layout of the k entries."""
        return Layout(("entries",), ((count_of(self.share, layout.size),),))

    def compress(self, payload_D: Tensor, shared: Shared, own: Seed) -> Tensor:  # noqa: ARG002
        """The k entries, in ascending order of their indices."""
        return payload_D[self._places(shared).to(payload_D.device)]

    def restore(self, message_M: Tensor, shared: Shared) -> Tensor:
        """The entries at their places, times D'/k, and zeros elsewhere."""
        size = shared.layout.size
        restored_D = message_M.new_zeros(*message_M.shape[:-1], size)
        restored_D[..., self._places(shared).to(message_M.device)] = message_M * (size / message_M.shape[-1])
        return restored_D

    def _places(self, shared: Shared) -> Tensor:
        size = shared.layout.size
        drawn = shared.stream.numpy().permutation(size)[: count_of(self.share, size)]
        return torch.from_numpy(drawn).sort().values
