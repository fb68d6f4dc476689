"""What the server does at the end: put secrets together from shares, and take from the sum the masks that they make."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from privfl.errors import ProtocolError, ThresholdError
from privfl.secagg import field, prg, shamir
from privfl.secagg.agreement import MASK, KeyPair
from privfl.secagg.prg import Words
from privfl.secagg.sharing import TAG_BYTES, ShareKind, tag

# Keys whose masks pass over the vector together: more save memory traffic, fewer save memory.
_TOGETHER = 128


@dataclass(frozen=True)
class RevealedShares:
    """R shares as they came: whose secret, who revealed it, that holder's number from 1, and the share."""

    owner_R: NDArray[np.uint32]
    holder_R: NDArray[np.uint32]
    point_R: NDArray[np.int64]
    share_R: NDArray[np.uint16]

    @classmethod
    def joined(cls, reveals: Sequence[RevealedShares]) -> RevealedShares:
        """All of them, by owner and then by holder."""
        owner_R = np.concatenate([one.owner_R for one in reveals]) if reveals else np.empty(0, np.uint32)
        holder_R = np.concatenate([one.holder_R for one in reveals]) if reveals else np.empty(0, np.uint32)
        point_R = np.concatenate([one.point_R for one in reveals]) if reveals else np.empty(0, np.int64)
        share_R = np.concatenate([one.share_R for one in reveals]) if reveals else np.empty((0, field.LIMBS), np.uint16)
        order = np.lexsort((point_R, owner_R))
        return cls(owner_R[order], holder_R[order], point_R[order], share_R[order])

    def of(self, owner: int) -> range:
        """The rows that are about one owner, where they are sorted."""
        number = np.uint32(owner)
        return range(int(np.searchsorted(self.owner_R, number)), int(np.searchsorted(self.owner_R, number, "right")))


@dataclass(frozen=True)
class Dealt:
    """What a server knows of the secrets and shares that it must put together.

    Args:
        session: the session id.
        survivors: those of whom the seed is revealed; of the others the mask key.
        published: gives the tags of the shares that an owner dealt a holder.
        is_secret: whether a secret is the owner's.
    """

    session: bytes
    survivors: frozenset[int]
    published: Callable[[int, int], bytes]
    is_secret: Callable[[int, bytes], bool]

    def fits(self, owner: int, holder: int, share: bytes) -> bool:
        """Whether this is the share that the owner dealt the holder."""
        kind = ShareKind.SEED if owner in self.survivors else ShareKind.MASK_KEY
        published = self.published(owner, holder)[kind * TAG_BYTES : (kind + 1) * TAG_BYTES]
        return tag(self.session, owner, holder, kind, share) == published


def recover(
    revealed: RevealedShares, owners: Iterable[int], threshold: int, dealt: Dealt
) -> tuple[dict[int, bytes], dict[int, ProtocolError]]:
    """Each owner's secret, from exactly ``threshold`` of its shares, and who revealed shares that it was not dealt.

    Owners whose shares come from the same holders are put together in one product. Tags are looked at only where that gives
    no secret of the owner's: then they tell the wrong shares, and the others are put together.

    Args:
        revealed: sorted (:meth:`RevealedShares.joined`).
        owners: whose secrets are needed.
        threshold: t.
        dealt: what the shares and secrets must fit.

    Raises:
        ThresholdError: somebody has too few shares left.
        ProtocolError: somebody dealt shares that make no secret of its own.
    """
    rows = {owner: list(revealed.of(owner)) for owner in owners}
    secrets = _put_together(revealed, rows, threshold, {})
    liars: dict[int, ProtocolError] = {}
    for owner, secret in list(secrets.items()):
        if secret is not None and dealt.is_secret(owner, secret):
            continue
        right = []
        for row in rows[owner]:
            holder = int(revealed.holder_R[row])
            if dealt.fits(owner, holder, revealed.share_R[row].astype("<u2").tobytes()):
                right.append(row)
            else:
                liars[holder] = ProtocolError(f"revealed a share that client {owner} did not deal it", peer=f"client {holder}")
        if len(right) == len(rows[owner]):
            raise _of_its_own_making(owner)
        (secret,) = _put_together(revealed, {owner: right}, threshold, liars).values()
        if secret is None or not dealt.is_secret(owner, secret):
            raise _of_its_own_making(owner)
        secrets[owner] = secret
    return {owner: secret for owner, secret in secrets.items() if secret is not None}, liars


def _of_its_own_making(owner: int) -> ProtocolError:
    return ProtocolError(
        "dealt shares, each as its tag says, that make no secret of its own; it spoiled the round, discard it",
        peer=f"client {owner}",
    )


def _put_together(
    revealed: RevealedShares, rows: Mapping[int, Sequence[int]], threshold: int, liars: Mapping[int, ProtocolError]
) -> dict[int, bytes | None]:
    """Each owner's secret from the first shares about it; None where they make none."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for owner, found in rows.items():
        if len(found) < threshold:
            lied = f"; {', '.join(f'client {one}' for one in sorted(liars))} revealed a wrong one" if liars else ""
            raise ThresholdError(
                f"{len(found)} shares of its secret were revealed: must be at least {threshold}{lied}; skip the round",
                peer=f"client {owner}",
            )
        groups[tuple(revealed.point_R[list(found[:threshold])].tolist())].append(owner)
    secrets: dict[int, bytes | None] = {}
    for points, members in groups.items():
        chosen = np.array([rows[owner][:threshold] for owner in members]).T
        limbs = shamir.combine(points, revealed.share_R[chosen].reshape(threshold, -1)).reshape(len(members), field.LIMBS)
        for owner, one in zip(members, limbs, strict=True):
            try:
                secrets[owner] = field.secret(one)
            except ProtocolError:
                secrets[owner] = None
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
