"""Attacks on a finished run. They are found by name, so nothing in ``privfl`` imports the package ``attacks``."""

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
"""Progress callback; its arguments are the number of finished shadow models and the number of all."""

ALL: Final = "all"
"""A word in place of an attack's name: every attack that the run allows."""


@dataclass(frozen=True)
class Offer:
    """An attack that a user may choose.

    Args:
        name: its name in a configuration.
        adversary: the adversary whose view it reads.
        question: the question that it answers.
        threat: one sentence about the adversary.
        needs: the things that the adversary must have beside the candidates.
        cost: the computation that takes longest.
        refusal: the reason why the run does not allow it, and the setting to change; None if the run allows it or no run was
            given.
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
    """The attacks that exist. If a run is given, each says whether the run allows it.

    Args:
        run: a finished run or its path; None: no run is checked.
        adversary: only attacks of this adversary; None: of all.
        settings: ``"attacks.key=value"``, changes of the run's attack settings for this check.

    Raises:
        ConfigError: a setting does not begin with ``attacks``.
        RunFolderError: the folder holds no run.
    """
    room = importlib.import_module("attacks._offers")
    found: list[Offer] = room.catalogue(adversary) if run is None else room.offers(RunFolder.of(run), adversary, settings)
    return found


def chosen(
    run: RunFolder | Path | str,
    names: Sequence[str],
    adversary: Adversary | None = None,
    settings: Sequence[str] = (),
    allowed: bool = False,
) -> tuple[list[str], list[Offer]]:
    """The attacks that the user's names stand for, and those that the run does not allow.

    Args:
        run: a finished run or its path.
        names: attacks; ``"all"`` alone: every attack that the run allows.
        adversary: in place of names: every attack of this adversary that the run allows; None: of all adversaries.
        settings: ``"attacks.key=value"``, changes of the run's attack settings.
        allowed: leave out the named attacks that the run does not allow.

    Returns:
        the names, and the attacks that are left out.

    Raises:
        ConfigError: names stand beside ``"all"`` or an adversary, or the run allows no attack at all.
    """
    named = adversary is None and ALL not in names
    if named and not (allowed and names):
        return list(names), []
    if not named and list(names) not in ([], [ALL]):
        raise ConfigError(f"attack {names[0]!r}: give names of attacks, or {ALL!r}, or an adversary, but only one of them")
    found = [one for one in offers(run, adversary=adversary, settings=settings) if not named or one.name in names]
    unknown = [name for name in names if named and name not in {one.name for one in found}]
    if unknown:
        # Refused by name, as by an attack.
        return list(names), []
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
    """Attack a finished run and write the findings into its folder. :func:`privfl.write_report` then updates the page.

    Shadow models are trained in separate processes, one per core. They are kept, so a later attack with more of them trains
    only the missing ones.

    Args:
        run: the run or its path.
        names: attacks, for example ``"membership/lira"``; if empty, those of the run's configuration.
        settings: ``"attacks.key=value"``, for example ``"attacks.shadow_models=8"``. They become settings of the run.
        observer: called before the first shadow model and after each.

    Returns:
        the findings, one for each question and adversary. For membership they are
            :class:`privfl.auditing.questions.membership.MembershipFinding`, with true-positive rates at low false-positive
            rates, their intervals, and a lower bound on ε.

    Raises:
        ConfigError: an attack is unknown or cannot be run on this run, or a setting does not begin with ``attacks``.
        RunFolderError: the folder holds no run, or the data differ from the run's.
        ViewError: the run has not finished.
    """
    run_attacks: Callable[..., tuple[Finding, ...]] = importlib.import_module("attacks._run").run_attacks
    return run_attacks(RunFolder.of(run), names, observer, settings)


def require_possible(experiment: Experiment) -> None:
    """Raise if an attack of the configuration cannot be run on this run; called before the first round.

    Raises:
        ConfigError, ViewError: names the setting and the change that helps.
    """
    if experiment.config.attacks.run:
        importlib.import_module("attacks._run").require_possible(experiment)
