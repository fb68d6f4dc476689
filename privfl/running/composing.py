"""The price of several runs on the same data together, from their ledgers."""

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
    """One run among several on the same data: its own ε, and that of it and all before it."""

    name: str
    alone: float
    together: float
    unit: str
    relation: Relation
    delta: float


def compose(folders: Sequence[RunFolder]) -> list[ComposedRun]:
    """What several runs on the same data cost together, from their ledgers.

    Releases about one unit add up whatever the runs were for, as each run draws its own cohorts, batches and noise. What a
    ledger holds by client adds up client by client, since the same clients own the same data.

    Raises:
        RunFolderError: the runs are not on the same data with the same owners, or do not state their promise in the same
            terms, or one is named twice or promises nothing, or two have drawn the same.
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
        raise RunFolderError(f"{folder.path}: is named twice; its noise was drawn once")
    if folder.partition.digest != first.partition.digest:
        raise RunFolderError(
            f"{folder.path}: its data, or who owns what of them, are not those of {first.path}; compose runs on the same data"
        )
    if not folder.config.privacy.promises:
        raise RunFolderError(f"{folder.path}: promises nothing (privacy.kind = 'none'), so that no ε bounds it; leave it out")
    for other in folders[: folders.index(folder)]:
        _require_own_randomness(folder, other)
    ledger, terms_of = (Ledger.read(one.path / "ledger.jsonl") for one in (folder, first))
    for term in ("unit", "relation", "delta"):
        here, there = getattr(ledger, term), getattr(terms_of, term)
        if here != there:
            raise RunFolderError(
                f"{folder.path}: its {term} is {here}, that of {first.path} {there}; only like adds up to like"
            )
    return ledger


def _require_own_randomness(folder: RunFolder, other: RunFolder) -> None:
    """Raise if two runs took the same cohorts, batches and noise from one seed: their prices would not add up."""
    ran, before = folder.rounds(), other.rounds()
    common = list(zip(ran, before, strict=False))
    if common and all(one.streams is not None and one.streams == two.streams for one, two in common):
        raise RunFolderError(
            f"{folder.path}: drew the same cohorts, batches and noise as {other.path} in every round that both have, so that "
            "the longer of them tells all; leave the other out"
        )
    secret = folder.config.privacy.secret_cohorts and folder.config.cohort.draws
    if secret and common and all(one.cohort == two.cohort for one, two in common):
        raise RunFolderError(
            f"{folder.path}: drew the same cohorts as {other.path}, and other noise, as another machine does; only prices of "
            "runs with cohorts of their own add up: leave one of the two out"
        )
