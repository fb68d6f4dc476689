"""The blind classifier: it sees that members and others differ, and finds nothing where a fair coin decided."""

from __future__ import annotations

import numpy as np
import pytest
from small_runs import small

from privfl.auditing.blind import ALARM, blind_auc
from privfl.running.assembling import assemble


def test_coins_give_nothing_away() -> None:
    # 6 samples at a level of 95 %: more than 1 above one half has a probability of 0.9 %.
    alarms = above = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        found = blind_auc(rng.normal(size=(300, 6)), rng.integers(0, 5, 300), rng.random(300) < 0.5)
        assert found is not None
        above += found.low > 0.5
        alarms += found.low > 0.5 and found.value > ALARM
    assert alarms <= above <= 1


def test_the_coins_of_a_run_give_nothing_away() -> None:
    skewed = {"kind": "digits", "clients": 10, "holdout": 0.5, "partition": {"kind": "dirichlet", "alpha": 0.1}}
    data = assemble(small(data=skewed)).data
    here_N = data.candidate_N
    found = blind_auc(data.pool.x[here_N], data.pool.y[here_N], data.member_N[here_N])
    assert found is not None
    assert found.low < 0.5 < found.high
    # Who owns what is no coin: it is found out at once.
    owners = blind_auc(data.pool.x, data.pool.y, data.owner_N < 5)
    assert owners is not None
    assert owners.low > 0.6


@pytest.mark.parametrize("seen", ["inputs", "labels", "wide"])
def test_members_of_another_distribution_are_seen(seen: str) -> None:
    rng = np.random.default_rng(1)
    member = rng.random(600) < 0.5
    inputs = rng.normal(size=(600, 3, 10, 10) if seen == "wide" else (600, 4))
    labels = rng.integers(0, 3, 600)
    if seen == "labels":
        labels = np.where(member & (rng.random(600) < 0.5), 0, labels)
    else:
        inputs += member.reshape(-1, *[1] * (inputs.ndim - 1)) * (0.4 if seen == "wide" else 0.7)
    found = blind_auc(None if seen == "labels" else inputs, labels, member)
    assert found is not None
    assert found.low > ALARM
    assert found == blind_auc(None if seen == "labels" else inputs, labels, member)


def test_nothing_to_look_at() -> None:
    member = np.arange(100) % 2 == 0
    assert blind_auc(None, None, member) is None
    assert blind_auc(np.zeros((100, 2)), None, np.arange(100) < 4) is None
    # Inputs that are all equal tell nothing apart.
    found = blind_auc(np.zeros((100, 2)), None, member)
    assert found is not None
    assert found.low < 0.5 < found.high
