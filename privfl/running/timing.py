"""The timetable of a run, from its configuration and the clients' public sizes."""

from __future__ import annotations

import numpy as np

from privfl.config import ExperimentConfig
from privfl.data.federated import FederatedData
from privfl.federation.clocks import Clock
from privfl.federation.paces import Course, Pace, Timetable, timetable
from privfl.privacy.cohorts import CohortSampler
from privfl.seeding import Seed
from privfl.tables import narrow


def units_of_work(config: ExperimentConfig) -> int:
    """The number of local epochs of a training, or of local steps if the settings count these."""
    return config.training.local_steps or config.training.local_epochs or 0


def planned_turns(config: ExperimentConfig, data: FederatedData, seed: Seed, cohorts: Seed, name: str) -> Timetable:
    """The turns of all rounds of a run.

    Args:
        config: the configuration.
        data: the examples with their owners; only the clients' sizes count.
        seed: the root of the randomness of clock and pace, which are public.
        cohorts: the root of the cohorts' randomness.
        name: the noise domain, on which secret cohorts depend too.

    Raises:
        ConfigError: nobody would ever be in time.
    """
    stream = cohorts / "cohort"
    training, sizes_K = config.training, data.sizes()
    epoch_K = -(-sizes_K // training.batch_size)
    steps_K = np.full(len(sizes_K), training.local_steps) if training.local_steps else epoch_K * (training.local_epochs or 0)
    course = Course(
        clients=len(data.clients),
        rounds=config.rounds,
        sampler=narrow(config.cohort, CohortSampler),
        cohort_stream=stream / name if config.privacy.secret_cohorts else stream,
        clock=narrow(config.clock, Clock),
        stream=seed / "timing",
        steps_K=steps_K.astype(np.float64),
        units=units_of_work(config),
    )
    return timetable(narrow(config.pace, Pace), course)
