"""The success of a backdoor: the share of test inputs with the trigger that get the target label."""

from __future__ import annotations

from privfl.data.federated import IntArray
from privfl.federation.server_state import ServerState
from privfl.learning.tasks._intervals import share
from privfl.records import Interval
from privfl.running import clusters
from privfl.running.experiment import Experiment


def success(experiment: Experiment, state: ServerState, place_K: IntArray | None, level: float = 0.95) -> Interval | None:
    """The attack success rate with its exact interval, over the test inputs that count.

    Args:
        experiment: the run.
        state: has the global model.
        place_K: the clients' clusters if they are known.
        level: that of the interval.

    Returns:
        None if the behaviour has no backdoor, or no test input counts.
    """
    found = experiment.behaviour.triggered(experiment.test_x, experiment.test_y)
    if found is None or not found.counted_N.any():
        return None
    outputs = clusters.outputs(experiment, state, found.x, None, experiment.data.test_clients(), place_K)
    return share(outputs[found.counted_N].argmax(1) == found.target, level)
