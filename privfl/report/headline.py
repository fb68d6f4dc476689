"""The headline figures of a run, each with a sentence on how to read it."""

from __future__ import annotations

import math

from privfl.auditing import tpr_bound
from privfl.auditing.evaluation import LOW_FPR
from privfl.report.blocks import Headline, shown
from privfl.report.blocks.membership import attack_label
from privfl.report.cost import Overhead
from privfl.report.run_records import RunRecords
from privfl.report.wording import (
    NBSP,
    NNBSP,
    byte_size,
    capitalize,
    count,
    duration,
    epsilon,
    level,
    listing,
    measured,
    measured_range,
    percent_at_most,
    plural,
    scientific,
)


def headlines(run: RunRecords) -> list[Headline]:
    """Return the headline figures: the task's metric, the promised ε, and those of each finding."""
    found = [headline for block, one in shown(run.findings) for headline in block.headlines(one, run.promise(one.adversary))]
    return [_quality(run), _promise(run), *(found or _unmeasured(run))]


def verdict(run: RunRecords) -> list[str]:
    """Return the run in two sentences: its metric and its promise; the most that an attack found, and the leakage measured."""
    figure, privacy = run.headline_metric, run.result.privacy
    promised = "nothing is promised"
    if privacy is not None:
        promised = f"ε{NBSP}={NBSP}{epsilon(privacy.epsilon)} is promised for each {privacy.unit}"
    first = f"The test {figure.title} is {measured(figure, run.result.evaluation.headline.value)}, and {promised}."
    pairs = [(block.verdict(one, run.promise(one.adversary)), one.adversary) for block, one in shown(run.findings)]
    found = [(said, adversary) for said, adversary in pairs if said is not None]
    if not found:
        unknown = "No attack measured the leakage" if run.findings else "No attack was run"
        return [first, f"{unknown}{', so the promise is all that is known of it' if privacy is not None else ''}."]
    worst, by = max(found, key=lambda pair: (pair[0].leaks, pair[0].epsilon))
    others = len({adversary for _, adversary in found} - {by})
    more = f" The {'other adversary' if others == 1 else 'other adversaries'} found no more." if others else ""
    return [first, f"{worst.text}.{more}"]


def warnings(run: RunRecords) -> list[str]:
    """Return the warnings that stand above all figures; empty if there are none."""
    found = []
    if run.result.stopped is not None:
        done = plural(run.result.rounds, "round")
        found.append(f"The run ended early, after {done} of {run.config.rounds}: {run.result.stopped.rstrip('.')}.")
    if run.rounds and len(run.skipped_rounds) == len(run.rounds):
        why = run.skipped_rounds[0].skipped
        cause = f"Nobody trained in any round ({why})"
        if run.lost_rounds:
            spent = ", and the ε that they spent stays spent" if run.result.privacy is not None else ""
            cause = f"No round reached a sum ({why}): clients trained and sent their updates{spent}"
        found.append(f"{cause}. Every figure is that of the untrained model.")
    return found + [
        warning for block, one in shown(run.findings) for warning in block.warnings(one, run.promise(one.adversary))
    ]


def _quality(run: RunRecords) -> Headline:
    figure, found = run.headline_metric, run.result.evaluation.headline
    sentence = f"{figure.meaning.format(n=count(found.n))} On its training examples: {measured(figure, run.result.train)}."
    terms = f"{measured_range(figure, found)} ({level(found.level)}{NBSP}interval)"
    return Headline(f"Test {figure.title}", measured(figure, found.value), terms, sentence)


def _promise(run: RunRecords) -> Headline:
    privacy = run.result.privacy
    if privacy is None:
        sentence = (
            "This run was trained without differential privacy. The results of attacks are all that is known of its leakage."
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
        f"{capitalize(change)} changes the probability of any conclusion at most {times}-fold (plus δ). "
        f"No attack at 1{NNBSP}% FPR can find more than {percent_at_most(allowed)} of the members."
    )
    if privacy.unit == "client":
        sentence += (
            " One example more or less replaces its client's update by another. For such a replacement "
            f"ε{NBSP}={NBSP}{epsilon(privacy.attack_epsilon)} holds, and attacks are compared with that."
        )
    terms = f"per {privacy.unit}, at δ{NBSP}={NBSP}{scientific(privacy.delta)}, against {listing(privacy.adversaries)}"
    if privacy.extrapolated is not None:
        terms = f"executed, {terms}; the extrapolated ε{NBSP}={NBSP}{epsilon(privacy.extrapolated.epsilon)} belongs to no run"
    return Headline("Promised ε", f"ε = {epsilon(privacy.epsilon)}", terms, sentence)


def _at_most(factor: float) -> str:
    """Format an upper bound in three digits, rounded up."""
    if factor >= 100:
        return f"{math.ceil(factor):,}"
    unit = 10.0 ** (math.floor(math.log10(factor)) - 2)
    return f"{math.ceil(round(factor / unit, 6)) * unit:.3g}"


def _unmeasured(run: RunRecords) -> list[Headline]:
    none = "no membership attack was run" if run.findings else "no attack was run"
    if run.config.data.holdout == 0:
        why = Headline(attack_label(), "not measured", "nothing was held out", "With data.holdout = 0 no attack can be run.")
    else:
        sentence = "Run privfl attack on this folder to measure what leaked."
        why = Headline(attack_label(), "not measured", none, sentence)
    return [why, Headline("Measured ε", "not measured", none, "A lower bound on ε needs an attack's guesses.")]


def overhead(run: RunRecords) -> Headline:
    """Return the cost of secure aggregation in bytes and seconds."""
    label = "Secure aggregation adds"
    spent = Overhead.of(run)
    if not run.result.hides_updates:
        sentence = "Secure aggregation was off: the server saw the update of every client."
        return Headline("Secure aggregation", "off", f"{byte_size(run.result.bytes_up)} uploaded in the clear", sentence)
    sent = byte_size(run.result.bytes_up + run.result.bytes_down)
    if run.contributions == 0 and run.lost_rounds:
        return Headline(
            label, "not measured", f"{sent} in lost rounds", "No round reached a sum, so there is nothing to compare."
        )
    if run.contributions == 0:
        return Headline(label, "nothing", "no client sent anything", "No round reached the aggregation.")
    never = "never the update of one client"
    if run.single_client_rounds:
        rounds = plural(run.single_client_rounds, "round")
        never = f"but in {rounds} with a single client, the update of that client beside zeros"
    lost = ", including those of lost rounds and of repeats" if run.lost_rounds else ""
    sentence = (
        f"Its messages add up to {sent}{lost}, against {byte_size(run.result.bytes_plain)} in the clear. In return the server "
        f"saw sums over cohorts, {never}."
    )
    # The table of seconds averages over all rounds; skipped rounds take almost no time, so the two means differ.
    each = "each round that moved the model" if run.skipped_rounds else "each round"
    terms = f"bytes, {duration(spent.client)} a client and {duration(spent.server)} at the server, {each}"
    return Headline(label, spent.extra, terms, sentence)
