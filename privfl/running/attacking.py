"""Attacks a finished run. The attacks are found by name: nothing in this package depends on what is run against it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from privfl.adversaries import Adversary
from privfl.errors import ConfigError
from privfl.running.run_folder import RunFolder

if TYPE_CHECKING:
    from privfl.auditing.questions import Finding
    from privfl.running.experiment import Experiment

ShadowObserver = Callable[[int, int], None]
"""Called with how many shadow models are done, and how many there are."""

ALL: Final = "all"
"""In place of an attack's name: every attack that the run allows."""


@dataclass(frozen=True)
class Offer:
    """An attack that a user may choose.

    Args:
        name: its name in a configuration.
        adversary: whose view it is given.
        question: what it answers.
        threat: one sentence about the adversary.
        needs: what the adversary must have beside the candidates.
        cost: the computation that dominates.
        refusal: why a run does not allow it, and which setting to change; None: it does, or no run was asked.
    """

    name: str
    adversary: Adversary
    question: str
    threat: str
    needs: str
    cost: str
    refusal: str | None = None


def offers(
    run: RunFolder | Path | str | None = None, *, adversary: Adversary | None = None, settings: Sequence[str] = ()
) -> list[Offer]:
    """The attacks that there are; with a run also whether it allows each of them.

    Args:
        run: a finished run, or where it lies; None: no run is asked.
        adversary: whose attacks; None: everybody's.
        settings: ``"attacks.key=value"``, with which the run would be attacked.

    Raises:
        ConfigError: a setting of something else than attacks.
        RunFolderError: there is no run.
    """
    room = importlib.import_module("attacks._offers")
    found: list[Offer] = room.catalogue(adversary) if run is None else room.offers(RunFolder.of(run), adversary, settings)
    return found


def chosen(
    run: RunFolder | Path | str, names: Sequence[str], adversary: Adversary | None = None, settings: Sequence[str] = ()
) -> tuple[list[str], list[Offer]]:
    """The attacks that a user's words name, and the attacks that the run does not allow.

    Args:
        run: a finished run, or where it lies.
        names: attacks; ``"all"`` alone: every attack that the run allows.
        adversary: every attack of this adversary that the run allows, in place of names; None: anybody's.
        settings: ``"attacks.key=value"``, with which the run will be attacked.

    Returns:
        the names, and the attacks that ``"all"`` leaves out.

    Raises:
        ConfigError: names beside ``"all"`` or an adversary, or the run allows no attack at all.
    """
    if adversary is None and ALL not in names:
        return list(names), []
    if list(names) not in ([], [ALL]):
        raise ConfigError(f"attack {names[0]!r}: name attacks, or take them all by {ALL!r} or an adversary, but not both")
    found = offers(run, adversary=adversary, settings=settings)
    refused = [offer for offer in found if offer.refusal is not None]
    if len(refused) == len(found):
        why = f"; for example {refused[0].refusal}" if refused else ""
        raise ConfigError(f"attack {ALL!r}: the run allows none of the {len(found)} attacks of {adversary or 'anybody'}{why}")
    return [offer.name for offer in found if offer.refusal is None], refused


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
