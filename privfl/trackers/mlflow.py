"""MLflow: a run in the experiment ``privfl`` of the server or store that ``MLFLOW_TRACKING_URI`` names."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from privfl.trackers import TrackedRun, Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

_IDENTITY: Final = "privfl.run"
_ROUNDS: Final = "privfl.rounds"
_LONGEST: Final = 6000
"""The most characters that a parameter may have (MLflow's REST API, LogParam)."""
_PARAMETERS: Final = 100
"""The most parameters that one request may have (MLflow's REST API, LogBatch)."""


class Mlflow(Tracker):
    """MLflow. Settings are parameters, figures are metrics, the page and the records are artefacts.

    ``MLFLOW_TRACKING_URI`` and ``MLFLOW_EXPERIMENT_NAME`` are MLflow's own settings; without the first, MLflow chooses a file
    in the current folder. A run folder that was tracked before is found by a tag, and only its new rounds are sent.
    """

    packages: ClassVar[tuple[str, ...]] = ("mlflow", "sqlalchemy", "alembic")

    _client: MlflowClient
    _id: str

    def begin(self, run: TrackedRun) -> int:
        """See :class:`privfl.trackers.Tracker`."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "privfl")
        experiment = self._client.get_experiment_by_name(name)
        at = experiment.experiment_id if experiment is not None else self._client.create_experiment(name)
        before = self._client.search_runs([at], f"tags.`{_IDENTITY}` = '{run.identity}'", max_results=1)
        if before:
            self._id = before[0].info.run_id
            self._client.update_run(self._id, "RUNNING")
            return int(before[0].data.tags.get(_ROUNDS, "0"))
        self._id = self._client.create_run(at, run_name=run.name, tags={_IDENTITY: run.identity}).info.run_id
        parameters = [Param(key, str(value)[:_LONGEST]) for key, value in run.settings.items()]
        for first in range(0, len(parameters), _PARAMETERS):
            self._client.log_batch(self._id, params=parameters[first : first + _PARAMETERS])
        return 0

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """See :class:`privfl.trackers.Tracker`."""
        from mlflow.entities import RunTag

        self._client.log_batch(self._id, metrics=_metrics(figures, step), tags=[RunTag(_ROUNDS, str(step))])

    def finish(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """See :class:`privfl.trackers.Tracker`."""
        self._client.log_batch(self._id, metrics=_metrics(figures, 0))
        for file in files:
            self._client.log_artifact(self._id, str(file))
        self._client.set_terminated(self._id, "FINISHED" if figures else "KILLED")


def _metrics(figures: Mapping[str, float], step: int) -> Sequence[Metric]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, value, now, step) for name, value in figures.items()]
