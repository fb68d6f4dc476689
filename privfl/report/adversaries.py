"""What each adversary saw in this run, and what was measured of what it could learn."""

from __future__ import annotations

from dataclasses import dataclass

from privfl.adversaries import Adversary
from privfl.report.blocks import block_of, shown
from privfl.report.card import ADVERSARIES
from privfl.report.recorded import Run
from privfl.report.wording import plural


@dataclass(frozen=True)
class Row:
    """One adversary: its name, who it is, what it saw, what was measured."""

    name: str
    who: str
    saw: str
    measured: str


def rows(run: Run) -> list[Row]:
    """The adversaries, from the weakest to the strongest; each also sees what those above it see."""
    rounds = plural(run.result.rounds, "round")
    kept = " (the folder kept only the last)" if run.config.records.views == "final" else ""
    alone = f"of one client alone in {plural(run.alone, 'round')}" if run.alone else "of no client alone"
    updates = (
        f"the sum of each cohort's updates, {alone}"
        if run.result.hides_updates
        else "the update of every client in every round"
    )
    sent = (
        "; on the way to it public keys, sealed boxes, masked vectors and the shares that unmask the sum"
        if run.result.hides_updates
        else ""
    )
    seen: dict[Adversary, str] = {
        "external": "the final model",
        "client": f"every global model of {rounds}{kept}, and its own data",
        "server": f"every global model, who took part, and {updates}{sent}",
    }
    found = [Row(name, ADVERSARIES[name], saw, _measured(run, name)) for name, saw in seen.items()]
    asked = max((rounds for one in run.findings for rounds in one.asked_by().values()), default=0)
    kept_to_it, measured = "not part of this run: its server kept to the protocol", "–"
    if asked:
        kept_to_it = f"the same, and the answers to models of its choice in up to {plural(asked, 'round')} after the run's last"
        measured = f"{_measured(run, 'malicious_server')} The ledger does not price those rounds."
    return [*found, Row("malicious server", ADVERSARIES["malicious_server"], kept_to_it, measured)]


def _measured(run: Run, adversary: Adversary) -> str:
    found = [block.measured(one) for block, one in shown(run.findings) if one.adversary == adversary]
    found += [
        f"{one.question}: see attacks/summary.json."
        for one in run.findings
        if one.adversary == adversary and block_of(one.question) is None
    ]
    if not found:
        more = "" if adversary == "external" else " Every attack of the adversaries above is open to it as well."
        return f"No attack was run for this adversary.{more}"
    return " ".join(found)
