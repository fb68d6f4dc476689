"""Attacks a finished run. The attacks are found by name: nothing in this package depends on what is run against it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from privfl.running.run_folder import RunFolder

if TYPE_CHECKING:
    from privfl.auditing.questions import Finding
    from privfl.running.experiment import Experiment

ShadowObserver = Callable[[int, int], None]
"""Called with how many shadow models are done, and how many there are."""


def attack(
    run: RunFolder | Path | str,
    names: Sequence[str] = (),
    *,
    settings: Sequence[str] = (),
    observer: ShadowObserver | None = None,
) -> tuple[Finding, ...]:
    """Attack a finished run, and write what was found into its folder; :func:`privfl.write_report` writes the page anew.

    Shadow models are trained in processes of their own, a core each, and kept: more of them join those that are there.

    Args:
        run: the run, or where it lies.
        names: attacks, for example ``"membership/lira"``; none: those of the run's configuration.
        settings: ``"attacks.key=value"``, for example ``"attacks.shadow_models=8"``; from now on those of the run.
        observer: called before the first shadow model and after each.

    Returns:
        the findings, one for each question and adversary; for membership
        :class:`privfl.auditing.questions.membership.MembershipFinding`, with true-positive rates at low false-positive rates,
        with intervals, and a lower bound on ε.

    Raises:
        ConfigError: an unknown attack, one that cannot be run on this run, or a setting of something else than attacks.
        RunFolderError: there is no run, or the data here are not the run's.
        ViewError: the run has not finished.
    """
    run_attacks: Callable[..., tuple[Finding, ...]] = importlib.import_module("attacks._run").run_attacks
    return run_attacks(RunFolder.of(run), names, observer, settings)


def require_possible(experiment: Experiment) -> None:
    """Refuse a run that the attacks of its configuration will not be able to attack; asked before its first round.

    Raises:
        ConfigError, ViewError: names the setting, and says what to change.
    """
    if experiment.config.attacks.run:
        importlib.import_module("attacks._run").require_possible(experiment)
