"""One run, read from its folder once: everything that the page may draw on, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from privfl.adversaries import Adversary
from privfl.auditing.questions import Finding
from privfl.config import ExperimentConfig
from privfl.errors import ConfigError
from privfl.learning.tasks import Figure, Task
from privfl.loading import load
from privfl.records import (
    Environment,
    Evaluation,
    PartitionRecord,
    PrivacyResult,
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
    findings: tuple[Finding, ...]
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
            findings=folder.findings,
            rounds=folder.rounds(),
            timings=folder.timings(),
        )

    def promise(self, adversary: Adversary) -> PrivacyResult | None:
        """What the run promises against that adversary; None: nothing."""
        privacy = self.result.privacy
        return privacy if privacy is not None and adversary in privacy.adversaries else None

    def finding(self, question: str, adversary: Adversary) -> Finding | None:
        """What was found about that question by that adversary's attacks; None if none was run."""
        return next((one for one in self.findings if (one.question, one.adversary) == (question, adversary)), None)

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
