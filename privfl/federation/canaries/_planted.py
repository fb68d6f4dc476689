"""Canaries that are directions, planted into a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from privfl.config import ExperimentConfig
from privfl.data.federated import FederatedData
from privfl.errors import ConfigError
from privfl.federation.algorithms import Algorithm
from privfl.federation.canaries import Canaries, CanaryClients, Site
from privfl.federation.canaries._directed import DirectedCanaries
from privfl.federation.payload import PayloadLayout
from privfl.learning.tasks import Task
from privfl.learning.training._directions import Directions, PlantedGradients
from privfl.privacy.plans import Plan
from privfl.seeding import Seed
from privfl.tables import narrow
from privfl.vectors import Layout


@dataclass(frozen=True)
class Planted:
    """The canaries of a run.

    Args:
        item: their item on the shelf.
        directions: the direction of each, if they are directions.
    """

    item: Canaries
    directions: Directions | None

    def gradients(self, data: FederatedData, plan: Plan) -> PlantedGradients | None:
        """The gradients in the place of those of the canaries; None if canaries are no gradients."""
        directions, item = self.directions, self.item
        if directions is None or not isinstance(item, DirectedCanaries) or item.whole_clients:
            return None
        length = item.scale * plan.clip
        return PlantedGradients(np.flatnonzero(data.candidate_N), lambda place: length * directions.vector(place))

    def clients(self, data: FederatedData, plan: Plan) -> CanaryClients | None:
        """The uploads of canary clients; None if there are none."""
        if self.directions is None or not isinstance(self.item, DirectedCanaries) or not self.item.whole_clients:
            return None
        rows_M = np.flatnonzero(data.candidate_N)
        place_of = {int(client): place for place, client in enumerate(data.owner_N[rows_M])}
        norm = plan.clip if plan.clips_updates else None
        return CanaryClients(self.directions, place_of, data.member_N[rows_M], self.item.scale, norm)


def plant(
    config: ExperimentConfig, data: FederatedData, task: Task, module: nn.Module, seed: Seed
) -> tuple[FederatedData, Planted | None]:
    """Plant the canaries of a configuration, if it has any.

    Args:
        config: the whole configuration.
        data: the data without canaries.
        task: the task.
        module: the model before the first round.
        seed: the run's.

    Returns:
        the data with the canaries in them, and the canaries.

    Raises:
        ConfigError: there is no room for so many, or they are directions and the algorithm uploads more than updates.
    """
    if config.canaries is None:
        return data, None
    item, site = narrow(config.canaries, Canaries), Site(data, task, module, seed / "canaries")
    planted, directions = item.planted(site), item.directions(site)
    algorithm, layout = narrow(config.algorithm, Algorithm).resolved(module), Layout.of(module)
    if directions is not None and PayloadLayout(algorithm.parts(layout), layout).joined.size != directions.size:
        raise ConfigError(
            f"algorithm.kind = {algorithm.kind!r}: uploads more than an update, and canaries that are directions know of "
            "updates only; set algorithm = 'fedavg', or canaries.kind = 'mislabelled'"
        )
    return planted, Planted(item, directions)
