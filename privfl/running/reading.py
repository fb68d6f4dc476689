"""Reads a run's data, divides them among the clients, and checks that the configuration fits them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pydantic_core import PydanticCustomError

from privfl.config import ExperimentConfig, require_clients
from privfl.data.datasets import Dataset
from privfl.data.federated import Examples, FederatedData
from privfl.data.transforms import transformed
from privfl.errors import ConfigError
from privfl.learning.tasks import Task
from privfl.seeding import Seed
from privfl.tables import narrow


def read_data(config: ExperimentConfig, task: Task, seed: Seed, secret: Seed) -> tuple[FederatedData, tuple[int, ...]]:
    """The data of a run, divided among its clients, and the shape of a model's outputs for one example.

    Args:
        config: the resolved configuration.
        task: its task.
        seed: the run's seed.
        secret: source of the noise on statistics of the data, if a transform needs one.

    Raises:
        ConfigError: cohort, aggregator or δ do not fit the number of clients, or of all examples that clients own.
        DataError: the data are missing, damaged, or do not fit the task.
    """
    loaded = task.fitting(transformed(narrow(config.data, Dataset).load(), config.data, secret / "transforms"))
    data, outputs = FederatedData.build(loaded, config.data, seed / "data"), task.outputs(loaded)
    if config.training.early_stopping is not None:
        data = data.validating(config.training.early_stopping.validation, (seed / "validation").numpy())
    try:
        require_clients(config, len(data.clients))
    except PydanticCustomError as error:
        context = error.context or {}
        raise ConfigError(f"{context['key']} = {context['value']!r}: {context['hint']}") from None
    config.privacy.check_data(len(data.clients), len(data.pool))
    return data, outputs


def set_aside(data: FederatedData, count: int, stream: Seed) -> tuple[FederatedData, Examples | None]:
    """Take examples out of the test split, for the server to train on.

    Args:
        data: the data as read.
        count: how many; 0: none.
        stream: draws them.

    Returns:
        the data without them, and the examples; None if there are none.

    Raises:
        ConfigError: too few examples would be left for a test.
    """
    if not count:
        return data, None
    total = len(data.test)
    if 2 * count > total:
        raise ConfigError(
            f"aggregator.root_rows = {count}: they are taken out of the {total} test examples, of which half must stay; set at "
            f"most {total // 2}"
        )
    order_T = stream.numpy().permutation(total)
    own_T, left_T = np.sort(order_T[:count]), np.sort(order_T[count:])
    own, left = (replace(data.test, x=data.test.x[rows], y=data.test.y[rows]) for rows in (own_T, left_T))
    origin_T = None if data.test_origin_T is None else data.test_origin_T[left_T]
    group_T = None if data.test_group_T is None else data.test_group_T[left_T]
    return replace(data, test=left, test_origin_T=origin_T, test_group_T=group_T), own
