"""Storage of a model's inputs during a run: images as bytes, everything else as numbers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from privfl.data.federated import Examples, Pixels

_DTYPE = torch.float32


class InputStore:
    """Store of N inputs, which converts them when they are read.

    Images stay bytes, which takes a quarter of the memory of float32.

    Args:
        kept: the inputs, shape (N, ...); uint8 if there are ``pixels``.
        pixels: mean and standard deviation of the images' channels; None: the inputs are returned unchanged.
    """

    def __init__(self, kept: Tensor, pixels: Pixels | None = None) -> None:
        self.kept, self._pixels = kept, pixels
        if pixels is not None:
            # Made once and not for each batch, since copying them to a GPU makes the program wait for it.
            mean_C, std_C = (torch.tensor(value, dtype=torch.float64)[:, None, None] for value in (pixels.mean_C, pixels.std_C))
            self._factor_C = (1 / (255 * std_C)).to(kept.device, _DTYPE)
            self._shift_C = (mean_C / std_C).to(kept.device, _DTYPE)

    @classmethod
    def of(cls, examples: Examples, pixels: Pixels | None, device: torch.device) -> InputStore:
        """The inputs of these examples, on that device."""
        with warnings.catch_warnings():
            # An array over the bytes of a file is not writable, of which PyTorch warns; nothing here writes to it.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return cls(torch.from_numpy(np.ascontiguousarray(examples.x)), pixels).to(device)

    @classmethod
    def joined(cls, parts: Sequence[InputStore]) -> InputStore:
        """One store of all parts' inputs, in the order of the parts."""
        if all(part._pixels == parts[0]._pixels for part in parts):
            return cls(torch.cat([part.kept for part in parts]), parts[0]._pixels)
        return cls(torch.cat([part[:] for part in parts]))

    def replaced(self, kept: Tensor) -> InputStore:
        """A store of other inputs, kept in the same form as these."""
        return InputStore(kept, self._pixels)

    def to(self, device: torch.device | str) -> InputStore:
        """The same inputs on another device."""
        return InputStore(self.kept.to(device), self._pixels)

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Read some inputs, ready for the model.

        Args:
            rows: indices of type int64 on the device of the inputs, a mask, or a slice.

        Returns:
            shape (n, ...); a byte b of channel c becomes (b / 255 - mean_c) / std_c, float32.
        """
        by_index = isinstance(rows, Tensor) and rows.dtype == torch.int64
        taken = self.kept.index_select(0, rows) if by_index else self.kept[rows]  # type: ignore[arg-type]
        if self._pixels is None:
            # A slice is a view; a model that writes into its input must not change the data.
            return taken.clone() if isinstance(rows, slice) else taken
        return taken.to(_DTYPE).mul_(self._factor_C).sub_(self._shift_C)

    def pixels_of(self, x_n: Tensor) -> Tensor:
        """The reverse: inputs of the model as pixels b / 255 from 0 to 1 if images are kept as bytes, else as they are."""
        return x_n if self._pixels is None else (x_n + self._shift_C) / (255 * self._factor_C)

    @property
    def device(self) -> torch.device:
        """The device on which the inputs are kept and returned."""
        return self.kept.device
