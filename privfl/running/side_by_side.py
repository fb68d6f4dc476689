"""Several runs of one configuration, as shadow models are, trained round by round as one program.

Each round the cohorts of all runs go through the trainer in one call, each client from its own run's global model. All else
of a round (plan, aggregator, server, states of clients) is done run by run, by the code that carries out a single run. A run
draws the same members, cohorts, batches and noise as alone, so that its model is the same up to rounding: sums of
float32 numbers may be added in another order if more clients are trained together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from privfl.federation.outcome import CohortTasks
from privfl.learning.training import LocalResult, LocalTask, Trainer
from privfl.running.experiment import Experiment, Progress


def runs_at_once(experiment: Experiment) -> int:
    """How many runs of that configuration are best trained together; 1 if it must be one by one, or nothing is gained."""
    if not experiment.algorithm.one_work:
        return 1
    if experiment.algorithm.models > 1:
        return 1
    return experiment.trainer.runs_at_once(max(map(len, experiment.cohorts)), experiment.initial_D, experiment.x[:1])


def trained(experiments: Sequence[Experiment]) -> list[Tensor]:
    """The final global model of each run, without records.

    Args:
        experiments: runs that share one trainer, as the shadows of one experiment do.

    Raises:
        ModelError: the training of one of them diverged.
    """
    if len(experiments) == 1 or not experiments[0].algorithm.one_work:
        return [one.train() for one in experiments]
    runs = [Progress(one.initial_state()) for one in experiments]
    while left := [place for place, one in enumerate(experiments) if not one.over(runs[place])]:
        cohorts = {place: _at_hand(experiments[place], runs[place]) for place in left}
        given = [(place, task) for place, cohort in cohorts.items() for task in _tasks(experiments[place], runs[place], cohort)]
        results: dict[int, list[LocalResult]] = {place: [] for place in left}
        if given:
            some = experiments[given[0][0]]
            starts = [_from(runs[place].state.global_D, task) for place, task in given]
            found = some.trainer.train(runs[given[0][0]].state.global_D, starts)
            for (place, _), result in zip(given, found, strict=True):
                results[place].append(result)
        for place, cohort in cohorts.items():
            one = replace(experiments[place], trainer=_Done(experiments[place].trainer, results[place]))
            runs[place] = one.after(runs[place], one.step(runs[place].state, cohort=cohort))
    return [progress.state.global_D for progress in runs]


def _at_hand(experiment: Experiment, progress: Progress) -> CohortTasks:
    """The round's cohort, with tasks that are put together once."""
    cohort = experiment.cohort(progress.state)
    tasks: dict[int, LocalTask] = {}

    def task(client: int) -> LocalTask:
        if client not in tasks:
            tasks[client] = cohort.task(client)
        return tasks[client]

    return replace(cohort, task=task)


def _tasks(experiment: Experiment, progress: Progress, cohort: CohortTasks) -> list[LocalTask]:
    if experiment.skipped(progress.state.round) is not None:
        return []
    return [cohort.task(client) for client in cohort.clients]


def _from(global_D: Tensor, task: LocalTask) -> LocalTask:
    """The same task for a trainer that is given another run's global model."""
    work = task.work
    start_D = global_D if work.start_D is None else work.start_D
    centre_D = global_D if work.centre_D is None and work.mu else work.centre_D
    contrast = work.contrast
    if contrast is not None and contrast.near_D is None:
        contrast = replace(contrast, near_D=global_D)
    return replace(task, work=replace(work, start_D=start_D, centre_D=centre_D, contrast=contrast))


class _Done(Trainer):
    """A trainer that hands out results that another one found."""

    def __init__(self, by: Trainer, results: Sequence[LocalResult]) -> None:
        super().__init__(by.model, by.config, by.plan, by.task)
        self._results = {result.client: result for result in results}

    def train(self, global_D: Tensor, tasks: Sequence[LocalTask]) -> list[LocalResult]:  # noqa: ARG002
        """See the contract."""
        return [self._results[task.client] for task in tasks]

    def parts(self, clients: int, global_D: Tensor, x: Tensor) -> int:  # noqa: ARG002
        """See the contract: nothing is left to share out."""
        return 1
