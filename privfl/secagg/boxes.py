"""Boxes of shares on their way through the server, which cannot open them, sorted by receiver and then by sender.

A box holds the encrypted shares that one client deals to another.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from privfl.secagg.graph import Clients
from privfl.secagg.messages import Shares, Table, box_type


class Boxes:
    """Table of the R boxes of all clients that shared their keys, in columns, so that one sort finds those of a receiver.

    Args:
        shares: sender -> message, for at least one client. A sender's receivers are the holders of its secrets except itself.
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
        """The boxes for one client: rows of a :class:`privfl.secagg.messages.Delivery`.

        Args:
            client: the receiver.
            holders: the holders of each sender's shares if each client drew its own, else None.
            degree: number of holders in a row.
        """
        rows = self._rows(client)
        table = np.empty(rows.stop - rows.start, box_type(degree))
        table["client"], table["box"], table["tags"] = self._sender_R[rows], self._box_R[rows], self._tags_R[rows]
        if holders is not None and len(table):
            table["holders"] = np.stack([holders[sender] for sender in table["client"].tolist()])
        return table

    def points(self, holder: int, own_holders: Clients) -> tuple[Clients, NDArray[np.int64]]:
        """The owners of the shares that a holder has, itself among them, ascending; and its holder number for each, from 1.

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
        # If the number had another type, the whole column would be converted at every call.
        receiver, column = np.uint32(client), self._receiver_R
        return slice(int(np.searchsorted(column, receiver)), int(np.searchsorted(column, receiver, "right")))


def _points(owner: int, holders: Clients) -> NDArray[np.int64]:
    """The holder number of each holder of the owner's shares: its place among all of them and the owner itself, from 1."""
    return np.arange(1, len(holders) + 1) + (holders > owner)
