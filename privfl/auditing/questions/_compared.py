"""Inputs as reconstructions are compared with them: images by PSNR and SSIM, numbers by their error, tokens one by one."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from privfl.auditing.similarity import FloatArray, median, psnr, psnr_table, ssim
from privfl.errors import DataError
from privfl.records import Interval
from privfl.tables import Frozen

Kind = Literal["images", "numbers", "tokens"]

Png = Annotated[str, Field(repr=False)]
"""An image as PNG in base64, which is not printed where a record is shown."""

_AT_ONCE: Final = 4096
"""So many true inputs are compared with all fresh ones at once: 32 MiB for each thousand of these."""

EXACT: Final = 60.0
"""From this PSNR on, in dB, a reconstruction is exact: the root mean squared error is a thousandth of the range."""

SHOWN: Final = 8
"""The most pairs that are kept as pictures."""


class Measure(Frozen):
    """One measure of likeness over all pairs; ``chance`` is the median with the nearest fresh input in their place."""

    name: str
    unit: str
    higher_is_better: bool
    median: Interval
    chance: float


class Picture(Frozen):
    """A true image and its reconstruction, as PNG in base64, and their PSNR in dB."""

    original: Png
    reconstruction: Png
    psnr: float


@dataclass(frozen=True)
class Inputs:
    """The form in which inputs are compared.

    Args:
        kind: by which measures.
        shape: the shape of one.
        scale: the range of a pixel, or the standard deviation of each number.
        low: the darkest pixel.
        fresh_MD: the inputs that chance has.
    """

    kind: Kind
    shape: tuple[int, ...]
    scale: Any
    low: float
    fresh_MD: NDArray[Any]

    @classmethod
    def of(cls, fresh_P: NDArray[Any], tokens: bool, most: int) -> Self:
        """From fresh inputs, of which at most so many are taken, evenly over all."""
        taken = fresh_P[np.linspace(0, len(fresh_P) - 1, min(most, len(fresh_P))).astype(np.int64)]
        shape, flat_MD = fresh_P.shape[1:], flat(taken)
        if tokens:
            return cls("tokens", shape, 1.0, 0.0, flat_MD)
        if fresh_P.dtype == np.uint8:
            return cls("images", shape, 1.0, 0.0, flat_MD)
        if len(shape) == 3 and shape[0] in (1, 3):
            return cls("images", shape, float(np.ptp(flat_MD)) or 1.0, float(flat_MD.min()), flat_MD)
        deviation_D = flat_MD.std(0, dtype=np.float64)
        return cls("numbers", shape, np.where(deviation_D > 0, deviation_D, 1.0), 0.0, flat_MD)

    @property
    def exact(self) -> float:
        """From this likeness on an input counts as exactly reconstructed."""
        return 1.0 if self.kind == "tokens" else EXACT

    def claimed(self, attack: str, inputs_R: NDArray[Any]) -> NDArray[Any]:
        """Claimed inputs, of shape (R, D).

        Raises:
            DataError: they have another shape.
        """
        if inputs_R.shape[1:] != self.shape:
            raise DataError(
                f"attack {attack!r}: claims inputs of shape {inputs_R.shape[1:]}; those of the data have {self.shape}"
            )
        return flat(inputs_R)

    def table(self, first_RD: NDArray[Any], second_TD: NDArray[Any]) -> FloatArray:
        """How like each of R inputs is to each of T, shape (R, T): the PSNR, or the share of tokens that are equal."""
        if self.kind != "tokens":
            return psnr_table(first_RD, second_TD, self.scale)
        found_RT = np.zeros((len(first_RD), len(second_TD)))
        for column, one_D in enumerate(second_TD):
            found_RT[:, column] = (first_RD == one_D).mean(1)
        return found_RT

    def likeness(self, first_nD: NDArray[Any], second_nD: NDArray[Any]) -> FloatArray:
        """How like the inputs of n pairs are, shape (n,)."""
        if self.kind != "tokens":
            return psnr(first_nD, second_nD, self.scale)
        return np.asarray((first_nD == second_nD).mean(1), dtype=np.float64)

    def nearest(self, true_nD: NDArray[Any]) -> NDArray[Any]:
        """The fresh input that is most like each, shape (n, D)."""
        starts = range(0, len(true_nD), _AT_ONCE)
        places = [self.table(self.fresh_MD, true_nD[start : start + _AT_ONCE]).argmax(0) for start in starts]
        return np.asarray(self.fresh_MD[np.concatenate([np.zeros(0, dtype=np.int64), *places])])

    def threshold(self, true_TD: NDArray[Any]) -> float:
        """The 95 % quantile, over true inputs, of how like the nearest fresh one is."""
        return float(np.quantile(self.likeness(self.nearest(true_TD), true_TD), 0.95))


@dataclass(frozen=True)
class Pairs:
    """True and reconstructed inputs that were matched, of shape (n, D) each."""

    inputs: Inputs
    true_nD: NDArray[Any]
    made_nD: NDArray[Any]

    @classmethod
    def none(cls, inputs: Inputs) -> Self:
        """No pairs yet."""
        nothing_0D = inputs.fresh_MD[:0]
        return cls(inputs, nothing_0D, nothing_0D)

    def joined(self, true_nD: NDArray[Any], made_nD: NDArray[Any]) -> Pairs:
        """These and more."""
        return Pairs(self.inputs, np.concatenate([self.true_nD, true_nD]), np.concatenate([self.made_nD, made_nD]))

    @property
    def likeness_n(self) -> FloatArray:
        """How like the two of each pair are."""
        return self.inputs.likeness(self.made_nD, self.true_nD)

    def measures(self) -> list[Measure]:
        """All measures of these inputs; none without a pair."""
        if not len(self.true_nD):
            return []
        nearest_nD = self.inputs.nearest(self.true_nD)
        like_n, chance_n = self.likeness_n, self.inputs.likeness(nearest_nD, self.true_nD)
        if self.inputs.kind == "tokens":
            return [_measure("tokens right", "%", like_n, chance_n)]
        if self.inputs.kind == "numbers":
            # The root mean squared error in standard deviations.
            return [_measure("normalised error", "", 10 ** (-like_n / 20), 10 ** (-chance_n / 20), higher=False)]
        true, made, nearest = (self._images(one_nD) for one_nD in (self.true_nD, self.made_nD, nearest_nD))
        return [_measure("PSNR", "dB", like_n, chance_n), _measure("SSIM", "", ssim(made, true), ssim(nearest, true))]

    def pictures(self) -> list[Picture]:
        """Some pairs from the most to the least like, evenly over all; none unless inputs are images."""
        if self.inputs.kind != "images" or not len(self.true_nD):
            return []
        order_n = np.argsort(-self.likeness_n, kind="stable")
        chosen = order_n[np.linspace(0, len(order_n) - 1, min(SHOWN, len(order_n))).astype(np.int64)]
        true, made, like = self._images(self.true_nD[chosen]), self._images(self.made_nD[chosen]), self.likeness_n[chosen]
        return [
            Picture(original=png(first), reconstruction=png(second), psnr=float(decibels))
            for first, second, decibels in zip(true, made, like, strict=True)
        ]

    def _images(self, one_nD: NDArray[Any]) -> FloatArray:
        """Pixels from 0 to 1, of shape (n, C, H, W)."""
        shifted = (one_nD.astype(np.float64) - self.inputs.low) / self.inputs.scale
        return np.asarray(np.clip(np.nan_to_num(shifted), 0.0, 1.0).reshape(-1, *self.inputs.shape))


def flat(x_n: NDArray[Any]) -> NDArray[Any]:
    """Inputs as the data have them, of shape (n, D); bytes become pixels from 0 to 1."""
    rows = x_n.reshape(len(x_n), math.prod(x_n.shape[1:]))
    return rows / np.float32(255) if x_n.dtype == np.uint8 else rows


def _measure(name: str, unit: str, found_n: FloatArray, chance_n: FloatArray, higher: bool = True) -> Measure:
    chance = float(np.median(chance_n))
    return Measure(name=name, unit=unit, higher_is_better=higher, median=median(found_n), chance=chance)


def pictures(x_n: NDArray[Any]) -> list[str | None]:
    """Images as PNG in base64, in one scale for all of them; None for each input that is no image."""
    if x_n.ndim != 4 or x_n.shape[1] not in (1, 3) or not len(x_n):
        return [None] * len(x_n)
    images = x_n / 255 if x_n.dtype == np.uint8 else (x_n - x_n.min()) / (np.ptp(x_n) or 1.0)
    return [png(image_CHW) for image_CHW in images]


def png(image_CHW: FloatArray) -> str:
    """An image of one or three channels as PNG in base64."""
    pixels = np.round(255 * image_CHW).astype(np.uint8)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")
