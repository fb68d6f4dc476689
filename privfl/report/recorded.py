"""One run, read from its folder once: everything that the page may draw on, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from privfl.config import ExperimentConfig
from privfl.errors import ConfigError
from privfl.learning.tasks import Figure, Task
from privfl.loading import load
from privfl.records import (
    AttackRecord,
    Environment,
    Evaluation,
    Leakage,
    PartitionRecord,
    RateAt,
    Result,
    RoundRecord,
    TimingRecord,
)
from privfl.running.run_folder import RunFolder
from privfl.tables import narrow


@dataclass(frozen=True)
class Run:
    """The typed records of one finished run."""

    path: Path
    config: ExperimentConfig
    environment: Environment
    partition: PartitionRecord
    result: Result
    leakage: Leakage | None
    rounds: list[RoundRecord]
    timings: list[TimingRecord]

    @classmethod
    def read(cls, folder: RunFolder) -> Run:
        """All records of a folder.

        Raises:
            RunFolderError: the run has not finished, or a record is damaged.
        """
        return cls(
            path=folder.path,
            config=_config(folder),
            environment=folder.environment,
            partition=folder.partition,
            result=folder.result,
            leakage=folder.leakage,
            rounds=folder.rounds(),
            timings=folder.timings(),
        )

    @property
    def task(self) -> Task:
        """What the run learned."""
        return narrow(self.config.task, Task)

    @property
    def headline(self) -> Figure:
        """How the headline of its task is shown."""
        return next(iter(self.task.figures.values()))

    @property
    def title(self) -> str:
        """The run's name, and its folder's where that is another: runs of one configuration are told apart by it."""
        name, folder = self.config.name, self.path.resolve().name
        return name if folder == name else f"{name} ({folder})"

    @property
    def evaluated(self) -> list[tuple[int, Evaluation]]:
        """(rounds done, evaluation) for each round that was evaluated."""
        return [(record.round + 1, record.evaluation) for record in self.rounds if record.evaluation is not None]

    @property
    def skipped(self) -> list[RoundRecord]:
        """The rounds in which the model did not move: nobody trained, or too few clients survived the aggregation."""
        return [record for record in self.rounds if record.skipped is not None]

    @property
    def lost(self) -> list[RoundRecord]:
        """Of those, the rounds in which clients trained and sent, but no sum was made."""
        return [record for record in self.skipped if record.train_loss is not None]

    @property
    def alone(self) -> int:
        """In how many rounds the sum was of one client, and of zeros that others sent in its company."""
        came = [set(record.survivors) & set(record.cohort) for record in self.rounds if record.secure is not None]
        return sum(len(one) == 1 for one in came)

    @property
    def contributions(self) -> int:
        """How often a client's update reached the model, over all rounds."""
        return sum(len(record.survivors) for record in self.rounds)


def _config(folder: RunFolder) -> ExperimentConfig:
    """The run's configuration; without its attacks where one is a module of somebody else's that is not here."""
    try:
        return folder.config
    except ConfigError:
        return load(folder.path / "config.toml", "attacks.run=[]")


@dataclass(frozen=True)
class Found:
    """What an attack found at one false positive rate.

    Args:
        figure: the figure that stands for it. The best attack's, where it was chosen from several, is of those candidates that
            did not choose it: a figure of all would be of its luck, too.
        of_all: that of all candidates, where it is another.
    """

    figure: RateAt
    of_all: RateAt | None


def found_by(attack: AttackRecord, at: RateAt, leakage: Leakage) -> Found:
    """What that attack found at one of its rates: the one place that says which figure stands for it."""
    best = leakage.best
    honest = rate_at(best.rates, at.fpr) if (attack.attack, attack.variant) == (best.attack, best.variant) else None
    return Found(at, None) if honest is None or len(leakage.attacks) == 1 else Found(honest, at)


def rate_at(rates: list[RateAt], fpr: float) -> RateAt | None:
    """The entry of a list of rates for one false positive rate."""
    return next((rate for rate in rates if abs(rate.fpr - fpr) < 1e-12), None)
