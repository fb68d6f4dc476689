"""A run as an object: train it, look at its figures, attack it, take its model away."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from privfl.adversaries import Adversary
from privfl.api.epsilon import Epsilon
from privfl.api.frame import Frame
from privfl.config import ExperimentConfig
from privfl.records import Environment, Interval, PartitionRecord, Result
from privfl.running.default_folder import default_folder
from privfl.running.recording import RoundObserver
from privfl.running.recording import run as carry_out
from privfl.running.run_folder import RunFolder

if TYPE_CHECKING:
    from torch import nn

    from privfl.auditing.questions import Finding
    from privfl.running.views import ExternalView


def run(
    config: ExperimentConfig,
    out: Path | str | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    observer: RoundObserver | None = None,
) -> Run:
    """Train a configuration, and write everything down in a run folder.

    Args:
        config: from :func:`privfl.load` or :func:`privfl.loads`.
        out: the run folder. If it is None, the run gets the first of ``runs/NAME``, ``runs/NAME-2``, ... that does not exist,
            where NAME is the configuration's name.
        resume: go on with the run in ``out``, or begin it there. Without ``out`` it is the last unfinished run of this
            configuration below ``runs/``.
        overwrite: replace the run in ``out``, or in ``runs/NAME``, once it is sure that the new one begins.
        observer: called after each round with its record and its seconds.

    Returns:
        The finished run. The attacks of its configuration are run by :meth:`Run.attack`.

    Raises:
        ConfigError, DataError, ModelError, RunFolderError, StorageError: one line each; finished rounds are kept.
    """
    path = default_folder(config, resume=resume, overwrite=overwrite) if out is None else Path(out)
    return Run(carry_out(config, path, resume=resume, overwrite=overwrite, observer=observer).path)


class Run:
    """A run, in its folder: settings, figures, findings, and the trained model. Everything is read when it is asked for.

    Two runs are equal if their folders are the same.

    Args:
        path: a folder that ``privfl.run`` or the command ``privfl run`` wrote.

    Raises:
        RunFolderError: there is no run, or it was written in another version of the format.
    """

    path: Path
    """The run's folder."""

    def __init__(self, path: Path | str) -> None:
        self.path = RunFolder.open(path).path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.path.resolve() == other.path.resolve()

    def __hash__(self) -> int:
        return hash(self.path.resolve())

    @property
    def _folder(self) -> RunFolder:
        return RunFolder(self.path)

    @property
    def config(self) -> ExperimentConfig:
        """The settings, each default resolved."""
        return self._folder.config

    @property
    def name(self) -> str:
        """The configuration's name."""
        return self.config.name

    @property
    def environment(self) -> Environment:
        """The versions and the machine of the run."""
        return self._folder.environment

    @property
    def partition(self) -> PartitionRecord:
        """The clients' names, and how many examples of each class each of them had."""
        return self._folder.partition

    @property
    def finished(self) -> bool:
        """Whether the run came to its last round, or to the end of its budget."""
        return self._folder.finished

    @property
    def result(self) -> Result:
        """All figures of the finished run, as one record.

        Raises:
            RunFolderError: the run has not finished; so do all attributes below that need its result.
        """
        return self._folder.result

    @property
    def metrics(self) -> Mapping[str, Interval]:
        """The figures of the final model on the central test split, by name, each with its 95 % interval."""
        return self.result.evaluation.metrics

    @property
    def epsilon(self) -> Epsilon:
        """The ε that was promised, as a float with its terms; ``run.epsilon["client 3"]`` is that of one client."""
        return Epsilon.of(self.result.privacy, self.partition.clients)

    @property
    def rounds(self) -> Frame:
        """One row for each finished round: cohort, losses, test figures, ε so far, bytes and seconds.

        ``round`` counts from 0. A round that was not evaluated has NaN for its test figures; ``skipped`` says why the model did
        not move in a round.
        """
        return rounds_frame(self._folder)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings of the attacks so far, a record for each question and adversary; none if no attack was run.

        The record of membership is a :class:`privfl.auditing.questions.membership.MembershipFinding`.
        """
        return self._folder.findings

    def attack(self, *names: str, adversary: Adversary | None = None, **settings: object) -> tuple[Finding, ...]:
        """Attack the run, and write what was found into its folder.

        Shadow models are trained in processes of their own, one for each core, and kept for later attacks.

        Args:
            names: attacks, for example ``"membership/lira"``; none: those of the run's configuration; ``"all"``: every attack
                that the run allows.
            adversary: in place of names: every attack of this adversary that the run allows.
            settings: settings of the table ``attacks``, for example ``shadow_models=8``; they are kept with the run.

        Returns:
            the findings of all attacks on this run so far, as :attr:`findings`.

        Raises:
            ConfigError: an unknown attack or setting, or an attack that cannot be run on this run.
            RunFolderError: the data here are not the run's.
            ViewError: the run has not finished.
        """
        from privfl.running.attacking import attack, chosen

        given = [f"attacks.{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]
        taken, _ = chosen(self._folder, names, adversary, given)
        return attack(self._folder, taken, settings=given)

    def view(self, adversary: Adversary) -> ExternalView:
        """The view of an adversary on the run: ``external``, ``client``, ``server`` or ``malicious_server``.

        Raises:
            ViewError: no such adversary was part of the run.
        """
        from privfl.running.views import open_view
        from privfl.vectors import Layout

        return open_view(self._folder, adversary, Layout.of(self.model()))

    def model(self) -> nn.Module:
        """The trained model as a PyTorch module, in evaluation mode on the CPU.

        Its shape depends on the data, which are read again; inputs must have the form that the data set gives them.

        Raises:
            RunFolderError: the run has not finished.
            ModelError, ConfigError, DataError: the model's code or the data are not here, or are others.
        """
        from privfl.running.trained_model import TrainedModel

        return TrainedModel.of(self._folder).module

    def export(self, out: Path | str) -> Path:
        """Write the trained model as ``.onnx``, ``.pt2`` (``torch.export``) or ``.safetensors``, and return the file's path.

        Raises:
            ConfigError: another suffix, or a package that the format needs is not installed.
            ModelError: the model cannot be exported.
        """
        from privfl.running.trained_model import export

        return export(self._folder, out)

    def track(self, *names: str) -> None:
        """Send the run to experiment trackers: settings, rounds, ε, the attacks' findings, and the page if it is written.

        Args:
            names: ``tensorboard``, ``mlflow`` or ``wandb``; each is set up by its library's own environment variables.

        Raises:
            ConfigError: an unknown tracker, or its library is not installed.
            TrackerError: the tracker failed.
        """
        from privfl.trackers import open_tracker
        from privfl.trackers._tracking import Tracking

        for tracking in [Tracking(name, open_tracker(name), self.path) for name in names]:
            tracking.finish()

    def page(self, out: Path | str | None = None, *, papers: bool = False) -> Path:
        """Write the run's page as one HTML file, and return its path.

        Args:
            out: the file; None: ``report.html`` in the run's folder.
            papers: also write each figure as PDF and PNG, and each table as CSV, Markdown and LaTeX.

        Raises:
            RunFolderError: the run has not finished, or ``out`` cannot be written.
        """
        from privfl.report import write_report

        return write_report([self._folder], self.path / "report.html" if out is None else out, papers=papers)

    def __repr__(self) -> str:
        if not self.finished:
            return f"<Run {str(self.path)!r}: not finished, {len(self._folder.rounds())} rounds done>"
        first, figure = next(iter(self.metrics.items()))
        return f"<Run {str(self.path)!r}: {self.result.rounds} rounds, test {first} {figure.value:.4g}, ε = {self.epsilon:.4g}>"

    def _repr_html_(self) -> str:
        from privfl.report import notebook_summary

        if not self.finished:
            return f"<p>{escape(repr(self))}</p>"
        return notebook_summary(self._folder)


def rounds_frame(folder: RunFolder) -> Frame:
    """The records of a run's rounds as a table; see :attr:`Run.rounds`."""
    records = folder.rounds()
    seconds = {timing.round: timing for timing in folder.timings()}
    evaluated = [record.evaluation.metrics if record.evaluation is not None else {} for record in records]
    names = dict.fromkeys(name for metrics in evaluated for name in metrics)
    figures: dict[str, list[float | None]] = {}
    for name in names:
        found = [metrics.get(name) for metrics in evaluated]
        figures[name] = [one.value if one else None for one in found]
        figures[f"{name}_low"] = [one.low if one else None for one in found]
        figures[f"{name}_high"] = [one.high if one else None for one in found]
    return Frame(
        {
            "round": [record.round for record in records],
            "cohort": [len(record.cohort) for record in records],
            "survivors": [len(record.survivors) for record in records],
            "skipped": [record.skipped or "" for record in records],
            "train_loss": [record.train_loss for record in records],
            **figures,
            "epsilon": [record.epsilon for record in records],
            "clipped_share": [record.clipped_share for record in records],
            "bytes_up": [record.bytes_up for record in records],
            "bytes_down": [record.bytes_down for record in records],
            "seconds": [seconds[record.round].total if record.round in seconds else None for record in records],
        }
    )
