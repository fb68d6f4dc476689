"""Block for membership inference: the ROC, the best attack's TPR at 1 % FPR, and the ε that its guesses refute."""

from __future__ import annotations

from typing import Final

from rich import box
from rich.table import Table

from privfl.adversaries import Adversary
from privfl.auditing import clopper_pearson
from privfl.auditing.blind import ALARM
from privfl.auditing.evaluation import FPRS, LOW_FPR
from privfl.auditing.questions import Finding
from privfl.auditing.questions.membership import AttackRecord, MembershipFinding, OutsideFinding, RateAt
from privfl.auditing.roc import RESOLVABLE
from privfl.records import Interval, PrivacyResult
from privfl.report import roc
from privfl.report.blocks import Block, Cell, Column, Headline, Section, Verdict
from privfl.report.blocks._membership_details import TEMPLATE, example_table, exposed_members, group_tables
from privfl.report.drawing import number
from privfl.report.table_files import Rows
from privfl.report.wording import (
    NBSP,
    NNBSP,
    adversary_name,
    attack_name,
    count,
    epsilon,
    interval_and_level,
    level,
    listing,
    percent,
    percent_range,
    plural,
    rate,
    rounds_read,
    scientific,
)

GUESSING: Final = 0.5
"""The AUC of guessing."""


TIED: Final = "all scores are equal: it tells nothing apart"
"""The remark about an attack with one score for all candidates."""


class Membership(Block):
    """The block of :class:`privfl.auditing.questions.membership.MembershipFinding`."""

    kind: str = "membership"

    def headlines(self, finding: Finding, promise: PrivacyResult | None) -> list[Headline]:
        """See :class:`privfl.report.blocks.Block`."""
        return [_attack(_narrow(finding)), _measured(_narrow(finding), promise)]

    def warnings(self, finding: Finding, promise: PrivacyResult | None) -> list[str]:
        """See :class:`privfl.report.blocks.Block`: warns if the finding contradicts the promise."""
        finding = _narrow(finding)
        found = _different(finding)
        if promise is None:
            return found
        if finding.best.epsilon_lower > promise.attack_epsilon:
            found.append(
                f"The measured ε of at least {epsilon(finding.best.epsilon_lower)} contradicts the promised "
                f"{epsilon(promise.attack_epsilon)}{_of_replacement(promise)}. Take the promise as broken until the cause is "
                "found."
            )
        beyond = [attack_name(attack.attack, attack.variant) for attack in finding.attacks if attack.exceeds_bound]
        if beyond:
            found.append(
                f"More was found than the promised ε allows, by {listing(beyond)}. Take the promise as broken until the cause "
                "is found."
            )
        return found

    def verdict(self, finding: Finding, promise: PrivacyResult | None) -> Verdict:
        """See :class:`privfl.report.blocks.Block`: the members that the best attack finds, and the ε that it refutes."""
        finding = _narrow(finding)
        tpr, refuted = _tpr(finding), finding.best.epsilon_lower
        leaks = tpr is not None and _leaks(finding, tpr)
        by = "on the final model" if finding.adversary == "external" else f"by the {adversary_name(finding.adversary)}"
        if tpr is None and not refuted > 0:
            few = f"there are too few non-members to tell the best attack {by} from guessing"
            return Verdict(leaks, refuted, f"Leakage was not measured: {few}. A larger data.holdout gives more")
        if tpr is None:
            said = "refutes a smaller ε, though there are too few non-members for a rate"
        elif leaks:
            fpr = rate(finding.best.headline_fpr)
            said = f"finds {percent(tpr.value)} of the members if it falsely accuses {fpr} of the others"
        else:
            said = "finds no more members than guessing"
        shown = epsilon(refuted) if refuted > 0 else "0"
        measured = f"{shown} of the promised ε{NBSP}={NBSP}{epsilon(promise.attack_epsilon)}" if promise is not None else ""
        measured = measured or f"ε{NBSP}≥{NBSP}{shown}, and nothing was promised"
        return Verdict(leaks, refuted, f"The best attack {by} {said}; measured leakage: {measured}")

    def section(self, finding: Finding, promise: PrivacyResult | None) -> Section:
        """See :class:`privfl.report.blocks.Block`: the ROC, and a table of all variants."""
        finding = _narrow(finding)
        drawing = roc.drawing(finding, promise)
        parts = {
            "finding": finding,
            "roc": drawing,
            "attacks": _rows(finding),
            "rates": [rate(fpr) for fpr in roc.resolved(finding)],
            "resolution": _resolution(finding),
            "half": count(finding.best.candidates) if len(finding.attacks) > 1 else "",
            "title": "" if finding.adversary == "external" else f"By the {adversary_name(finding.adversary)}",
            "has": _has(finding),
            "prose": _prose(finding),
            "blind": _blind(finding),
            "group_tables": group_tables(finding),
            "examples": example_table(finding),
            "exposed": exposed_members(finding),
            "leaks": (tpr := _tpr(finding)) is not None and _leaks(finding, tpr),
            "suffix": "" if finding.adversary == "external" else f", by the {adversary_name(finding.adversary)}",
        }
        name = "attacks" if finding.adversary == "external" else f"attacks_{finding.adversary}"
        return Section(_TEMPLATE + TEMPLATE, parts, [drawing], {name: _numbers(finding)})

    def measured(self, finding: Finding) -> str:
        """See :class:`privfl.report.blocks.Block`."""
        finding = _narrow(finding)
        names = listing(sorted({attack_name(attack.attack, "") for attack in finding.attacks}))
        text = f"Membership, by {names} ({plural(len(finding.attacks), 'variant')})."
        tpr, name = _tpr(finding), attack_name(finding.best.attack, finding.best.variant)
        if tpr is None:
            return f"{text} There are too few non-members to tell how many members the best, {name}, finds."
        share, fpr = f"{percent(tpr.value, 2)} ({percent_range(tpr, 2)})", rate(finding.best.headline_fpr)
        return f"{text} The best, {name}, finds {share} of the members at {fpr} false positives."

    def columns(self, finding: Finding | None, adversary: Adversary) -> list[Column]:
        """See :class:`privfl.report.blocks.Block`: the best attack's TPR, and the ε that it refutes."""
        name = adversary_name(adversary)
        by, against = ("", "") if adversary == "external" else (f" by the {name}", f" against the {name}")
        found: Cell = ("not measured", "")
        measured: Cell = ("not measured", "")
        share = refuted = None
        if finding is not None:
            finding = _narrow(finding)
            tpr, other, refuted = _tpr(finding, LOW_FPR), _tpr(finding), finding.best.epsilon_lower
            share = None if tpr is None else tpr.value
            found = ("not resolvable", "") if tpr is None else (percent(tpr.value, 2), percent_range(tpr, 2))
            if tpr is None and other is not None:
                found = ("not resolvable", f"{percent(other.value, 2)} at {rate(finding.best.headline_fpr)} FPR")
            terms = f"{level(finding.best.level)} confidence; {epsilon(finding.best.epsilon_ceiling)} at most"
            measured = (f"≥ {epsilon(finding.best.epsilon_lower)}", terms)
        return [
            Column(f"best attack{by}: TPR at 1 % FPR", found, share, _percent, share=True),
            Column(f"measured ε{against}", measured, refuted, epsilon, "≥ "),
        ]

    def table(self, finding: Finding) -> Table:
        """See :class:`privfl.report.blocks.Block`."""
        finding = _narrow(finding)
        rounds = finding.rounds_by_attack().get(finding.best.attack, ())
        name = adversary_name(finding.adversary)
        title = f"{finding.question}, by the {name}, from {rounds_read(rounds)}{_further_rounds(finding)}"
        fpr = finding.best.headline_fpr
        headings = ("attack", "AUC", "", f"TPR at {rate(fpr)} FPR", "")
        table = Table(*headings, title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for attack in finding.attacks:
            found = roc.shown(attack, finding)
            at = roc.rate_at(found.rates, fpr)
            tpr = at.tpr if at else None
            half = " (best; on the half not used to choose it)" if found.half else ""
            table.add_row(
                attack_name(attack.attack, attack.variant) + (f" ({TIED})" if _all_equal(attack) else ""),
                f"{found.auc.value:.3f}",
                f"{found.auc.low:.3f} – {found.auc.high:.3f}",
                "not resolvable" if tpr is None else percent(tpr.value, 2),
                ("" if tpr is None else percent_range(tpr, 2)) + half,
            )
        return table


def _percent(share: float) -> str:
    return percent(share, 2)


def _narrow(finding: Finding) -> MembershipFinding:
    assert isinstance(finding, MembershipFinding)
    return finding


def _tpr(finding: MembershipFinding, fpr: float | None = None) -> Interval | None:
    """Return the best attack's TPR at a false positive rate, by default that of the headline; None if it is not resolved."""
    at = roc.rate_at(finding.best.rates, finding.best.headline_fpr if fpr is None else fpr)
    return at.tpr if at else None


# --- headlines --------------------------------------------------------------------------------------------------------


def attack_label(adversary: Adversary = "external", fpr: float = LOW_FPR) -> str:
    """Return the label of the best attack's headline."""
    by = "" if adversary == "external" else f" by the {adversary_name(adversary)}"
    return f"Best attack{by}: TPR at {rate(fpr).replace(' ', NNBSP)}{NBSP}FPR"


def _attack(finding: MembershipFinding) -> Headline:
    best, fpr = finding.best, finding.best.headline_fpr
    label, name = attack_label(finding.adversary, fpr), attack_name(best.attack, best.variant)
    origin = (
        f"The attack is {name}, chosen on one half of the candidates and measured on the other, "
        f"{count(best.candidates)} examples."
        if len(finding.attacks) > 1
        else f"The attack is {name}, measured on {count(best.candidates)} examples."
    )
    tpr = _tpr(finding)
    if tpr is None:
        at = roc.rate_at(best.rates, fpr)
        reason = (at.reason if at else None) or "that rate was not measured"
        return Headline(
            label, "not resolvable", reason.removeprefix("not resolvable: "), f"{origin} There are too few non-members to tell."
        )
    nonmembers = best.candidates - tpr.n
    if _leaks(finding, tpr):
        verdict = "The interval lies above that by more than the threshold's own error: the model leaks who was a member."
        if finding.adversary != "external":
            verdict = verdict.replace("the model leaks", "the rounds leak")
    elif tpr.low > fpr:
        verdict = "The interval lies above that, but the threshold itself may be off by as much: no leak is shown."
    elif tpr.high < fpr:
        verdict = "This attack does worse than guessing."
    else:
        verdict = "The interval contains that figure: no leak is shown."
    sentence = (
        f"The share of members that it finds if it falsely accuses 1 non-member in {round(1 / fpr)}; guessing finds "
        f"{rate(fpr)}. {verdict} {origin}"
    )
    if fpr > LOW_FPR:
        sentence += (
            f" A rate of {rate(LOW_FPR)} needs {count(round(RESOLVABLE / LOW_FPR))} non-members; here are {count(nonmembers)}."
        )
    return Headline(label, percent(tpr.value, 2), interval_and_level(tpr, 2), sentence)


def _leaks(finding: MembershipFinding, tpr: Interval) -> bool:
    """Say whether the best attack's TPR is above all that a threshold set for the headline's rate could find by guessing."""
    return tpr.low > _highest_fpr(finding.best.candidates - tpr.n, finding.best.headline_fpr)


def _highest_fpr(nonmembers: int, fpr: float) -> float:
    """Return the upper confidence limit of the FPR at a threshold set for ``fpr`` on that many non-members."""
    return float(clopper_pearson(int(fpr * nonmembers), nonmembers)[1])


def _measured(finding: MembershipFinding, promise: PrivacyResult | None) -> Headline:
    label = "Measured ε" if finding.adversary == "external" else f"Measured ε against the {adversary_name(finding.adversary)}"
    best = finding.best
    terms = f"with {level(best.level)} confidence, at δ{NBSP}={NBSP}{scientific(best.delta) if best.delta else 0}"
    if best.epsilon_lower <= 0:
        sentence = "The best attack's guesses refute no ε at all. That is no proof of privacy: a better attack may find more."
        return Headline(label, "ε ≥ 0", terms, f"{sentence} {_ceiling(finding, promise)}")
    sentence = f"The best attack's guesses refute a promise of any ε below {epsilon(best.epsilon_lower)}."
    if promise is not None:
        against = f" of {epsilon(promise.attack_epsilon)}{_of_replacement(promise)}" if _of_replacement(promise) else ""
        sentence += (
            f" That contradicts the promise{against}."
            if best.epsilon_lower > promise.attack_epsilon
            else f" A stronger attack might find any value up to the promised ε{against}."
        )
    return Headline(label, f"ε ≥ {epsilon(best.epsilon_lower)}", terms, f"{sentence} {_ceiling(finding, promise)}")


def _ceiling(finding: MembershipFinding, promise: PrivacyResult | None) -> str:
    """Say which ε the audit would show if all guesses were right, and whether it could contradict the promise."""
    most = finding.best.epsilon_ceiling
    sentence = f"If every guess were right, the audit would show ε{NBSP}≥{NBSP}{epsilon(most)}"
    if promise is not None and most <= promise.attack_epsilon:
        return f"{sentence}: so few candidates cannot contradict the promise."
    return f"{sentence}, and never more."


def _of_replacement(promise: PrivacyResult) -> str:
    """Name the neighbouring relation that attacks are compared under, if the headline uses another."""
    return "" if promise.attack_relation == promise.relation else " for the replacement of a client's update by another"


# --- the section ------------------------------------------------------------------------------------------------------


def _has(finding: MembershipFinding) -> str:
    """Name the information that the attacks had, as a part of a sentence."""
    if finding.adversary == "external":
        return "the final\nmodel"
    rounds = sorted({number for attack in finding.attacks for number in attack.rounds})
    name = adversary_name(finding.adversary)
    return f"all that the {name} saw ({rounds_read(tuple(rounds))}){_further_rounds(finding)}"


def _further_rounds(finding: MembershipFinding) -> str:
    """Name the additional rounds that a malicious server requested, as the end of a sentence; empty if there were none."""
    most = max((attack.asked for attack in finding.attacks), default=0)
    return f" and from up to {plural(most, 'round')} more that it asked for, which the ledger does not price" if most else ""


def _prose(finding: MembershipFinding) -> str:
    """Describe the candidates of a model trained outside privfl; empty for a run."""
    if not isinstance(finding, OutsideFinding):
        return ""
    shadows = f", beside the outputs of {plural(finding.shadow_models, 'shadow model')}" if finding.shadow_models else ""
    kind = "candidates" if finding.records is None else f"subjects with {plural(finding.records, 'record')}"
    return (
        f"{count(finding.members + finding.nonmembers)} {kind} from {finding.source}{shadows}: "
        f"{count(finding.members)} were trained on, {count(finding.nonmembers)} were not."
    )


def _resolution(finding: MembershipFinding) -> str:
    """Say which false positive rates are shown, and why no others."""
    resolved = roc.resolved(finding)
    sentence = (
        f"The rates shown are those, among {listing([rate(fpr) for fpr in FPRS])}, at which {count(finding.nonmembers)} "
        f"non-members give at least {RESOLVABLE} false alarms on average"
    )
    missing = [fpr for fpr in FPRS if fpr not in resolved]
    return f"{sentence}; {rate(missing[0])} needs {count(round(RESOLVABLE / missing[0]))}." if missing else f"{sentence}: all."


def _blind(finding: MembershipFinding) -> str:
    """Return the result of the blind classifier in a sentence; empty if there is none."""
    if not isinstance(finding, OutsideFinding) or finding.blind is None:
        return ""
    return (
        f"A classifier that sees inputs and labels alone, and no model, tells members from others with an AUC of "
        f"{finding.blind.value:.3f} ({finding.blind.low:.3f} – {finding.blind.high:.3f})."
    )


def _different(finding: MembershipFinding) -> list[str]:
    """Warn if members and others come from different distributions."""
    if not isinstance(finding, OutsideFinding) or finding.blind is None:
        return []
    if finding.blind.value <= ALARM or finding.blind.low <= GUESSING:
        return []
    return [
        f"{_blind(finding)} Members and others come from different distributions, and the attacks may have found that "
        "difference instead of a leak. No figure here shows that the model leaks."
    ]


def _rows(finding: MembershipFinding) -> list[dict[str, object]]:
    """Return a row for each variant; most of its cells are pairs of a value and its interval."""
    rows, fprs = [], roc.resolved(finding)
    for attack in sorted(finding.attacks, key=lambda attack: attack.attack):
        found = roc.shown(attack, finding)
        rows.append(
            {
                "name": attack_name(attack.attack, attack.variant),
                "best": found.best,
                "beyond": bool(attack.exceeds_bound),
                "asked": f"asked for {plural(attack.asked, 'more round')}" if attack.asked else "",
                "tied": TIED if _all_equal(attack) else "",
                "auc": (f"{found.auc.value:.3f}", f"{found.auc.low:.3f} – {found.auc.high:.3f}"),
                "balanced": (percent(attack.balanced_accuracy), ""),
                "rates": [_share(roc.rate_at(found.rates, fpr)) for fpr in fprs],
            }
        )
    return rows


def _numbers(finding: MembershipFinding) -> Rows:
    """Return the table of all variants for a file, in full digits; the rates are those that the page shows."""
    fprs = roc.resolved(finding)
    rates = [[name, f"{name}_low", f"{name}_high"] for name in (f"tpr_at_{fpr:g}" for fpr in fprs)]
    rows = [["attack", "auc", "auc_low", "auc_high", "balanced_accuracy", *(name for names in rates for name in names)]]
    for attack in finding.attacks:
        found = roc.shown(attack, finding)
        row = [attack_name(attack.attack, attack.variant), *_ends(found.auc), number(attack.balanced_accuracy)]
        shown = [roc.rate_at(found.rates, fpr) for fpr in fprs]
        rows.append(row + [end for at in shown for end in _ends(None if at is None else at.tpr)])
    return rows


def _ends(found: Interval | None) -> list[str]:
    return ["", "", ""] if found is None else [number(found.value), number(found.low), number(found.high)]


def _all_equal(attack: AttackRecord) -> bool:
    """Whether the scores of all candidates are equal, so that the ROC curve is one step from (0, 0) to (1, 1)."""
    return attack.auc.value == GUESSING and set(attack.roc_fpr) | set(attack.roc_tpr) <= {0.0, 1.0}


def _share(at: RateAt | None) -> Cell:
    return ("not resolvable", "") if at is None or at.tpr is None else (percent(at.tpr.value, 2), percent_range(at.tpr, 2))


_TEMPLATE: Final = """\
{% from "parts.html.j2" import figure, cell with context %}
{% if title %}
<h3>{{ title }}</h3>
{% endif %}
{% if prose %}
<p class="prose">{{ prose }}</p>
{% else %}
<p class="prose">Each attack is given {{ (finding.members + finding.nonmembers) | count }} examples. For each of them a fair coin
decided whether it was trained on: {{ finding.members | count }} were, {{ finding.nonmembers | count }} were not. The attack has {{ has }}{% if finding.shadow_models %} and {{ finding.shadow_models }} shadow model{{ "" if finding.shadow_models == 1 else "s" }}
trained in the same way{% endif %}, and says which examples were members.{% if finding.shadow_models %} The shadow models are trained on other
draws from the same pool, so the figures are those of an adversary who knows the pool. An adversary with other data of the kind finds less.{% endif %}</p>
{% endif %}
{% if blind %}
<p class="prose">{{ blind }} Guessing has 0.5.</p>
{% endif %}
<div class="beside">
{{ figure(roc, captioned=false) }}
<details class="guide">
<summary>How to read it</summary>
{% for text in roc.caption.split("\\n") %}
<p>{{ text }}</p>
{% endfor %}
</details>
</div>
<div class="scroll" role="region" aria-label="Figures of each attack" tabindex="0">
<table class="stacked">
<thead>
<tr><th scope="col" rowspan="2">attack</th><th scope="col" rowspan="2">AUC</th><th scope="col" rowspan="2">balanced accuracy</th>
<th scope="colgroup" colspan="{{ rates | length }}">members found (TPR), at an FPR of</th></tr>
<tr>{% for rate in rates %}<th scope="col">{{ rate }}</th>{% endfor %}</tr>
</thead>
<tbody>
{% for attack in attacks %}
<tr{% if attack.best %} class="best"{% endif %}>
<th scope="row">{{ attack.name }}{% if attack.best %}<span class="under">best</span>{% endif %}{% if attack.asked %}<span class="under">{{ attack.asked }}</span>{% endif %}{% if attack.tied %}<span class="under">{{ attack.tied }}</span>{% endif %}{% if attack.beyond %}<span class="under alarm">beyond the promise</span>{% endif %}</th>
{{ cell(attack.auc, "AUC") }}{{ cell(attack.balanced, "balanced accuracy") }}
{% for rate in attack.rates %}{{ cell(rate, "TPR at " ~ rates[loop.index0] ~ " FPR") }}{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
<p class="note">{% if half %}The best attack was chosen on one half of the candidates. Its row, its curve and its headline are measured on the
other half, {{ half }} candidates; all other rows are measured on all candidates. {% endif %}Intervals are at 95 %. {{ resolution }}
The balanced accuracy is measured on one half, at the best threshold of the other, and has no interval. Guessing gives an AUC of 0.5, a balanced accuracy of 50 %, and a TPR
equal to the FPR.</p>
</div>
"""  # noqa: E501
