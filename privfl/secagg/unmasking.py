"""What the server does at the end: put secrets together from shares, and take from the sum the masks that they make."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from privfl.errors import ProtocolError, ThresholdError
from privfl.secagg import field, prg, shamir
from privfl.secagg.agreement import MASK, KeyPair
from privfl.secagg.prg import Words

# Keys whose masks pass over the vector together: more save memory traffic, fewer save memory.
_TOGETHER = 128


@dataclass(frozen=True)
class RevealedShares:
    """R shares as they came: whose secret, the holder's number from 1, and the share."""

    owner_R: NDArray[np.uint32]
    point_R: NDArray[np.int64]
    share_R: NDArray[np.uint16]


def recover(revealed: RevealedShares, owners: Iterable[int], threshold: int) -> dict[int, bytes]:
    """Each owner's secret, from exactly ``threshold`` of its shares.

    Owners whose shares come from the same holders are put together in one product.

    Raises:
        ThresholdError: somebody has too few shares left.
        ProtocolError: somebody's shares make no secret.
    """
    order = np.lexsort((revealed.point_R, revealed.owner_R))
    owner_R, point_R = revealed.owner_R[order], revealed.point_R[order]
    groups: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
    for owner in owners:
        first, last = np.searchsorted(owner_R, np.uint32(owner)), np.searchsorted(owner_R, np.uint32(owner), "right")
        if last - first < threshold:
            raise ThresholdError(
                f"{last - first} shares of its secret were revealed: must be at least {threshold}; skip the round",
                peer=f"client {owner}",
            )
        groups[tuple(point_R[first : first + threshold].tolist())].append((owner, int(first)))
    secrets: dict[int, bytes] = {}
    for points, members in groups.items():
        rows = np.array([first for _, first in members])[None, :] + np.arange(threshold)[:, None]
        limbs = shamir.combine(points, revealed.share_R[order[rows]].reshape(threshold, -1)).reshape(len(members), field.LIMBS)
        for (owner, _), one in zip(members, limbs, strict=True):
            try:
                secrets[owner] = field.secret(one)
            except ProtocolError as error:
                raise ProtocolError(error.reason, peer=f"client {owner}") from None
    return secrets


def pairwise(
    lost: Mapping[int, KeyPair], survivors_of: Mapping[int, Iterable[int]], public: Mapping[int, bytes], masking: bytes
) -> Iterator[tuple[bytes, bool]]:
    """The keys of the masks that survivors made with clients that were lost, and whether the survivor added it.

    Args:
        lost: each lost client's mask key pair.
        survivors_of: the survivors that each of them had as peers.
        public: each survivor's public mask key.
        masking: what masks are derived under (:func:`privfl.secagg.session.masking_id`).
    """
    for client, pair in lost.items():
        for peer in survivors_of[client]:
            yield pair.shared_key(public[peer], masking, MASK), peer < client


def remove_masks(sum_D: Words, masks: Iterable[tuple[bytes, bool]], threads: int) -> int:
    """Take masks from the sum, in place.

    Args:
        sum_D: of the masked vectors.
        masks: each mask's key, and whether it was added.
        threads: how many cores may work at it.

    Returns:
        how many masks there were.
    """
    count, remaining = 0, iter(masks)
    while together := list(islice(remaining, _TOGETHER)):
        prg.mask(
            sum_D,
            added=[key for key, was_added in together if not was_added],
            subtracted=[key for key, was_added in together if was_added],
            threads=threads,
        )
        count += len(together)
    return count
