"""The records of one finished run, read once from its folder; a report uses nothing else."""

from __future__ import annotations

from collections.abc import Mapping
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
class RunRecords:
    """The typed records of one finished run, and the bytes of each part of its folder."""

    path: Path
    config: ExperimentConfig
    environment: Environment
    partition: PartitionRecord
    result: Result
    findings: tuple[Finding, ...]
    rounds: list[RoundRecord]
    timings: list[TimingRecord]
    disk: Mapping[str, int]

    @classmethod
    def read(cls, folder: RunFolder) -> RunRecords:
        """Read all records of a folder.

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
            disk=_disk(folder.path),
        )

    def promise(self, adversary: Adversary) -> PrivacyResult | None:
        """Return the differential privacy promised against an adversary; None if the run promises none."""
        privacy = self.result.privacy
        return privacy if privacy is not None and adversary in privacy.adversaries else None

    def finding(self, question: str, adversary: Adversary) -> Finding | None:
        """Return the finding about a question by an adversary's attacks; None if no such attack was run."""
        return next((one for one in self.findings if (one.question, one.adversary) == (question, adversary)), None)

    @property
    def task(self) -> Task:
        """The learning task of the run."""
        return narrow(self.config.task, Task)

    @property
    def headline_metric(self) -> Figure:
        """The display of the task's headline metric: its title, unit and meaning."""
        return next(iter(self.task.figures.values()))

    @property
    def title(self) -> str:
        """The run's name, with the folder's name if it differs, so that runs of one configuration have different titles."""
        name, folder = self.config.name, self.path.resolve().name
        return name if folder == name else f"{name} ({folder})"

    @property
    def evaluations(self) -> list[tuple[int, Evaluation]]:
        """The evaluations, each with the number of rounds done by then."""
        return [(record.round + 1, record.evaluation) for record in self.rounds if record.evaluation is not None]

    @property
    def skipped_rounds(self) -> list[RoundRecord]:
        """The rounds that left the model unchanged: no client trained, or too few survived the aggregation."""
        return [record for record in self.rounds if record.skipped is not None]

    @property
    def lost_rounds(self) -> list[RoundRecord]:
        """The skipped rounds in which clients trained and sent messages, but no sum was computed."""
        return [record for record in self.skipped_rounds if record.train_loss is not None]

    @property
    def single_client_rounds(self) -> int:
        """The number of rounds whose secure sum holds the update of one client only; other clients sent zeros, if any."""
        came = [set(record.survivors) & set(record.cohort) for record in self.rounds if record.secure is not None]
        return sum(len(one) == 1 for one in came)

    @property
    def contributions(self) -> int:
        """The number of updates that reached the model, over all rounds."""
        return sum(len(record.survivors) for record in self.rounds)


_PARTS = {
    "views": "views of the adversaries",
    "transcripts": "messages of secure aggregation",
    "attacks": "attacks, with their shadow models",
    "model.safetensors": "the final model",
    "state.safetensors": "the state to resume from",
}
"""The parts of a run folder that are named; all other records are added up."""

_PAGES = {"report.html", "privacy_card.json", "figures", "tables", "tensorboard", ".lock"}
"""Files that a report or a tracker writes, and the lock. They are not counted, so that the same folder gives the same page."""


def _disk(path: Path) -> dict[str, int]:
    """Return the bytes of each part of a run folder, the largest first, without the page and its files."""
    sizes = dict.fromkeys([*_PARTS.values(), "other records"], 0)
    for file in path.rglob("*"):
        part = file.relative_to(path).parts[0]
        if part not in _PAGES and file.is_file():
            sizes[_PARTS.get(part, "other records")] += file.stat().st_size
    return {name: size for name, size in sorted(sizes.items(), key=lambda pair: -pair[1]) if size}


def _config(folder: RunFolder) -> ExperimentConfig:
    """Return the run's configuration; its attacks are left out if one is a module that is not installed here."""
    try:
        return folder.config
    except ConfigError:
        return load(folder.path / "config.toml", "attacks.run=[]")
