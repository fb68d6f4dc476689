"""The five figures that a run comes down to, each with one sentence that says how to read it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from privfl.auditing import clopper_pearson, tpr_bound
from privfl.records import PrivacyResult
from privfl.report.cost import Overhead
from privfl.report.recorded import Run, rate_at
from privfl.report.wording import (
    HARD,
    SPACE,
    amount,
    attack_name,
    count,
    duration,
    epsilon,
    interval,
    level,
    listing,
    measured,
    measured_range,
    percent,
    percent_at_most,
    plural,
    scientific,
)

LOW_FPR = 0.01
"""The false positive rate of the headline."""


@dataclass(frozen=True)
class Headline:
    """One figure: what it is called, its value, its interval or terms, and how to read it."""

    label: str
    value: str
    terms: str
    sentence: str


def headlines(run: Run) -> list[Headline]:
    """Accuracy, the ε that was promised, what the best attack found, the ε that was measured, what hiding cost."""
    return [_quality(run), _promise(run), _attack(run), _measured(run), _overhead(run)]


def warnings(run: Run) -> list[str]:
    """What a reader must know before any figure; empty where all is well."""
    found = []
    if run.result.stopped is not None:
        done = plural(run.result.rounds, "round")
        found.append(f"The run ended early, after {done} of {run.config.rounds}: {run.result.stopped.rstrip('.')}.")
    if run.rounds and len(run.skipped) == len(run.rounds):
        why = run.skipped[0].skipped
        what = f"Nobody trained in any round ({why})"
        if run.lost:
            spent = ", and what they spent stays spent" if run.result.privacy is not None else ""
            what = f"No round came to a sum ({why}): clients trained and sent{spent}"
        found.append(f"{what}. Every figure is that of the untrained model.")
    leakage, privacy = run.leakage, run.result.privacy
    if leakage is None or privacy is None:
        return found
    if leakage.best.epsilon_lower > privacy.attack_epsilon:
        found.append(
            f"The measured ε of at least {epsilon(leakage.best.epsilon_lower)} contradicts the promised "
            f"{epsilon(privacy.attack_epsilon)}{_of_replacement(privacy)}. Take the promise as broken until the cause is found."
        )
    beyond = [attack_name(attack.attack, attack.variant) for attack in leakage.attacks if attack.exceeds_bound]
    if beyond:
        found.append(
            f"More was found than the promised ε allows, by {listing(beyond)}. Take the promise as broken until the cause is "
            "found."
        )
    return found


def _quality(run: Run) -> Headline:
    figure, found = run.headline, run.result.evaluation.headline
    sentence = (
        f"{figure.meaning.format(n=count(found.n))} On the examples it was trained on: {measured(figure, run.result.train)}."
    )
    terms = f"{measured_range(figure, found)} ({level(found.level)}{HARD}interval)"
    return Headline(f"Test {figure.title}", measured(figure, found.value), terms, sentence)


def _promise(run: Run) -> Headline:
    privacy = run.result.privacy
    if privacy is None:
        sentence = (
            "This run was trained without differential privacy. What the attacks found is all that is known of its leakage."
        )
        return Headline("Promised ε", "no promise", "ε is unbounded", sentence)
    allowed = float(tpr_bound(LOW_FPR, privacy.curve_epsilon, privacy.curve_delta))
    times = f"e^{epsilon(privacy.epsilon)}"
    if privacy.epsilon < math.log(1e6):
        times = _at_most(math.exp(privacy.epsilon))
    change = f"one {privacy.unit} {'replaced by another' if privacy.relation == 'replace_one' else 'more or less'}"
    if privacy.unit == "client" and privacy.sampler == "none":
        change = f"one client's update replaced by {'another' if privacy.relation == 'replace_one' else 'zeros'}"
    sentence = (
        f"Whatever anyone concludes, {change} changes its probability at most {times}-fold (plus δ). "
        f"No attack at 1{SPACE}% FPR can find more than {percent_at_most(allowed)} of the members."
    )
    if privacy.unit == "client":
        sentence += (
            f" One example in or out replaces its client's update, for which ε{HARD}={HARD}{epsilon(privacy.attack_epsilon)} "
            "holds: with that attacks are compared."
        )
    terms = f"per {privacy.unit}, at δ{HARD}={HARD}{scientific(privacy.delta)}, against {listing(privacy.adversaries)}"
    if privacy.extrapolated is not None:
        terms = f"executed, {terms}; the extrapolated ε{HARD}={HARD}{epsilon(privacy.extrapolated.epsilon)} is of no run"
    return Headline("Promised ε", f"ε = {epsilon(privacy.epsilon)}", terms, sentence)


def _at_most(factor: float) -> str:
    """A bound in three digits, never below itself."""
    if factor >= 100:
        return f"{math.ceil(factor):,}"
    unit = 10.0 ** (math.floor(math.log10(factor)) - 2)
    return f"{math.ceil(round(factor / unit, 6)) * unit:.3g}"


def _attack(run: Run) -> Headline:
    label = f"Best attack: TPR at 1{SPACE}%{HARD}FPR"
    if run.leakage is None and run.config.data.holdout == 0:
        return Headline(label, "not measured", "nothing was held out", "With data.holdout = 0 no attack can be run.")
    if run.leakage is None:
        return Headline(label, "not measured", "no attack was run", "Run privfl attack on this folder to measure what leaked.")
    best = run.leakage.best
    name = attack_name(best.attack, best.variant)
    origin = (
        f"By {name}: chosen on one half of the candidates and measured on the other, {count(best.candidates)} examples."
        if len(run.leakage.attacks) > 1
        else f"By {name}, on {count(best.candidates)} examples."
    )
    found = rate_at(best.rates, LOW_FPR)
    if found is None or found.tpr is None:
        reason = (found.reason if found else None) or "that rate was not measured"
        return Headline(
            label, "not resolvable", reason.removeprefix("not resolvable: "), f"{origin} Too few non-members to tell."
        )
    if found.tpr.low > _highest_fpr(best.candidates - found.tpr.n):
        verdict = "The interval lies above that, by more than the threshold's own error: the model leaks who was a member."
    elif found.tpr.low > LOW_FPR:
        verdict = "The interval lies above that, but the threshold itself may be off by as much: no leak is shown."
    elif found.tpr.high < LOW_FPR:
        verdict = "This attack does worse than guessing."
    else:
        verdict = "The interval holds that figure: no leak is shown."
    sentence = (
        f"The share of members it finds when it accuses 1 non-member in 100 falsely; guessing finds 1{SPACE}%. {verdict} "
        f"{origin}"
    )
    return Headline(label, percent(found.tpr.value, 2), interval(found.tpr, 2), sentence)


def _highest_fpr(nonmembers: int) -> float:
    """What the rate of false accusations may really be at a threshold that was set for 1 % on so many non-members."""
    return float(clopper_pearson(int(LOW_FPR * nonmembers), nonmembers)[1])


def _measured(run: Run) -> Headline:
    if run.leakage is None:
        return Headline("Measured ε", "not measured", "no attack was run", "A lower bound on ε needs an attack's guesses.")
    best = run.leakage.best
    terms = f"with {level(best.level)} confidence, at δ{HARD}={HARD}{scientific(best.delta) if best.delta else 0}"
    if best.epsilon_lower <= 0:
        sentence = "The best attack's guesses refute no ε at all. That is no proof of privacy: a better attack may find more."
        return Headline("Measured ε", "ε ≥ 0", terms, sentence)
    sentence = f"From the best attack's guesses: a promise of any ε below {epsilon(best.epsilon_lower)} is refuted."
    if run.result.privacy is not None:
        privacy = run.result.privacy
        against = f" of {epsilon(privacy.attack_epsilon)}{_of_replacement(privacy)}" if _of_replacement(privacy) else ""
        sentence += (
            f" That contradicts the promise{against}."
            if best.epsilon_lower > privacy.attack_epsilon
            else f" What lies between it and the promised ε{against}, stronger attacks might find."
        )
    return Headline("Measured ε", f"ε ≥ {epsilon(best.epsilon_lower)}", terms, sentence)


def _of_replacement(privacy: PrivacyResult) -> str:
    """What the ε is of that attacks are compared with, where it is not the headline."""
    return "" if privacy.attack_relation == privacy.relation else " for a client's update that is replaced by another"


def _overhead(run: Run) -> Headline:
    label = "Secure aggregation adds"
    overhead = Overhead.of(run)
    if not run.result.hides_updates:
        sentence = "Secure aggregation was off: the server saw the update of every single client."
        return Headline("Secure aggregation", "off", f"{amount(run.result.bytes_up)} uploaded in the clear", sentence)
    sent = amount(run.result.bytes_up + run.result.bytes_down)
    if run.contributions == 0 and run.lost:
        return Headline(label, "not measured", f"{sent} in lost rounds", "No round came to a sum: there is nothing to compare.")
    if run.contributions == 0:
        return Headline(label, "nothing", "no client sent anything", "No round came to an aggregation.")
    never = "never the update of one client"
    if run.alone:
        never = f"but in {plural(run.alone, 'round')}, in which one client came, the update of that one, beside zeros"
    lost = ", those of lost rounds and of repeats included" if run.lost else ""
    sentence = (
        f"Its messages add up to {sent}{lost}, against {amount(run.result.bytes_plain)} in the clear. In return the server saw "
        f"sums over cohorts, {never}."
    )
    # The table of seconds has means over all rounds, in which those that were skipped took next to nothing.
    each = "each round that moved the model" if run.skipped else "each round"
    terms = f"bytes, {duration(overhead.client)} a client and {duration(overhead.server)} at the server, {each}"
    return Headline(label, overhead.extra, terms, sentence)
