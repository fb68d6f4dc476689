"""Client states: tensors that a client keeps from round to round, and their storage as one row per client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

_WHO = "clients"


@dataclass(frozen=True)
class ClientState:
    """The state of one client, on the CPU. It stays at the client: only values that the plan releases may be computed from it.

    Args:
        kept: named vectors that later uploads are computed from.
        personal: named tensors that no upload is computed from, such as the client's own model.
    """

    kept: dict[str, Tensor] = field(default_factory=dict)
    personal: dict[str, Tensor] = field(default_factory=dict)


ClientStates = Mapping[int, ClientState]
"""States by client number. A client that never took part has none."""


def stacked(states: ClientStates) -> dict[str, Tensor]:
    """Tensors with one row per client, ascending by client number, and the numbers themselves; empty if there are no states."""
    if not states:
        return {}
    order = sorted(states)
    rows = [_named(states[client]) for client in order]
    return {_WHO: torch.tensor(order)} | {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def unstacked(tensors: Mapping[str, Tensor]) -> dict[int, ClientState]:
    """The client states that :func:`stacked` turned into tensors."""
    if _WHO not in tensors:
        return {}
    rows = {name: value.unbind() for name, value in tensors.items() if name != _WHO}
    return {
        int(client): ClientState(
            *(
                {name.removeprefix(part): of[place].clone() for name, of in rows.items() if name.startswith(part)}
                for part in ("kept.", "personal.")
            )
        )
        for place, client in enumerate(tensors[_WHO])
    }


def _named(state: ClientState) -> dict[str, Tensor]:
    kept = {f"kept.{name}": value for name, value in state.kept.items()}
    return kept | {f"personal.{name}": value for name, value in state.personal.items()}
