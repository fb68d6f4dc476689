"""Scattering transform: wavelet features of images that are not learned, so that they cost no privacy."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

from pydantic import PositiveInt
from torch import Tensor

from privfl.data.transforms import RowTransform
from privfl.errors import DataError


class Scattering(RowTransform):
    """Scattering coefficients of orders 0 to 2 of each channel, (B, C, H, W) -> (B, C·K, H/2^J, W/2^J).

    K = 1 + J L + L² J (J − 1) / 2; with J = 2 and L = 8 it is 81. Source: Bruna & Mallat 2013, by the package kymatio
    (Andreux et al. 2020, extra ``scattering``); as features for DP-SGD, Tramèr & Boneh 2021, section 2.2.

    Args:
        scales: J, the number of scales; each halves height and width.
        angles: L, the number of angles of the wavelets.
    """

    scales: PositiveInt = 2
    angles: PositiveInt = 8

    costly: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("kymatio", "torch")

    def rows(self, x_B: Tensor) -> Tensor:
        """See the class."""
        if x_B.ndim != 4 or min(x_B.shape[2:]) < 2**self.scales:
            raise DataError(
                f"data.transforms: 'scattering' takes images (channels, height, width) of at least {2**self.scales} pixels a "
                f"side with scales = {self.scales}, and the inputs are {tuple(x_B.shape[1:])}; lower scales, or take it out"
            )
        height, width = (int(side) for side in x_B.shape[2:])
        found: Tensor = _transform(self.scales, self.angles, height, width)(x_B.contiguous())
        return found.flatten(1, 2)

    def words(self) -> str:
        """See the contract."""
        return f"scattering (J = {self.scales}, L = {self.angles})"


@functools.lru_cache(maxsize=4)
def _transform(scales: int, angles: int, height: int, width: int) -> Any:
    """Kymatio's transform on PyTorch tensors.

    Its module is imported by its full name: ``kymatio.torch`` also imports the transform on spheres, which needs a function
    that SciPy 1.17 no longer has.
    """
    try:
        from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D
    except ImportError:
        raise DataError(
            "data.transforms: 'scattering' needs the package kymatio, which is not installed: pip install 'privfl[scattering]'"
        ) from None
    return ScatteringTorch2D(J=scales, shape=(height, width), L=angles)
