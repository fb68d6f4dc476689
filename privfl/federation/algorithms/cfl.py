"""CFL: a cluster is split in two when its members' updates disagree (Sattler, Müller & Samek 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from privfl.config import ExperimentConfig
from privfl.federation.algorithms import State, Terms
from privfl.federation.clusters import SLOT, WHO, Clustered, nobody_placed, placed, placing
from privfl.federation.payload import Payload
from privfl.tables import Size, contradiction

_AGE, _ORIGIN = "age", "origin"


class Cfl(Clustered):
    """Clustered federated learning, algorithm 3: all clients begin in one cluster, which the server splits again and again.

    A cluster is near a stationary point if the norm of its members' mean update is below ``mean_norm``. If an update is then
    longer than ``longest_norm``, its members disagree. The server splits it in two by complete linkage of the updates' cosine
    similarities. Both parts go on from the cluster's model. No cluster is split before round ``first_round``, counted from 0,
    or if it has two members or fewer. ``clusters`` is the largest number of clusters.

    The defaults of the norms and of ``first_round`` are those of the authors' code for a small network.

    **Privacy.** The server needs each client's update. Under ``example`` and ``client_local`` these have their noise already.
    """

    told: ClassVar[tuple[str, ...]] = (WHO, SLOT)

    mean_norm: Size = 0.4
    longest_norm: Size = 1.6
    first_round: NonNegativeInt = 21
    clusters: Annotated[int, Field(ge=1, le=100)] = 4

    @property
    def sorted_by_server(self) -> bool:
        """Always."""
        return self.clusters > 1

    def check(self, config: ExperimentConfig) -> None:
        """Raise also unless all clients take part in each round."""
        super().check(config)
        if self.clusters > 1 and config.cohort.kind != "all":
            raise contradiction(
                "cohort.kind",
                config.cohort.kind,
                "algorithm 'cfl' compares the updates of all members of a cluster in one round; set 'all', or algorithm.kind = "
                "'ifca' or 'kmeans'",
            )

    def init(self, global_D: Tensor) -> State:
        """``age``: rounds so far; ``origin``: the model that each goes on from; ``who`` and ``slot``: the clusters."""
        models = torch.arange(self.clusters, device=global_D.device)
        return {_AGE: torch.zeros((), dtype=torch.int64), _ORIGIN: models, **nobody_placed()}

    def start(self, told: State, models_MD: Tensor, client: int, kept: State) -> Tensor:  # noqa: ARG002
        """The model of the client's cluster."""
        return models_MD[placed(told).get(client, 0)]

    def sort(self, server: State, updates: Mapping[int, Tensor]) -> tuple[dict[int, int | None], State]:
        """Split clusters whose members disagree."""
        places = {client: placed(server).get(client, 0) for client in updates}
        origin = list(range(self.clusters))
        used = set(places.values())
        if int(server[_AGE]) >= self.first_round:
            for parent in sorted(used):
                free = next((slot for slot in range(self.clusters) if slot not in used), None)
                members = [client for client in sorted(updates) if places[client] == parent]
                if free is None or not self._disagree(rows := torch.stack([updates[one].double() for one in members])):
                    continue
                parts_K = halves(rows.cpu().numpy())
                places |= {client: free for client, part in zip(members, parts_K, strict=True) if part}
                used.add(free)
                origin[free] = parent
        device = server[_ORIGIN].device
        after = {_ORIGIN: torch.tensor(origin, device=device), **placing(places, device)}
        return {client: places[client] for client in updates}, {**server, **after}

    def _disagree(self, updates_KD: Tensor) -> bool:
        mean, longest = float(updates_KD.mean(0).norm()), float(updates_KD.norm(dim=1).max())
        return len(updates_KD) > 2 and mean < self.mean_norm and longest > self.longest_norm

    def apply(self, server: State, mean: Payload, share: float, terms: Terms) -> tuple[Tensor, State]:
        """Each model moves by its own members' mean."""
        direction_D, server = super().apply(server, mean, share, terms)
        return direction_D, {**server, _AGE: server[_AGE] + 1}

    def origins(self, server: State) -> Sequence[int] | None:
        """The cluster that a new one was split from."""
        return server[_ORIGIN].tolist()

    def place(self, server: State, client: int, kept: State) -> int | None:  # noqa: ARG002
        """The cluster that the server placed the client in."""
        return placed(server).get(client)


def halves(updates_KD: NDArray[np.float64]) -> list[int]:
    """0 or 1 for each of K ≥ 2 updates: two parts by complete linkage of 1 − cosine similarity; the first update's is 0."""
    norms_K1 = np.maximum(np.linalg.norm(updates_KD, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    unit_KD = updates_KD / norms_K1
    distance_KK = np.clip(1.0 - unit_KD @ unit_KD.T, 0.0, 2.0)
    np.fill_diagonal(distance_KK, 0.0)
    tree = linkage(squareform((distance_KK + distance_KK.T) / 2, checks=False), "complete")
    parts: list[int] = cut_tree(tree, n_clusters=2)[:, 0].tolist()
    return [part ^ parts[0] for part in parts]
