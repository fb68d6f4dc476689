"""Composition: the ε of several runs on the same data together, from their ledgers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from privfl.errors import RunFolderError
from privfl.privacy import accounting
from privfl.privacy.ledger import Ledger
from privfl.privacy.mechanisms import History, Relation
from privfl.running.run_folder import RunFolder


@dataclass(frozen=True)
class ComposedRun:
    """One of several runs on the same data: its own ε, and the ε of it together with all runs before it."""

    name: str
    alone: float
    together: float
    unit: str
    relation: Relation
    delta: float


def compose(folders: Sequence[RunFolder]) -> list[ComposedRun]:
    """The ε of several runs on the same data together, from their ledgers.

    Releases about one protected unit add up, because each run draws its own cohorts, batches and noise. Accounts of clients add
    up client by client, since the same clients own the same data.

    Returns:
        one entry per run, in the order given.

    Raises:
        RunFolderError: the runs are not on the same data with the same owners, or they state their promises in different terms.
            It is also raised if a run is named twice or promises nothing, or if two runs drew the same randomness.
    """
    ledgers = [(folder, _comparable(folder, folders)) for folder in folders]
    total: dict[object, History] = {}
    rows = []
    for folder, ledger in ledgers:
        for charged, history in ledger.accounts().items():
            total[charged] = total.get(charged, History()) + history
        shared = total.get("everybody", History())
        each = [shared, *(shared + history for charged, history in total.items() if charged != "everybody")]
        worst = accounting.largest_epsilon([one for one in each if one], ledger.delta)
        rows.append(
            ComposedRun(str(folder.path), ledger.epsilon(), worst, ledger.unit or "example", ledger.relation, ledger.delta)
        )
    return rows


def _comparable(folder: RunFolder, folders: Sequence[RunFolder]) -> Ledger:
    """The ledger of a run whose ε may be added to those of the others."""
    first = folders[0]
    if sum(other.path.resolve() == folder.path.resolve() for other in folders) > 1:
        raise RunFolderError(f"{folder.path}: is named twice; name each run once")
    if folder.partition.digest != first.partition.digest:
        raise RunFolderError(
            f"{folder.path}: its data or their owners differ from those of {first.path}; compose runs on the same data"
        )
    if not folder.config.privacy.promises:
        raise RunFolderError(f"{folder.path}: promises nothing (privacy.kind = 'none'), so it has no ε; leave it out")
    for other in folders[: folders.index(folder)]:
        _require_own_randomness(folder, other)
    ledger, terms_of = (Ledger.read(one.path / "ledger.jsonl") for one in (folder, first))
    for term in ("unit", "relation", "delta"):
        here, there = getattr(ledger, term), getattr(terms_of, term)
        if here != there:
            raise RunFolderError(
                f"{folder.path}: its {term} is {here}, that of {first.path} is {there}; compose runs with one {term}"
            )
    return ledger


def _require_own_randomness(folder: RunFolder, other: RunFolder) -> None:
    """Raise if two runs drew the same cohorts, batches and noise from one seed: their ε would not add up."""
    ran, before = folder.rounds(), other.rounds()
    common = list(zip(ran, before, strict=False))
    if common and all(one.streams is not None and one.streams == two.streams for one, two in common):
        raise RunFolderError(
            f"{folder.path}: drew the same cohorts, batches and noise as {other.path} in every round that both have, so the "
            "longer of them contains the other; leave the other out"
        )
    secret = folder.config.privacy.secret_cohorts and folder.config.cohort.draws
    if secret and common and all(one.cohort == two.cohort for one, two in common):
        raise RunFolderError(
            f"{folder.path}: drew the same secret cohorts as {other.path}, with other noise, as another machine does; ε adds "
            "up only over runs that draw their own cohorts: leave one of the two out"
        )
