"""Unmasking of the sum by the server: reconstruct secrets from revealed shares, and remove the masks made from them."""

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

# Number of masks that are removed in one pass over the vector: more save memory traffic, fewer save memory.
_TOGETHER = 128


@dataclass(frozen=True)
class RevealedShares:
    """R revealed shares: for each the owner of the secret, the holder, its holder number from 1, and the share."""

    owner_R: NDArray[np.uint32]
    holder_R: NDArray[np.uint32]
    point_R: NDArray[np.int64]
    share_R: NDArray[np.uint16]

    @classmethod
    def joined(cls, reveals: Sequence[RevealedShares]) -> RevealedShares:
        """All shares together, sorted by owner and then by holder."""
        owner_R = np.concatenate([one.owner_R for one in reveals]) if reveals else np.empty(0, np.uint32)
        holder_R = np.concatenate([one.holder_R for one in reveals]) if reveals else np.empty(0, np.uint32)
        point_R = np.concatenate([one.point_R for one in reveals]) if reveals else np.empty(0, np.int64)
        share_R = np.concatenate([one.share_R for one in reveals]) if reveals else np.empty((0, field.LIMBS), np.uint16)
        order = np.lexsort((point_R, owner_R))
        return cls(owner_R[order], holder_R[order], point_R[order], share_R[order])

    def of(self, owner: int) -> range:
        """The rows of one owner's shares; the shares must be sorted (:meth:`joined`)."""
        number = np.uint32(owner)
        return range(int(np.searchsorted(self.owner_R, number)), int(np.searchsorted(self.owner_R, number, "right")))


@dataclass(frozen=True)
class Dealt:
    """The server's knowledge of the secrets and shares that were dealt, by which it checks revealed ones.

    Args:
        session: the session id.
        survivors: the clients whose seed is revealed; for the others the mask key is.
        published: returns the tags of the shares that an owner dealt a holder.
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
    """Reconstruct each owner's secret from exactly ``threshold`` of its shares, and find those who revealed wrong shares.

    Secrets whose shares come from the same holders are reconstructed in one matrix product. Tags are checked only if the result
    is not the owner's secret: they then identify the wrong shares, and the secret is reconstructed from the others.

    Args:
        revealed: the shares, sorted (:meth:`RevealedShares.joined`).
        owners: the clients whose secrets are needed.
        threshold: t.
        dealt: the tags and checks for the shares and secrets.

    Returns:
        owner -> secret; and holder -> error, for each holder that revealed a share that it was not dealt.

    Raises:
        ThresholdError: fewer than ``threshold`` shares of an owner were revealed, or are left without the wrong ones.
        ProtocolError: an owner dealt shares that fit their tags and do not make its secret.
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
        "dealt shares that fit their tags and do not make its secret; it spoiled the round: discard it",
        peer=f"client {owner}",
    )


def _put_together(
    revealed: RevealedShares, rows: Mapping[int, Sequence[int]], threshold: int, liars: Mapping[int, ProtocolError]
) -> dict[int, bytes | None]:
    """Each owner's secret from the first ``threshold`` of its shares; None if these make no secret.

    Raises:
        ThresholdError: an owner has fewer shares.
    """
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
    """The keys of the masks that survivors made with clients that were lost, and whether the survivor added the mask.

    Args:
        lost: each lost client's mask key pair.
        survivors_of: the survivors that each of them had as peers.
        public: each survivor's public mask key.
        masking: the id under which masks are derived (:func:`privfl.secagg.session.masking_id`).
    """
    for client, pair in lost.items():
        for peer in survivors_of[client]:
            yield pair.shared_key(public[peer], masking, MASK), peer < client


def remove_masks(sum_D: Words, masks: Iterable[tuple[bytes, bool]], threads: int) -> int:
    """Remove masks from the sum, in place.

    Args:
        sum_D: sum of the masked vectors.
        masks: each mask's key, and whether it was added.
        threads: number of cores that may be used.

    Returns:
        The number of masks.
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
