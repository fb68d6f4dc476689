"""Scale of pixels: another mean and standard deviation by which the bytes of images become numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field, PositiveFloat

from privfl.data.federated import LoadedData, Pixels
from privfl.data.transforms import Transform
from privfl.errors import DataError
from privfl.seeding import Seed


class PixelScale(Transform):
    """A byte b becomes (b / 255 − mean) / std in each channel, with public constants; the default leaves b / 255.

    Args:
        mean, std: a number for each channel, or one for all channels.
    """

    keeps_images: ClassVar[bool] = True

    mean: Annotated[tuple[float, ...], Field(strict=False, min_length=1)] = (0.0,)
    std: Annotated[tuple[PositiveFloat, ...], Field(strict=False, min_length=1)] = (1.0,)

    def apply(self, loaded: LoadedData, stream: Seed) -> LoadedData:  # noqa: ARG002
        """See the contract; the images stay bytes."""
        if loaded.pixels is None:
            raise DataError(
                "data.transforms: 'pixel_scale' takes images that are kept as bytes, and these inputs are numbers; take it out"
            )
        channels = len(loaded.pixels.mean_C)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise DataError(
                    f"data.transforms: {name} = {list(values)} of 'pixel_scale' has {len(values)} numbers, and these images "
                    f"have {channels} channel{'s' if channels > 1 else ''}; give one number, or one for each channel"
                )
        mean_C, std_C = (values * (channels // len(values)) for values in (self.mean, self.std))
        return replace(loaded, pixels=Pixels(mean_C, std_C))

    def words(self) -> str:
        """See the contract."""
        if (self.mean, self.std) == ((0.0,), (1.0,)):
            return "scaling of pixels to [0, 1]"
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"scaling of pixels in [0, 1] by mean {mean} and deviation {std}"
