"""The table of adversaries: the information that each saw in a run, and the results of its attacks."""

from __future__ import annotations

from dataclasses import dataclass

from privfl.adversaries import Adversary
from privfl.federation.algorithms import Algorithm
from privfl.report.blocks import block_of, shown
from privfl.report.card import ADVERSARIES
from privfl.report.run_records import RunRecords
from privfl.report.wording import plural
from privfl.tables import narrow


@dataclass(frozen=True)
class AdversaryRow:
    """A row of the table: an adversary's name, who it is, what it saw, and the results of its attacks."""

    name: str
    who: str
    saw: str
    measured: str


def rows(run: RunRecords) -> list[AdversaryRow]:
    """Return the rows from the weakest to the strongest adversary; each also sees what those above it see, but for a recipient.

    A recipient of the clients' own models has a row if the algorithm gives the clients such models.
    """
    rounds = plural(run.result.rounds, "round")
    kept = " (the folder kept only the last)" if run.config.records.views == "final" else ""
    alone = (
        f"of one client alone in {plural(run.single_client_rounds, 'round')}"
        if run.single_client_rounds
        else "of no client alone"
    )
    updates = (
        f"the sum of each cohort's updates, {alone}"
        if run.result.hides_updates
        else "the update of every client in every round"
    )
    sent = (
        "; on the way to the sum also public keys, sealed boxes, masked vectors and the shares that unmask it"
        if run.result.hides_updates
        else ""
    )
    seen: dict[Adversary, str] = {
        "external": "the final model",
        "client": f"every global model of {rounds}{kept}, and its own data",
        "server": f"every global model, who took part, and {updates}{sent}",
    }
    found = [AdversaryRow(name, ADVERSARIES[name], saw, _measured(run, name)) for name, saw in seen.items()]
    if narrow(run.config.algorithm, Algorithm).personal:
        saw = (
            "the final model, and each client's own model as if the client published it, which this run did not ask of anybody"
        )
        found.insert(1, AdversaryRow("recipient", ADVERSARIES["recipient"], saw, _measured(run, "recipient")))
    further_rounds = max((rounds for one in run.findings for rounds in one.asked_by().values()), default=0)
    saw, measured = "not part of this run: its server kept to the protocol", "–"
    if further_rounds:
        rounds = plural(further_rounds, "round")
        saw = f"the same, and the answers to models of its choice in up to {rounds} after the run's last"
        measured = f"{_measured(run, 'malicious_server')} The ledger does not price those rounds."
    return [*found, AdversaryRow("malicious server", ADVERSARIES["malicious_server"], saw, measured)]


def _measured(run: RunRecords, adversary: Adversary) -> str:
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
