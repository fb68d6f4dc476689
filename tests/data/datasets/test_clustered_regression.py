"""Clustered regressions: each group's function is in its clients' examples."""

from __future__ import annotations

from typing import Any

import numpy as np
from small_runs import small

from privfl.data.datasets.clustered_regression import ClusteredRegression
from privfl.running import clusters
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic


def made(**settings: Any) -> ClusteredRegression:
    return ClusteredRegression(kind="clustered_regression", features=10, people=6, examples=40, **settings)


def test_each_group_has_a_function_of_its_own() -> None:
    data = made(groups=3, noise=0.0)
    loaded, weights_GF = data.load(), data.functions()
    assert np.allclose(np.linalg.norm(weights_GF, axis=1), 0.5)
    assert loaded.natural_N is not None
    assert loaded.group_K is not None
    assert loaded.test_group_T is not None
    assert loaded.group_K.tolist() == [0, 1, 2, 0, 1, 2]
    for part, group_N in ((loaded.train, loaded.group_K[loaded.natural_N]), (loaded.test, loaded.test_group_T)):
        for group in range(3):
            mine = group_N == group
            found_F = np.linalg.lstsq(part.x[mine], part.y[mine], rcond=None)[0]
            assert np.allclose(found_F, weights_GF[group], atol=1e-5)
    assert made().load().digest() == made().load().digest() != made(draw_seed=1).load().digest()


def test_ifca_learns_both_functions() -> None:
    """The test error is that of the noise; one model for both groups is off by half of their distance."""
    table = {"kind": "clustered_regression", "features": 10, "people": 10, "examples": 40, "separation": 2.0, "holdout": 0.0}
    errors = {}
    for algorithm in ("fedavg", "ifca"):
        config = small(
            data={**table, "partition": "natural"},
            task="regression",
            privacy="none",
            aggregator="mean",
            server={"kind": "fedavg"},
            cohort="all",
            rounds=15,
            training={"local_steps": 5, "batch_size": 40, "lr": 0.1},
            algorithm=algorithm,
        )
        experiment = assemble(config)
        state = experiment.initial_state()
        with deterministic():
            for _ in range(15):
                state = experiment.step(state).state
        outputs = clusters.outputs(experiment, state, experiment.test_x, None, experiment.data.test_clients())
        errors[algorithm] = experiment.task.metrics(outputs, experiment.test_y)["rmse"].value
    assert errors["ifca"] < 0.12
    assert errors["fedavg"] > 0.5
    assert clusters.in_group(experiment, clusters.places(experiment, state)) == 1.0
