"""The base of backdoors: attackers teach the global model to give a target label to images that show a trigger.

The trigger is a bright square in the lower right corner of an image (Gu et al. 2017, BadNets). The attack succeeds on an image
of another class if the global model gives it the target label as soon as it shows the trigger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from privfl.data.input_store import InputStore
from privfl.errors import ConfigError
from privfl.federation.behaviours import Triggered
from privfl.federation.behaviours._colluding import JointBehaviour
from privfl.seeding import Seed
from privfl.tables import Size

Square = tuple[slice, slice]
"""Rows and columns of an image."""


class BackdoorBehaviour(JointBehaviour):
    """Attackers train on images of which some show the trigger and have the ``target`` label, and scale their payloads.

    Attackers know how many they are in a round, and no honest client's update. Each sends ``scale`` times its own payload.

    ``target``: the place of the target label among the classes, from 0.
    ``poisoned``: the share of an attacker's images that show the trigger; at least one of them does.
    ``size``: the side of the trigger in pixels.
    ``scale``: the factor; None: n/f for f attackers among the n clients of the round. If all weigh the same, and the others
        send nothing, a mean then moves the global model to the mean of the attackers' models (Bagdasaryan 2020, equation 3).
    """

    target: NonNegativeInt = 0
    poisoned: Annotated[float, Field(gt=0, le=1)] = 0.3
    size: PositiveInt = 3
    scale: Size | None = None

    def uploads(self, honest: Mapping[int, Tensor], clients: int) -> dict[int, Tensor]:
        """``scale`` times the payload of each attacker."""
        scale = clients / len(honest) if self.scale is None else self.scale
        return {client: scale * joined_D for client, joined_D in honest.items()}

    def poisoned_pool(
        self, x: InputStore, y: Tensor, rows: Sequence[Tensor], classes: int, stream: Seed
    ) -> tuple[InputStore, Tensor]:
        """See :class:`privfl.federation.behaviours.Behaviour`.

        Raises:
            ConfigError: the inputs are no images, the trigger does not fit, or there is no such class.
        """
        self._require_possible(x, y, classes)
        kept, wrong_y = x.kept.clone(), y.clone()
        for place, rows_n in enumerate(rows):
            count = min(len(rows_n), max(1, round(self.poisoned * len(rows_n))))
            order = torch.from_numpy((stream / place).numpy().permutation(len(rows_n))[:count])
            chosen = rows_n[order].to(kept.device)
            kept[chosen] = self._stamped(x, kept[chosen], self.square(place, x.kept.shape))
            wrong_y[chosen] = self.target
        return x.replaced(kept), wrong_y

    def triggered(self, x: InputStore, y: Tensor) -> Triggered:
        """All inputs with the whole trigger; the inputs of other classes than the target count."""
        return Triggered(x.replaced(self._stamped(x, x.kept, self._whole(x.kept.shape))), self.target, y != self.target)

    def square(self, attacker: int, shape: torch.Size) -> Square:  # noqa: ARG002
        """The part of the trigger that an attacker shows; by default the whole.

        Args:
            attacker: its place among the attackers, from 0.
            shape: that of the inputs, (N, C, H, W).
        """
        return self._whole(shape)

    def _whole(self, shape: torch.Size) -> Square:
        high, wide = shape[-2:]
        return slice(high - self.size, high), slice(wide - self.size, wide)

    @staticmethod
    def _stamped(x: InputStore, kept: Tensor, square: Square) -> Tensor:
        stamped = kept.clone()
        stamped[:, :, square[0], square[1]] = 255 if kept.dtype == torch.uint8 else x.kept.max()
        return stamped

    def _require_possible(self, x: InputStore, y: Tensor, classes: int) -> None:
        require_images(self.kind, x, y)
        require_class("target", self.target, classes)
        high, wide = x.kept.shape[-2:]
        if self.size > min(high, wide):
            raise ConfigError(f"behaviour.size = {self.size}: an image has {high} by {wide} pixels; lower it")


def require_images(kind: str, x: InputStore, y: Tensor) -> None:
    """Raise unless the inputs are images with one class each.

    Raises:
        ConfigError: says what the inputs are.
    """
    shape = tuple(x.kept.shape[1:])
    if len(shape) != 3 or y.dtype != torch.int64 or y.ndim != 1:
        raise ConfigError(
            f"behaviour.kind = {kind!r}: a backdoor needs images of one class each, and an input of these data has the shape "
            f"{shape}; set behaviour.kind = 'sign_flip', or data.kind = 'fashion_mnist'"
        )


def require_class(setting: str, place: int, classes: int) -> None:
    """Raise unless there is a class with that place.

    Raises:
        ConfigError: names the setting.
    """
    if place >= classes:
        raise ConfigError(f"behaviour.{setting} = {place}: there are {classes} classes, from 0 to {classes - 1}")
