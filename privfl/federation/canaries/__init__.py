"""SHELF of canaries: what is planted into a run so that an audit can look for it. A file's name is its name in a configuration.

A canary takes the place of an example of the pool, or of a client, and a fair coin of its own decides whether it is trained on.
Every client keeps its public size, so that neither the price nor anything else that is public depends on the coins. The
candidates of such a run are its canaries.

An item is one module with one class that derives from :class:`Canaries`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privfl.config import CanariesConfig
from privfl.data.federated import Examples, FederatedData, IntArray
from privfl.errors import ConfigError
from privfl.learning.tasks import Task
from privfl.learning.training._directions import Directions
from privfl.seeding import Seed


@dataclass(frozen=True)
class Site:
    """The federation that canaries are planted into.

    Args:
        data: who has what, before.
        task: what is learned.
        module: the model before the first round, in training mode; it is not to be changed.
        seed: of the canaries alone.
    """

    data: FederatedData
    task: Task
    module: nn.Module
    seed: Seed


class Canaries(CanariesConfig, ABC):
    """The contract of this shelf: M canaries, each trained on by a fair coin.

    Suffix: M canaries, in the order of the pool.
    """

    directed: ClassVar[bool] = False
    """Whether a canary is no input but a direction, in which it moves what it is added to."""

    whole_clients: ClassVar[bool] = False
    """Whether a canary is a client, and not an example."""

    def planted(self, site: Site) -> FederatedData:
        """The data with the canaries in them, and their coins tossed.

        Raises:
            ConfigError: there is no room for so many.
        """
        rows_M = self.places(site.data, (site.seed / "places").numpy())
        coin_M = (site.seed / "coins").numpy().random(len(rows_M)) < 0.5
        candidate_N, member_N = np.zeros(len(site.data.pool), np.bool_), site.data.member_N.copy()
        candidate_N[rows_M], member_N[rows_M] = True, coin_M
        pool = self.pool(site, rows_M)
        return replace(site.data, pool=pool, candidate_N=candidate_N, member_N=member_N)

    def places(self, data: FederatedData, generator: np.random.Generator) -> IntArray:
        """The examples of the pool whose places the canaries take, of shape (M,), ascending.

        Raises:
            ConfigError: there are too few.
        """
        return self._drawn(self.free(data), f"of {len(data.pool)} examples", "give more data", generator)

    def free(self, data: FederatedData) -> IntArray:
        """The examples of the pool whose places may be taken, ascending.

        One example of each client, which is a member whatever the coins say, stays where it is.
        """
        free_N = np.ones(len(data.pool), np.bool_) if data.validation_N is None else ~data.validation_N
        always = np.flatnonzero(free_N & ~data.candidate_N)
        _, first = np.unique(data.owner_N[always], return_index=True)
        free_N[always[first]] = False
        return np.flatnonzero(free_N)

    def _drawn(self, free: IntArray, among: str, fewer: str, generator: np.random.Generator) -> IntArray:
        if self.count > len(free):
            raise ConfigError(f"canaries.count = {self.count}: must be at most {len(free)}, {among}; lower it, or {fewer}")
        return np.sort(generator.choice(free, self.count, replace=False))

    def pool(self, site: Site, rows_M: IntArray) -> Examples:
        """The pool with the canaries' inputs and labels in those places."""
        pool = site.data.pool
        x_M, y_M = self.examples(site, rows_M, (site.seed / "examples").numpy())
        x, y = pool.x.copy(), pool.y.copy()
        x[rows_M], y[rows_M] = x_M, y_M
        return replace(pool, x=x, y=y)

    @abstractmethod
    def examples(self, site: Site, rows_M: IntArray, generator: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        """Inputs and labels of the canaries, as the pool keeps them.

        Args:
            site: where they go.
            rows_M: the examples whose places they take.
            generator: of these draws alone.

        Raises:
            ConfigError: there is no such canary for these data.
        """

    def directions(self, site: Site) -> Directions | None:  # noqa: ARG002
        """The directions of directed canaries, in the order of the pool; None for inputs.

        Args:
            site: where they go.

        Raises:
            ConfigError: there are too few directions.
        """
        return None


@dataclass(frozen=True)
class CanaryClients:
    """The uploads of canary clients.

    Args:
        directions: that of each of the M clients.
        place_of: client -> which of them it is.
        sent_M: whether its coin says that it sends its direction.
        scale: the length of an update, in clipping norms.
        norm: the clipping norm; None: nothing is clipped.
    """

    directions: Directions
    place_of: Mapping[int, int]
    sent_M: NDArray[np.bool_]
    scale: float
    norm: float | None

    def upload(self, client: int, joined_D: Tensor) -> Tensor:
        """The payload that a client hands to the plan: a canary its direction or a zero, any other client its own.

        Without a clipping norm a canary's update is ``scale`` times as long as the one that its training gave.
        """
        place = self.place_of.get(client)
        if place is None:
            return joined_D
        if not self.sent_M[place]:
            return torch.zeros_like(joined_D)
        length = float(torch.linalg.vector_norm(joined_D)) if self.norm is None else self.norm
        return (self.scale * length) * self.directions.vector(place).to(joined_D)


def classes_of(site: Site, kind: str) -> int:
    """C, the number of classes.

    Raises:
        ConfigError: the labels are no classes.
    """
    if site.data.pool.classes() is None or not site.data.classes:
        raise ConfigError(f"canaries.kind = {kind!r}: needs labels that are classes; set canaries.kind = 'random'")
    return len(site.data.classes)
