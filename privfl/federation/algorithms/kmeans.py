"""k-means on updates: clients whose updates are alike share a model (Lloyd 1982; Briggs, Fan & Andras 2020 for the order)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt
from scipy.cluster.vq import ClusterError, kmeans2
from torch import Tensor

from privfl.federation.algorithms import State, Terms, Trained
from privfl.federation.clusters import COUNT, SLOT, WHO, Clustered, nobody_placed, placed, placing
from privfl.federation.payload import Payload
from privfl.seeding import Seed

_AGE, _CENTROIDS, _ROOT = "age", "centroids", "root"
_RESTARTS = 10
_PUBLIC = Seed(0) / "k-means"
"""Randomness of starting points, which is public and the same in every run."""


class Kmeans(Clustered):
    """``warmup`` rounds of FedAvg, then k-means on the updates of one model, then a model for each cluster.

    ``assigned_by``:
        ``client``: the server sends M centroids of updates. A client fills the slot of the nearest, and the slots' means are
        the next centroids: Lloyd's step, through sums alone. The first round gives the mean update, and the first centroids are
        random directions around it. ``steps`` rounds follow. A cluster without members begins anew beside the largest. The
        model rests meanwhile, so that updates of different rounds can be compared.
        ``server``: after the warm-up the server runs k-means on Δ_k/‖Δ_k‖ of one round, with k-means++ and 10 restarts.

    In the last of these rounds the models part, and each moves by its own cluster's mean. A client stays in its cluster. One
    that comes later trains once from the model at which they parted, to find its cluster, and adds nothing in that round. A
    client whose cluster is too small to be summed adds nothing either.

    **Privacy.** A cluster is chosen by updates, which have their noise under an example-level plan, and by released centroids.
    """

    told: ClassVar[tuple[str, ...]] = (_AGE, _CENTROIDS, _ROOT, WHO, SLOT)

    assigned_by: Literal["client", "server"] = "client"
    warmup: NonNegativeInt = 3
    steps: PositiveInt = 4

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        """Whether clients choose, because they then keep their cluster."""
        return self.assigned_by == "client" and self.clusters > 1

    @property
    def sorted_by_server(self) -> bool:
        """Whether ``assigned_by`` is ``server``."""
        return self.assigned_by == "server" and self.clusters > 1

    @property
    def way_out(self) -> str:
        """See the base class."""
        return "set algorithm.assigned_by = 'client', or aggregator.kind = 'mean'"

    @property
    def parting(self) -> int:
        """The round, counted from 0 without skipped ones, in which the models part."""
        return self.warmup if self.sorted_by_server else self.warmup + self.steps

    def init(self, global_D: Tensor) -> State:
        """``age``: rounds so far; ``centroids``, ``root``: the model at which clusters parted; ``who`` and ``slot``."""
        length = len(global_D) // self.clusters
        none = {
            _AGE: torch.zeros((), dtype=torch.int64),
            _CENTROIDS: torch.zeros_like(global_D),
            _ROOT: global_D[:length].clone(),
        }
        return {**none, **nobody_placed()}

    def client_init(self, global_D: Tensor) -> State:  # noqa: ARG002
        """``slot``: the client's cluster, −1 before it has one."""
        return {SLOT: torch.tensor(-1)} if self.remembers else {}

    # --- at a client -------------------------------------------------------------------------------------------------------

    def start(self, told: State, models_MD: Tensor, client: int, kept: State) -> Tensor:
        """The model of the client's cluster; before it has one, the model at which clusters parted."""
        if int(told[_AGE]) <= self.parting:
            return models_MD[0]
        place = int(kept[SLOT]) if self.remembers else placed(told).get(client, -1)
        return models_MD[place] if place >= 0 else told[_ROOT].to(models_MD)

    def rank(self, told: State, kept: State, delta_D: Tensor) -> list[int]:
        """The centroids by their distance to the update. Before there are any it is the first; afterwards the own cluster."""
        if int(told[_AGE]) <= self.warmup:
            return [0]
        if int(told[_AGE]) > self.parting:
            return [int(kept[SLOT])] if int(kept[SLOT]) >= 0 else []
        return self._nearest(told, delta_D)

    def moves(self, told: State) -> bool:
        """Only until the models part: later updates of two clusters begin at different ones."""
        return int(told[_AGE]) <= self.parting

    def _nearest(self, told: State, delta_D: Tensor) -> list[int]:
        centroids_MD = told[_CENTROIDS].to(delta_D).view(self.clusters, -1)
        distances_M = (centroids_MD - delta_D).square().sum(1).nan_to_num(torch.inf)
        return distances_M.argsort(stable=True).tolist()

    def upload(self, told: State, client: State, trained: Trained) -> tuple[Payload, State]:
        """The filled slot. The client keeps its cluster from the round on in which the models part."""
        payload, client = super().upload(told, client, trained)
        if not self.remembers or int(told[_AGE]) < self.parting or int(client[SLOT]) >= 0:
            return payload, client
        late = int(told[_AGE]) > self.parting
        slot = self._nearest(told, trained.delta_D)[0] if late else trained.slot
        return payload, client if slot is None else {SLOT: torch.full_like(client[SLOT], slot)}

    # --- at the server -----------------------------------------------------------------------------------------------------

    def sort(self, server: State, updates: Mapping[int, Tensor]) -> tuple[dict[int, int | None], State]:
        """k-means in the round after the warm-up. Later a client that comes for the first time is placed by its update."""
        if int(server[_AGE]) < self.parting:
            return dict.fromkeys(updates, 0), server
        clients, device = sorted(updates), server[_CENTROIDS].device
        unit_KD = torch.stack([updates[one].double() / updates[one].double().norm().clamp_min(1e-30) for one in clients])
        if int(server[_AGE]) == self.parting:
            slots = kmeans(unit_KD.cpu().numpy(), self.clusters)
            places = dict(zip(clients, slots.tolist(), strict=True))
            members_KM = torch.nn.functional.one_hot(torch.from_numpy(slots), self.clusters).double().to(device)
            centroids_MD = (members_KM.T @ unit_KD) / members_KM.sum(0).clamp_min(1.0)[:, None]
            return dict(places), {**server, _CENTROIDS: centroids_MD.float().flatten(), **placing(places, device)}
        known = placed(server)
        centroids_MD = server[_CENTROIDS].double().view(self.clusters, -1)
        late = [place for place, client in enumerate(clients) if client not in known]
        nearest = torch.cdist(unit_KD[late], centroids_MD).argmin(1).tolist() if late else []
        places = known | {clients[place]: slot for place, slot in zip(late, nearest, strict=True)}
        return {client: known.get(client) for client in updates}, {**server, **placing(places, device)}

    def place(self, server: State, client: int, kept: State) -> int | None:
        """The cluster that the client keeps, or that the server placed it in."""
        place = int(kept[SLOT]) if self.remembers else placed(server).get(client, -1)
        return place if place >= 0 else None

    def before_step(self, server: State, models_MD: Tensor) -> State:
        """Keep the model at which the clusters part."""
        return {**server, _ROOT: models_MD[0].clone()} if int(server[_AGE]) == self.parting else server

    def rests(self, server: State) -> bool:
        """While Lloyd's steps go on."""
        return self.warmup <= int(server[_AGE]) < self.parting

    def apply(self, server: State, mean: Payload, share: float, terms: Terms) -> tuple[Tensor, State]:
        """All models move alike during the warm-up, and by their own clusters' means from the parting on."""
        direction_D, _ = super().apply(server, mean, share, terms)
        age, after = int(server[_AGE]), {**server, _AGE: server[_AGE] + 1}
        if self.remembers and self.warmup <= age < self.parting:
            after[_CENTROIDS] = self.next_centroids(mean, terms, age - self.warmup).flatten()
        if self.clusters > 1 and age < self.parting:
            direction_D = self.overall(mean, terms).repeat(self.clusters)
        return direction_D, after

    def next_centroids(self, mean: Payload, terms: Terms, step: int) -> Tensor:
        """The slots' means, shape (M, D): Lloyd's step. Before the first step they are random directions around the mean.

        Args:
            mean: the mean of the payloads.
            terms: public numbers.
            step: how many rounds the model has rested before.
        """
        means_MD = self.means(mean, terms)
        largest_D = means_MD[int(mean[COUNT].argmax())].clone()
        length = float(largest_D.norm()) or 1.0
        for slot in range(self.clusters):
            if step == 0 or float(mean[COUNT][slot]) <= 0:
                direction_D = torch.randn(len(largest_D), generator=(_PUBLIC / step / slot).torch()).to(largest_D)
                means_MD[slot] = largest_D + direction_D * (length / direction_D.norm())
        return means_MD


def kmeans(points_KD: NDArray[np.float64], clusters: int) -> NDArray[np.int64]:
    """The cluster of each of K points, shape (K,): k-means++ and Lloyd's steps, the best of 10 starts.

    The starts are the same in every call. If there are fewer points than clusters, each point has its own.

    Args:
        points_KD: the points.
        clusters: the number of clusters.
    """
    if len(points_KD) <= clusters:
        return np.arange(len(points_KD), dtype=np.int64)
    # Distances between K points fit into K coordinates, however long the points are.
    values_K, vectors_KK = np.linalg.eigh(points_KD @ points_KD.T)
    short_KK = vectors_KK * np.sqrt(np.maximum(values_K, 0.0))
    best, found = np.inf, np.zeros(len(points_KD), dtype=np.int64)
    for restart in range(_RESTARTS):
        starts_MK = _plus_plus(short_KK, clusters, (_PUBLIC / "restart" / restart).numpy())
        try:
            centres_MK, label_K = kmeans2(short_KK, starts_MK, iter=100, minit="matrix", missing="raise")
        except ClusterError:
            # A centre without points: another start has none.
            continue
        inertia = float(((short_KK - centres_MK[label_K]) ** 2).sum())
        if inertia < best:
            best, found = inertia, label_K.astype(np.int64)
    return found


def _plus_plus(points_KK: NDArray[np.float64], clusters: int, stream: np.random.Generator) -> NDArray[np.float64]:
    """Starting centres by k-means++ (Arthur & Vassilvitskii 2007): each is drawn by its squared distance to those before."""
    chosen = [int(stream.integers(len(points_KK)))]
    for _ in range(clusters - 1):
        square_K = ((points_KK[:, None] - points_KK[chosen]) ** 2).sum(2).min(1)
        share_K = square_K / square_K.sum() if square_K.any() else np.full(len(points_KK), 1 / len(points_KK))
        chosen.append(int(stream.choice(len(points_KK), p=share_K)))
    return points_KK[chosen]
