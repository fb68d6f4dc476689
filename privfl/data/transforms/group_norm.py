"""Group normalisation of each example's channels, without learned parameters."""

from __future__ import annotations

from pydantic import PositiveInt
from torch import Tensor
from torch.nn.functional import group_norm

from privfl.data.transforms import RowTransform
from privfl.errors import DataError


class GroupNorm(RowTransform):
    """Each group of channels of an example gets mean 0 and variance 1 over its channels and positions.

    Source: Wu & He 2018, equations 1 to 7, without γ and β; on scattering features Tramèr & Boneh 2021, section 2.3.

    Args:
        groups: G, a divisor of the number of channels C.
    """

    groups: PositiveInt

    def rows(self, x_B: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...)."""
        if x_B.ndim < 2 or x_B.shape[1] % self.groups:
            raise DataError(
                f"data.transforms: groups = {self.groups} of 'group_norm' must divide the number of channels, and the inputs "
                f"are {tuple(x_B.shape[1:])}; channels come first"
            )
        return group_norm(x_B, self.groups)

    def words(self) -> str:
        """See the contract."""
        return f"normalisation of {self.groups} groups of channels"
