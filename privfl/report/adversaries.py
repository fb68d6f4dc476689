"""What each adversary saw in this run, and what was measured of what it could learn."""

from __future__ import annotations

from dataclasses import dataclass

from privfl.report.card import ADVERSARIES
from privfl.report.headline import LOW_FPR
from privfl.report.recorded import Run, rate_at
from privfl.report.wording import attack_name, listing, percent, percent_range, plural, rate


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
    seen = {
        "external": "the final model",
        "client": f"every global model of {rounds}{kept}, and its own data",
        "server": f"every global model, who took part, and {updates}{sent}",
    }
    found = [Row(name, ADVERSARIES[name], saw, _measured(run, name)) for name, saw in seen.items()]
    return [
        *found,
        Row("malicious server", ADVERSARIES["malicious_server"], "not part of this run: its server kept to the protocol", "–"),
    ]


def _measured(run: Run, adversary: str) -> str:
    attacks = [attack for attack in run.leakage.attacks if attack.adversary == adversary] if run.leakage else []
    if not attacks:
        more = "" if adversary == "external" else " Every attack of the adversaries above is open to it as well."
        return f"No attack was run for this adversary.{more}"
    assert run.leakage is not None
    names = listing(sorted({attack_name(attack.attack, "") for attack in attacks}))
    text = f"Membership, by {names} ({plural(len(attacks), 'variant')})."
    best = run.leakage.best
    if (best.attack, best.variant) not in {(attack.attack, attack.variant) for attack in attacks}:
        return text
    found = rate_at(best.rates, LOW_FPR)
    name = attack_name(best.attack, best.variant)
    if found is None or found.tpr is None:
        return f"{text} The best, {name}, could not be resolved at {rate(LOW_FPR)} false positives."
    share = f"{percent(found.tpr.value, 2)} ({percent_range(found.tpr, 2)})"
    return f"{text} The best, {name}, finds {share} of the members at {rate(LOW_FPR)} false positives."
