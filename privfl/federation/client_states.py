"""Client states: tensors that a client keeps from round to round, and their storage as one row per client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from privfl.config import ExperimentConfig
from privfl.tables import contradiction

_WHO = "clients"


@dataclass(frozen=True)
class ClientState:
    """The state of one client, on the CPU. It stays at the client: only values that the plan releases may be computed from it.

    Args:
        kept: named vectors that later uploads are computed from.
        personal: named tensors that no upload is computed from, such as the client's own model.
        error_D: the compression error of its uploads, of the payload's length; None: it has none.
    """

    kept: dict[str, Tensor] = field(default_factory=dict)
    personal: dict[str, Tensor] = field(default_factory=dict)
    error_D: Tensor | None = None

    def digested(self) -> dict[str, Tensor]:
        """The tensors that later messages depend on, by name."""
        return self.kept if self.error_D is None else self.kept | {"compression error": self.error_D}


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
            kept={name.removeprefix("kept."): of[place].clone() for name, of in rows.items() if name.startswith("kept.")},
            personal={
                name.removeprefix("personal."): of[place].clone() for name, of in rows.items() if name.startswith("personal.")
            },
            error_D=rows["error_D"][place].clone() if "error_D" in rows else None,
        )
        for place, client in enumerate(tensors[_WHO])
    }


def _named(state: ClientState) -> dict[str, Tensor]:
    kept = {f"kept.{name}": value for name, value in state.kept.items()}
    named = kept | {f"personal.{name}": value for name, value in state.personal.items()}
    return named if state.error_D is None else named | {"error_D": state.error_D}


def refuse_secret_cohorts(config: ExperimentConfig, kind: str) -> None:
    """Raise if the price of the run assumes that nobody knows who took part, and the clients' states would show it.

    Args:
        config: the whole configuration.
        kind: the item that keeps states at clients, in words.

    Raises:
        PydanticCustomError: names the cohort.
    """
    cohort = config.cohort
    if config.privacy.secret_cohorts and getattr(cohort, "accounted", None) == "fixed":
        raise contradiction(
            "cohort.kind",
            cohort.kind,
            f"{kind} keeps state at clients, so that their later uploads reveal who took part; the ε of "
            "cohorts of a fixed size assumes that this is secret: set 'poisson' or 'all'",
        )
