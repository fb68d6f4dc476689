"""Groups of clients whose images are turned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_runs import SMALL, small

from privfl.data.datasets import Dataset
from privfl.data.federated import FederatedData
from privfl.data.rotations import turned_images
from privfl.errors import ConfigError, DataError
from privfl.running.assembling import assemble
from privfl.seeding import Seed
from privfl.tables import narrow


def built(**settings: Any) -> FederatedData:
    config = small(data={**SMALL["data"], "partition": "iid", **settings}, privacy="none", aggregator="mean", cohort="all").data
    return FederatedData.build(narrow(config, Dataset).load(), config, Seed(0))


def test_a_quarter_turn_is_counterclockwise() -> None:
    x = np.array([[[[1, 2], [3, 4]]]] * 4)
    found = turned_images(x, (0, 90, 180, 270), np.arange(4))
    assert found[:, 0].tolist() == [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]


def test_groups_are_blocks_of_clients_and_everything_else_stays() -> None:
    plain, turned = built(), built(rotations=[180, 0, 90])
    assert plain.group_K is None
    assert turned.group_K is not None
    assert turned.group_K.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert np.array_equal(plain.owner_N, turned.owner_N)
    assert np.array_equal(plain.member_N, turned.member_N)
    assert np.array_equal(plain.pool.y, turned.pool.y)
    for group, quarters in enumerate((2, 0, 1)):
        mine = turned.group_K[turned.owner_N] == group
        assert np.array_equal(turned.pool.x[mine], np.rot90(plain.pool.x[mine], quarters, axes=(2, 3)))
    assert turned.test_group_T is not None
    for group, quarters in enumerate((2, 0, 1)):
        assert np.array_equal(turned.test.x[group::3], np.rot90(plain.test.x[group::3], quarters, axes=(2, 3)))
    assert plain.digest() != turned.digest()


def test_each_test_example_is_answered_by_a_client_of_its_group() -> None:
    turned = built(rotations=[180, 0])
    assert turned.group_K is not None
    assert turned.test_group_T is not None
    who_T = turned.test_clients()
    assert np.array_equal(turned.group_K[who_T], turned.test_group_T)
    assert np.ptp(np.bincount(who_T, minlength=10)) <= 1
    assert built().test_clients()[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_what_cannot_be_turned_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.rotations"):
        small(data={**SMALL["data"], "rotations": [45]})
    with pytest.raises(DataError, match=r"data\.rotations: names 4 groups for 2 clients"):
        built(clients=2, rotations=[0, 90, 180, 270])
    with pytest.raises(DataError, match=r"data\.rotations: turns images, of shape \(N, C, H, W\), and x is of shape \(3, 5\)"):
        turned_images(np.zeros((3, 5)), (0,), np.zeros(3, dtype=np.int64))
    with pytest.raises(DataError, match="a quarter turn needs square images, and these have 2 by 3 pixels"):
        turned_images(np.zeros((3, 1, 2, 3)), (90,), np.zeros(3, dtype=np.int64))


def test_a_run_writes_the_setting_only_if_it_is_given() -> None:
    plain = small()
    assert "rotations" not in plain.model_dump()["data"]
    turned = small(data={**SMALL["data"], "rotations": [0, 180]})
    assert turned.model_dump()["data"]["rotations"] == (0, 180)
    assert assemble(turned).data.group_K is not None
