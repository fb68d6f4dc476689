"""Rotated images: groups of clients that see theirs turned by different angles (Ghosh et al. 2020, section 5; Sattler 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privfl.errors import DataError

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """The group of each client, and of each test example.

    Args:
        group_K: of each client.
        test_group_T: of each test example.
    """

    group_K: IntArray
    test_group_T: IntArray

    @classmethod
    def of(cls, angles: Sequence[int], clients: int, tests: int) -> Groups:
        """Groups of nearly equal size: clients by ascending number, test examples in turn.

        Args:
            angles: an angle for each group.
            clients: the number of clients.
            tests: the number of test examples.

        Raises:
            DataError: there are fewer clients than groups.
        """
        groups = len(angles)
        if groups > clients:
            raise DataError(f"data.rotations: names {groups} groups for {clients} clients; name no more groups than clients")
        return cls(np.arange(clients, dtype=np.int64) * groups // clients, np.arange(tests, dtype=np.int64) % groups)


def turned_images(x: NDArray[Any], angles: Sequence[int], group_N: IntArray) -> NDArray[Any]:
    """A copy of the images, each turned counterclockwise by its group's angle.

    Args:
        x: images, shape (N, C, H, W).
        angles: multiples of 90 degrees, one for each group.
        group_N: the group of each image.

    Raises:
        DataError: these are no images, or a quarter turn would change their shape.
    """
    if x.ndim != 4:
        raise DataError(f"data.rotations: turns images, of shape (N, C, H, W), and x is of shape {x.shape}; leave it out")
    if x.shape[2] != x.shape[3] and any(angle % 180 for angle in angles):
        raise DataError(
            f"data.rotations: a quarter turn needs square images, and these have {x.shape[2]} by {x.shape[3]} pixels; use 0 "
            "and 180"
        )
    found = x.copy()
    for group, angle in enumerate(angles):
        mine = group_N == group
        found[mine] = np.rot90(x[mine], angle // 90, axes=(2, 3))
    return found
