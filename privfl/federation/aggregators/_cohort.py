"""Checks of the updates that every aggregator makes before it uses them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from privfl.errors import ProtocolError
from privfl.federation.aggregators import ClientUpdate, RoundContext
from privfl.vectors import are_finite


def in_order(updates: Sequence[ClientUpdate], context: RoundContext, minimum_clients: int) -> list[ClientUpdate]:
    """Check the updates and sort them by client, so that the order of arrival does not matter.

    Raises:
        ProtocolError: there are too few or too many updates, two of one client, one that is not a finite vector of length D, or
            a weight outside [0, 1].
    """
    if not minimum_clients <= len(updates) <= context.population:
        raise ProtocolError(
            f"{len(updates)} updates: must be at least {minimum_clients} and at most the population of {context.population}"
        )
    ordered = sorted(updates, key=lambda update: update.client)
    for one, other in pairwise(ordered):
        if one.client == other.client:
            raise ProtocolError(f"client {one.client} handed in two updates: must be one")
    finite = are_finite([update.delta_D for update in ordered])
    for update, whole in zip(ordered, finite, strict=True):
        _check(update, context.layout.size, whole)
    return ordered


def _check(update: ClientUpdate, size: int, finite: bool) -> None:
    shape = tuple(update.delta_D.shape)
    if shape != (size,):
        raise ProtocolError(f"client {update.client}: an update of shape {shape}: must be ({size},)")
    if not finite:
        raise ProtocolError(f"client {update.client}: the update is not finite; lower training.lr")
    if not 0 <= update.weight <= 1:
        raise ProtocolError(f"client {update.client}: weight {update.weight}: must be in [0, 1]")
