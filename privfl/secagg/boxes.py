"""The boxes of shares on their way through the server, which cannot open them: by receiver, and for each by sender."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from privfl.secagg.graph import Clients
from privfl.secagg.messages import Shares, Table, box_type


class Boxes:
    """All boxes of those who shared their keys, R of them, in columns: one sort instead of a dictionary of lists.

    Args:
        shares: of at least one client, by sender; the receivers of each are the holders of its secrets but for itself.
    """

    def __init__(self, shares: Mapping[int, Shares]) -> None:
        senders = sorted(shares)
        receivers = [shares[sender].boxes["client"] for sender in senders]
        sender_R, receiver_R = (
            np.repeat(np.array(senders, np.uint32), [len(one) for one in receivers]),
            np.concatenate(receivers),
        )
        order = np.lexsort((sender_R, receiver_R))
        self._sender_R, self._receiver_R = sender_R[order], receiver_R[order]
        self._box_R = np.concatenate([shares[sender].boxes["box"] for sender in senders])[order]
        self._tags_R = np.concatenate([shares[sender].boxes["tags"] for sender in senders])[order]
        self._point_R = np.concatenate([_points(*one) for one in zip(senders, receivers, strict=True)])[order]
        self._own_tags = {sender: one.own_tags for sender, one in shares.items()}

    def to(self, client: int, holders: Mapping[int, Clients] | None, degree: int) -> Table:
        """What a client is sent: rows of a :class:`privfl.secagg.messages.Delivery`.

        Args:
            client: the receiver.
            holders: of each sender's shares, where each drew its own; else None.
            degree: how many holders stand in a row.
        """
        rows = self._rows(client)
        table = np.empty(rows.stop - rows.start, box_type(degree))
        table["client"], table["box"], table["tags"] = self._sender_R[rows], self._box_R[rows], self._tags_R[rows]
        if holders is not None and len(table):
            table["holders"] = np.stack([holders[sender] for sender in table["client"].tolist()])
        return table

    def points(self, holder: int, own_holders: Clients) -> tuple[Clients, NDArray[np.int64]]:
        """Whose shares a holder has, its own among them, ascending; and which holder of each owner it is, from 1.

        Args:
            holder: the client.
            own_holders: the holders of its own shares, itself excluded.
        """
        rows = self._rows(holder)
        own = int(np.searchsorted(self._sender_R[rows], holder))
        own_point = 1 + int(np.searchsorted(own_holders, holder))
        owner_R: Clients = np.insert(self._sender_R[rows], own, holder)
        return owner_R, np.insert(self._point_R[rows], own, own_point)

    def published(self, owner: int, holder: int) -> bytes:
        """The tags of the shares that an owner dealt a holder."""
        if owner == holder:
            return self._own_tags[owner]
        rows = self._rows(holder)
        place = rows.start + int(np.searchsorted(self._sender_R[rows], np.uint32(owner)))
        return bytes(self._tags_R[place].tobytes())

    def _rows(self, client: int) -> slice:
        # A number of another type would have the whole column converted at every call.
        receiver, column = np.uint32(client), self._receiver_R
        return slice(int(np.searchsorted(column, receiver)), int(np.searchsorted(column, receiver, "right")))


def _points(owner: int, holders: Clients) -> NDArray[np.int64]:
    """Which holder of the owner's shares each is: its place among all of them and the owner itself, from 1."""
    return np.arange(1, len(holders) + 1) + (holders > owner)
