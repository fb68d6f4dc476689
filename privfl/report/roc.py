"""The figure of all attacks' ROC curves, on logarithmic axes, with the bound that the privacy curve implies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from privfl.adversaries import Adversary
from privfl.auditing import tpr_bound
from privfl.auditing.evaluation import LOW_FPR
from privfl.auditing.questions.membership import AttackRecord, MembershipFinding, RateAt
from privfl.auditing.roc import RESOLVABLE
from privfl.records import Interval, PrivacyResult
from privfl.report.drawing import (
    INK,
    MUTED,
    PAPER,
    RULE,
    Drawing,
    Mark,
    empty_figure,
    label_axes,
    line_style,
    marks_of,
    number,
    to_drawing,
)
from privfl.report.run_records import RunRecords
from privfl.report.wording import adversary_name, attack_name, percent, percent_at_most, plural, rate

FloatArray = NDArray[np.float64]

LOWEST: Final = 1e-4
"""The lower end of both axes, a tenth of the lowest false positive rate that is reported."""


@dataclass(frozen=True)
class Shown:
    """The figures that the page shows for one variant of an attack.

    There is one figure for each: if the best attack was chosen from several, its figures are those of the half of the
    candidates that did not choose it. On all candidates the choice would bias them upwards.

    Args:
        auc: the area under the ROC curve.
        rates: the true-positive rates.
        fpr: the false-positive rates of the ROC curve.
        tpr: its true-positive rates.
        best: whether it is the best attack.
        half: whether the figures are from one half of the candidates.
    """

    auc: Interval
    rates: list[RateAt]
    fpr: FloatArray
    tpr: FloatArray
    best: bool
    half: bool


def shown(attack: AttackRecord, finding: MembershipFinding) -> Shown:
    """Return the figures to show for one variant of an attack."""
    best = is_best(attack, finding)
    half = best and len(finding.attacks) > 1
    source = finding.best if half else attack
    return Shown(source.auc, source.rates, np.asarray(source.roc_fpr), np.asarray(source.roc_tpr), best, half)


def resolved(finding: MembershipFinding) -> list[float]:
    """Return the false positive rates that the candidates resolve, highest first; the highest of all if they resolve none."""
    rates = finding.attacks[0].rates
    return [at.fpr for at in rates if at.tpr is not None] or [rates[0].fpr]


def rate_at(rates: list[RateAt], fpr: float) -> RateAt | None:
    """Return the entry of a list of rates for one false positive rate; None if there is none."""
    return next((rate for rate in rates if abs(rate.fpr - fpr) < 1e-12), None)


def drawing(finding: MembershipFinding, promise: PrivacyResult | None) -> Drawing:
    """Draw the ROC curves of one adversary's attacks.

    Args:
        finding: the results of the attacks.
        promise: the differential privacy promised against that adversary; None if there is none.
    """
    figure, axes = empty_figure(width=380, height=460)
    _unresolvable(axes, finding)
    axes.plot([LOWEST, 1], [LOWEST, 1], color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
    axes.annotate("guessing", (0.02, 0.02), (9, -9), textcoords="offset points", rotation=45, va="top", ha="center",
                  rotation_mode="anchor", color=MUTED, fontsize=10)  # fmt: skip
    if promise is not None:
        _bound(axes, promise)
    named, others = split(finding)
    for index, attack in enumerate(named):
        _curve(axes, attack_name(attack.attack, attack.variant), shown(attack, finding), index)
    for place, attack in enumerate(others):
        _other(axes, attack, plural(len(others), "other attack") if place == 0 else None)
    _decorate(axes)
    name, by = ("roc", "") if finding.adversary == "external" else (f"roc_{finding.adversary}", f" by the {finding.adversary}")
    marks = [
        mark
        for attack in reversed([*named, *others])
        for mark in _marks(axes, shown(attack, finding), attack_name(attack.attack, attack.variant))
    ]
    title, alt = f"ROC of each attack{by}", _alt(finding, promise)
    return to_drawing(figure, name, title, alt, _caption(promise), _numbers(finding, promise), marks)


def _marks(axes: Axes, found: Shown, name: str) -> Sequence[Mark]:
    points = zip(found.fpr.tolist(), found.tpr.tolist(), strict=True)
    visible = [(x, y) for x, y in points if x > LOWEST and y > LOWEST]
    return marks_of(axes, visible, lambda x, y: f"{name}: {percent(y, 2)} found, {percent(x, 2)} falsely accused")


def _numbers(finding: MembershipFinding, promise: PrivacyResult | None) -> list[list[str]]:
    """Return every point of every curve, and of the bound."""
    rows = [["curve", "fpr", "tpr"]]
    for attack in finding.attacks:
        name, found = attack_name(attack.attack, attack.variant), shown(attack, finding)
        rows += [[name, number(x), number(y)] for x, y in zip(found.fpr, found.tpr, strict=True)]
    if promise is not None:
        fpr = np.geomspace(LOWEST, 1, 160)
        bound = tpr_bound(fpr, promise.curve_epsilon, promise.curve_delta)
        rows += [["the most that the promise allows", number(x), number(y)] for x, y in zip(fpr, bound, strict=True)]
    return rows


def of_settings(runs: Sequence[tuple[str, RunRecords]], adversary: Adversary) -> list[Drawing]:
    """Draw the ROC of the best attack on each of several runs in one figure; none if fewer than two were attacked.

    Args:
        runs: the first run of each setting, with the words of the setting.
        adversary: the adversary whose attacks are drawn.
    """
    pairs = [(label, run.finding("membership", adversary)) for label, run in runs]
    best = [(label, *_best(one)) for label, one in pairs if isinstance(one, MembershipFinding)]
    if len(best) < 2:
        return []
    figure, axes = empty_figure(width=380, height=400 + 17 * len(best))
    axes.plot([LOWEST, 1], [LOWEST, 1], color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
    marks, rows = list[Mark](), [["setting", "attack", "fpr", "tpr"]]
    for index, (label, name, found) in enumerate(best):
        visible = (found.fpr > 0) & (found.tpr > 0)
        axes.plot(found.fpr[visible], found.tpr[visible], **line_style(index), label=label)
        marks += _marks(axes, found, label)
        rows += [[label, name, number(x), number(y)] for x, y in zip(found.fpr, found.tpr, strict=True)]
    _decorate(axes)
    file, by = ("rocs", "") if adversary == "external" else (f"rocs_{adversary}", f" by the {adversary_name(adversary)}")
    told = "; ".join(f"{label}: {name}, AUC {found.auc.value:.3f}" for label, name, found in best)
    title = f"ROC of the best attack{by} on each setting"
    caption = (
        "The first seed of each setting. If the best attack was chosen from several, it was chosen on one half of the "
        "candidates and is drawn from the other. Both axes are logarithmic. The dotted line is guessing."
    )
    return [to_drawing(figure, file, title, f"{title}. {told}.", caption, rows, marks)]


def _best(finding: MembershipFinding) -> tuple[str, Shown]:
    """Return the name of the best attack, and its figures."""
    best = next(attack for attack in finding.attacks if is_best(attack, finding))
    return attack_name(best.attack, best.variant), shown(best, finding)


def split(finding: MembershipFinding) -> tuple[list[AttackRecord], list[AttackRecord]]:
    """Split the curves into those named in the legend and the others.

    The best attack is named first. The loss attack is named beside it, as the simplest attack that others are compared with.
    If it has several variants, the one with the largest area under the curve is named.
    """
    by_merit = sorted(finding.attacks, key=lambda attack: (not is_best(attack, finding), -attack.auc.value))
    simple = [attack for attack in by_merit[1:] if attack.attack.rpartition("/")[2].startswith("loss")]
    named = [by_merit[0], *simple[:1]]
    return named, [attack for attack in by_merit if not any(attack is one for one in named)]


def _other(axes: Axes, attack: AttackRecord, label: str | None) -> None:
    fpr, tpr = np.asarray(attack.roc_fpr), np.asarray(attack.roc_tpr)
    visible = (fpr > 0) & (tpr > 0)
    axes.plot(fpr[visible], tpr[visible], color=MUTED, linewidth=0.8, alpha=0.6, zorder=1.5, label=label)


def _unresolvable(axes: Axes, finding: MembershipFinding) -> None:
    edge = RESOLVABLE / finding.nonmembers
    if edge <= LOWEST:
        return
    axes.axvspan(LOWEST, min(edge, 1), facecolor="none", edgecolor=RULE, hatch="////", linewidth=0, zorder=0.5)
    axes.annotate("not resolvable", (LOWEST, 1), (5, -6), textcoords="offset points", va="top", fontsize=10, color=MUTED,
                  bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5})  # fmt: skip


def _bound(axes: Axes, privacy: PrivacyResult) -> None:
    fpr = np.geomspace(LOWEST, 1, 160)
    tpr = tpr_bound(fpr, privacy.curve_epsilon, privacy.curve_delta)
    axes.fill_between(fpr, tpr, 1, color=INK, alpha=0.07, linewidth=0)
    axes.plot(fpr, tpr, color=INK, linewidth=1.6, label="the most that the promise allows")


def _curve(axes: Axes, name: str, found: Shown, index: int) -> None:
    """Draw the curve of one attack; the best has a heavier line, and bars at its rates."""
    style = line_style(index)
    visible = (found.fpr > 0) & (found.tpr > 0)
    axes.plot(
        found.fpr[visible],
        found.tpr[visible],
        **{**style, "linewidth": 2.6 if found.best else 1.3},
        label=name + (" (best)" if found.best else ""),
        zorder=3 if found.best else 2,
    )
    for at in found.rates if found.best else []:
        if at.tpr is not None and at.tpr.high > LOWEST:
            ends = [max(at.tpr.low, LOWEST), at.tpr.high]
            axes.plot([at.fpr] * 2, ends, color=style["color"], linewidth=1.2, marker="_", markersize=7, zorder=4)


def _decorate(axes: Axes) -> None:
    axes.set(xscale="log", yscale="log", xlim=(LOWEST, 1), ylim=(LOWEST, 1))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(base=10, numticks=9))
        axis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    label_axes(axes, "non-members accused (FPR), %", "members found (TPR), %")
    axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.11), fontsize=10, handlelength=2.6, labelspacing=0.35)


def is_best(attack: AttackRecord, finding: MembershipFinding) -> bool:
    """Whether that variant is the best attack of the finding."""
    return (attack.attack, attack.variant) == (finding.best.attack, finding.best.variant)


def _alt(finding: MembershipFinding, promise: PrivacyResult | None) -> str:
    fpr, found = finding.best.headline_fpr, []
    for attack in finding.attacks:
        one = shown(attack, finding)
        at = rate_at(one.rates, fpr)
        if at is not None and at.tpr is not None:
            half = " (on the half not used to choose it)" if one.half else ""
            found.append(f"{attack_name(attack.attack, attack.variant)} {percent(at.tpr.value, 2)}{half}")
    text = "ROC of each attack on logarithmic axes"
    if promise is not None:
        allowed = float(tpr_bound(LOW_FPR, promise.curve_epsilon, promise.curve_delta))
        text += f", below a bound that allows {percent_at_most(allowed)} at {rate(LOW_FPR)} false positives"
    return text + (f". At {rate(fpr)} false positives the attacks find: {'; '.join(found)}." if found else ".")


def _caption(promise: PrivacyResult | None) -> str:
    lines = [
        "Both axes are logarithmic. Further left, an attack must be surer before it accuses anyone. Leakage there does the "
        "most harm, and averages hide it.",
        "The dotted line is guessing: the share of members found equals the share of non-members accused.",
    ]
    if promise is not None:
        lines.append(
            "The solid line at the top is the most that the promise allows any attack, now or later. It is the least over all "
            "pairs (ε, δ) of the run's privacy curve, not only the bound of the quoted pair. No attack may lie above it."
        )
        if promise.unit == "client":
            lines.append(
                "The attacks concern single examples, but the promise covers whole clients. One example more or less replaces "
                "its client's update by another. The solid line is the bound for such a replacement."
            )
    lines += [
        "The heavy curve is the best attack: if it was chosen from several, it was chosen on one half of the candidates and is "
        "drawn from the other half. Bars on it are 95 % intervals of the rates that can be resolved. All other curves are "
        "measured on all candidates; grey lines are those that the table alone names.",
        "In the hatched part fewer than ten false alarms are expected. No result there can be told from chance.",
    ]
    return "\n".join(lines)
