"""Several global models in use: which model each client has, and the outputs that its examples get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from privfl.data.input_store import InputStore
from privfl.federation.clusters import Clustered, cluster_name
from privfl.federation.outcome import Outcome
from privfl.federation.server_state import ServerState, state_of_client
from privfl.records import ClusterResult, ClustersRecord
from privfl.vectors import state_of

if TYPE_CHECKING:
    from privfl.running.experiment import Experiment

IntArray = NDArray[np.int64]


def losses(experiment: Experiment, models_MD: Tensor, rows: Tensor, y: Tensor, counts: Sequence[int]) -> Tensor:
    """The mean loss of groups of the pool's examples under each model, shape (K, M); infinite if an output is not finite.

    Args:
        experiment: the run.
        models_MD: the models.
        rows: the examples, group after group.
        y: their labels.
        counts: how many there are in each of the K groups.
    """
    group = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(rows.device)
    found = torch.zeros(len(counts), len(models_MD), dtype=torch.float64, device=rows.device)
    for place, model_D in enumerate(models_MD):
        of_rows = experiment.task.loss(experiment.logits(model_D, experiment.x[rows]), y).double()
        found[:, place].index_add_(0, group, of_rows.nan_to_num(torch.inf))
    return found / torch.tensor(counts, device=rows.device)[:, None]


def places(experiment: Experiment, state: ServerState) -> IntArray:
    """The cluster of each of the K clients, from 0: where it was placed, else the model of least training loss."""
    algorithm, data = experiment.algorithm, experiment.data
    place_K = np.zeros(len(data.clients), dtype=np.int64)
    if not isinstance(algorithm, Clustered) or algorithm.models == 1:
        return place_K
    unknown = []
    for client in range(len(place_K)):
        found = algorithm.place(state.algorithm, client, state_of_client(algorithm, state, client).kept)
        if found is None:
            unknown.append(client)
        else:
            place_K[client] = found
    if unknown:
        rows = [torch.from_numpy(data.members_of(client)) for client in unknown]
        index = torch.cat(rows).to(experiment.x.device)
        models_MD = state.global_D.view(algorithm.models, -1)
        found_KM = losses(experiment, models_MD, index, experiment.y[index], [len(one) for one in rows])
        place_K[unknown] = found_KM.argmin(1).cpu().numpy()
    return place_K


def outputs(
    experiment: Experiment,
    state: ServerState,
    x: InputStore,
    index: Tensor | None,
    owner_N: IntArray,
    place_K: IntArray | None = None,
) -> Tensor:
    """The outputs for some examples, each by its owner's model, in their order.

    Args:
        experiment: the run.
        state: has the models.
        x: the inputs.
        index: the examples among them; None: all.
        owner_N: the client that owns each input of ``x``.
        place_K: the clients' clusters if they are known.
    """
    algorithm = experiment.algorithm
    if algorithm.models == 1:
        return experiment.logits(state.global_D, x if index is None else x[index])
    rows = torch.arange(len(x), device=x.device) if index is None else index
    place_K = places(experiment, state) if place_K is None else place_K
    place_n = torch.from_numpy(place_K[owner_N[rows.cpu().numpy()]]).to(x.device)
    found: Tensor | None = None
    for place, model_D in enumerate(state.global_D.view(algorithm.models, -1)):
        mine = torch.nonzero(place_n == place)[:, 0]
        part = experiment.logits(model_D, x[rows[mine]])
        if found is None:
            found = part.new_empty(len(rows), *part.shape[1:])
        found[mine] = part
    assert found is not None
    return found


def named_models(experiment: Experiment, state: ServerState) -> dict[str, Tensor]:
    """The global model by the names of ``state_dict``; of several models with the cluster's name before each."""
    models = experiment.algorithm.models
    if models == 1:
        return state_of(experiment.model, state.global_D)
    return {
        f"{cluster_name(place)}:{name}": value
        for place, model_D in enumerate(state.global_D.view(models, -1))
        for name, value in state_of(experiment.model, model_D).items()
    }


def record(experiment: Experiment, outcome: Outcome) -> ClustersRecord | None:
    """The clusters of a round; None if there is one model, or if nobody trained."""
    arrivals, models = outcome.arrivals, experiment.algorithm.models
    if arrivals is None or models == 1:
        return None
    came = outcome.aggregate.survivors if outcome.aggregate is not None else ()
    slots = [arrivals.chosen[client] for client in came if client in arrivals.chosen]
    return ClustersRecord(
        sizes=[slots.count(slot) for slot in range(models)],
        wanted=None if arrivals.wanted is None else list(arrivals.wanted),
        closed=list(arrivals.closed),
    )


def results(experiment: Experiment, place_K: IntArray, of_clients: Mapping[int, float]) -> tuple[ClusterResult, ...]:
    """The clusters at the end of a run; empty if there is one model.

    Args:
        experiment: the run.
        place_K: the cluster of each client.
        of_clients: the headline on each client's own hold-out.
    """
    models = experiment.algorithm.models
    if models == 1:
        return ()
    headline = next(iter(experiment.task.figures.values()))
    found = []
    for place in range(models):
        members = np.flatnonzero(place_K == place).tolist()
        values = [of_clients[client] for client in members if client in of_clients]
        worst = (min if headline.higher_is_better else max)(values, default=None)
        mean = float(np.mean(values)) if values else None
        found.append(ClusterResult(clients=len(members), mean=mean, worst=worst))
    return tuple(found)


def in_group(experiment: Experiment, place_K: IntArray) -> float | None:
    """The share of clients in the cluster of their group; None if the data have no groups, or if there is one model.

    Each group is given a cluster of its own, so that the share is the largest (Kuhn 1955).
    """
    group_K = experiment.data.group_K
    if group_K is None or experiment.algorithm.models == 1:
        return None
    together_GM = np.zeros((int(group_K.max()) + 1, experiment.algorithm.models), dtype=np.int64)
    np.add.at(together_GM, (group_K, place_K), 1)
    return float(together_GM[linear_sum_assignment(-together_GM)].sum() / len(place_K))


def known_places(experiment: Experiment, place_K: IntArray) -> tuple[int, ...]:
    """The cluster of each client if the server learns it; empty if a secure sum or the noise hides it."""
    hidden = experiment.aggregator.hides_updates or experiment.plan.clips_updates
    return () if hidden or experiment.algorithm.models == 1 else tuple(place_K.tolist())
