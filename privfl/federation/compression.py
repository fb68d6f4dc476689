"""Compression in a round: a client's message with the state that it keeps, and the view that the server has of messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from privfl.federation.algorithms import State
from privfl.federation.client_states import ClientState
from privfl.federation.transforms import Shared, Transform
from privfl.seeding import Seed
from privfl.vectors import are_finite


def sent(
    transform: Transform, payload_D: Tensor, before: ClientState, kept: State | None, shared: Shared, own: Seed
) -> tuple[Tensor, ClientState | None]:
    """A client's message, shape (M,), and its state after the round; None: it has none.

    If message or state is not finite, the state stays as it is. The message counts as zero in this round and must not spoil
    later ones.

    Args:
        transform: compresses the payload.
        payload_D: the joined payload, shape (D',).
        before: the client's state before the round.
        kept: the algorithm's state at the client after the round; None if it keeps none.
        shared: the public facts of the round.
        own: randomness of this client and round.
    """
    if transform.remembers and before.error_D is None:
        before = replace(before, error_D=torch.zeros_like(payload_D, device="cpu"))
    message_M, error_D = transform.sent(payload_D, before.error_D, shared, own)
    if kept is None and error_D is None:
        return message_M, before
    after = before.kept if kept is None else kept
    if not all(are_finite([message_M, *after.values(), *(() if error_D is None else (error_D,))])):
        return message_M, before if before.digested() else None
    on_cpu = {name: value.cpu() for name, value in after.items()}
    return message_M, replace(before, kept=on_cpu, error_D=None if error_D is None else error_D.cpu())


def restored(transform: Transform, seen: Mapping[str, Tensor], shared: Shared) -> dict[str, Tensor]:
    """The server's view with messages restored to payloads.

    Args:
        transform: restores them.
        seen: the view, with vectors of length M.
        shared: the public facts of the round.
    """
    found = {name: transform.restore(seen[name], shared) for name in ("sum_D", "updates_KD") if name in seen}
    return {**seen, **found}
