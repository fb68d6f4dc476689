"""The attacks that there are, and which of them a finished run allows."""

from __future__ import annotations

from collections.abc import Sequence

from attacks import Attack
from attacks._run import require_possible, with_settings
from privfl.adversaries import Adversary
from privfl.errors import ConfigError, ViewError
from privfl.running.assembling import assemble
from privfl.running.attacking import Offer
from privfl.running.determinism import deterministic
from privfl.running.run_folder import RunFolder
from privfl.shelves import SHELVES
from privfl.tables import narrow


def catalogue(adversary: Adversary | None) -> list[Offer]:
    """Every attack on the shelf, of one adversary if it is named."""
    return [_offer(item) for item in _items(adversary)]


def offers(folder: RunFolder, adversary: Adversary | None, settings: Sequence[str]) -> list[Offer]:
    """Every attack on the shelf, and those of the run's configuration, each with the reason if the run does not allow it.

    Args:
        folder: the run.
        adversary: whose attacks; None: everybody's.
        settings: ``attacks.key=value``, as :func:`attacks._run.run_attacks` takes them.

    Raises:
        ConfigError: a setting of something else than attacks.
    """
    config = with_settings(folder, settings)
    configured = {item.kind: narrow(item, Attack) for item in config.attacks.run}
    items = {item.kind: item for item in _items(None)} | configured
    with deterministic():
        experiment = assemble(config)
    found = []
    for item in items.values():
        if adversary not in (None, item.adversary):
            continue
        try:
            require_possible(experiment, [item])
        except (ConfigError, ViewError) as error:
            found.append(_offer(item, str(error)))
        else:
            found.append(_offer(item))
    return found


def _items(adversary: Adversary | None) -> list[Attack]:
    shelf = SHELVES["attacks.run"]
    items = [narrow(shelf.find(name)(kind=name), Attack) for name in shelf.names()]
    return [item for item in items if adversary in (None, item.adversary)]


def _offer(item: Attack, refusal: str | None = None) -> Offer:
    return Offer(item.kind, item.adversary, item.question, item.threat, item.needs, item.cost, refusal)
