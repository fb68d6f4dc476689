"""The success of a backdoor: the share of test inputs with the trigger that get the target label."""

from __future__ import annotations

from privfl.data.federated import IntArray
from privfl.federation.server_state import ServerState
from privfl.learning.tasks._intervals import share
from privfl.records import Interval
from privfl.running import clusters
from privfl.running.experiment import Experiment


def success(experiment: Experiment, state: ServerState, place_K: IntArray | None, level: float = 0.95) -> Interval | None:
    """The attack success rate with its exact interval, over the test inputs whose class is not the target.

    Args:
        experiment: the run.
        state: has the global model.
        place_K: the clients' clusters if they are known.
        level: that of the interval.

    Returns:
        None if no behaviour has a trigger, or all test inputs are of the target class.
    """
    found = experiment.behaviour.triggered(experiment.test_x)
    if found is None:
        return None
    test_x, target = found
    others_T = experiment.test_y != target
    if not others_T.any():
        return None
    outputs = clusters.outputs(experiment, state, test_x, None, experiment.data.test_clients(), place_K)
    return share(outputs[others_T].argmax(1) == target, level)
