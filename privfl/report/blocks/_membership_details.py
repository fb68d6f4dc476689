"""The folded parts of a membership finding: its groups, false positives of single examples, and the members exposed most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from privfl.auditing.questions._details import Grouping, GroupRecord
from privfl.auditing.questions.membership import ExampleRatesRecord, MembershipFinding
from privfl.report.blocks import Cell
from privfl.report.wording import NBSP, attack_name, count, level, percent, percent_range, plural, rate

SHOWN: Final = 30
"""The most groups of one kind in the table, those with the largest AUC."""

_PLURAL: Final = {"class": "classes", "client": "clients", "group": "groups"}


@dataclass(frozen=True)
class GroupTable:
    """The table of one kind of groups.

    Args:
        by: the kind of groups.
        summary: the heading, which is read before the table is unfolded.
        sentence: the explanation of the columns and intervals.
        rate: the false positive rate of the last column.
        rows: group, members, others, AUC and TPR.
    """

    by: str
    summary: str
    sentence: str
    rate: str
    rows: list[tuple[str, str, str, Cell, Cell]]


def group_tables(finding: MembershipFinding) -> list[GroupTable]:
    """Return a table for each kind of groups."""
    return [_table(grouping) for grouping in finding.groupings]


def _table(grouping: Grouping) -> GroupTable:
    ordered = sorted(grouping.groups, key=lambda one: -1.0 if one.auc is None else -one.auc.value)
    ordered = [one for one in ordered if one.auc is not None] + [one for one in ordered if one.auc is None]
    measured = [one for one in ordered if one.auc is not None]
    many = _PLURAL.get(grouping.by, f"{grouping.by}s")
    summary = f"By {grouping.by}: no AUC, as each has members or non-members alone"
    if measured:
        worst, best = measured[0], measured[-1]
        summary = f"By {grouping.by}: AUC {_area(worst)} ({worst.group}) to {_area(best)} ({best.group})"
        assert worst.auc is not None
        assert best.auc is not None
        summary += f", a spread of {worst.auc.value - best.auc.value:.3f}"
    sentence = (
        f"The figures are those of the best attack, on the candidates that did not choose it. The TPR is the share of the "
        f"{grouping.by}'s members above one threshold for all, that of {rate(grouping.fpr)} false positives. Each interval is "
        f"at {level(round(grouping.level, 5))}, so that all intervals of this table hold together at {level(0.95)}."
    )
    hidden = max(len(ordered) - SHOWN, 0)
    if hidden:
        sentence += f" The {many} shown are those with the largest AUC; {count(hidden)} more are in attacks/summary.json."
    if grouping.left_out:
        smaller = plural(grouping.left_out, f"smaller {grouping.by}", f"smaller {many}")
        sentence += f" Nothing was measured for {smaller}: every further one would widen all intervals."
    return GroupTable(grouping.by, summary, sentence, rate(grouping.fpr), [_row(one) for one in ordered[:SHOWN]])


def _row(one: GroupRecord) -> tuple[str, str, str, Cell, Cell]:
    area: Cell = ("not measured", "")
    if one.auc is not None:
        area = (_area(one), f"{one.auc.low:.3f} – {one.auc.high:.3f}")
    tpr: Cell = ("not resolvable", "") if one.tpr is None else (percent(one.tpr.value, 1), percent_range(one.tpr, 1))
    return one.group, count(one.members), count(one.nonmembers), area, tpr


def _area(one: GroupRecord) -> str:
    return "" if one.auc is None else f"{one.auc.value:.3f}"


@dataclass(frozen=True)
class ExampleTable:
    """The table of the false-positive rates of single examples.

    Args:
        summary: the heading, which is read before the table is unfolded.
        sentence: the explanation of the columns.
        rows: attack, worst rate, spread and share of examples that are never accused.
    """

    summary: str
    sentence: str
    rows: list[tuple[str, Cell, Cell, Cell]]


def example_table(finding: MembershipFinding) -> ExampleTable | None:
    """Return the table of the false-positive rates of single examples; None if none were counted."""
    counted = [(attack_name(one.attack, one.variant), one.examples) for one in finding.attacks if one.examples is not None]
    if not counted:
        return None
    (even, least), (uneven, most) = (choose(counted, key=lambda one: one[1].spread.value) for choose in (min, max))
    fpr = rate(most.fpr)
    summary = f"By example: {fpr} false positives over all are up to {percent(most.worst.value)} for one ({uneven})"
    sentence = (
        f"Each threshold accuses {fpr} of those that were not trained on, over all examples, and not {fpr} of the time for "
        f"each. For these figures shadow models played the target; each example has {count(most.models)} or more that were "
        f"not trained on it. The worst is the largest share of them that accuse an example, and its interval is of the "
        f"largest rate of all examples. If all rates were {fpr}, the worst would be at most {percent(most.worst_by_chance)} "
        f"with 95 % probability. The spread is the standard deviation of the rate over examples, without chance. It is "
        f"smallest for {even}: {percent(least.spread.value, 1)}."
    )
    return ExampleTable(summary, sentence, [(name, *_example_cells(one)) for name, one in counted])


def _example_cells(one: ExampleRatesRecord) -> tuple[Cell, Cell, Cell]:
    return (
        (percent(one.worst.value), percent_range(one.worst, 0)),
        (f"{percent(one.spread.value, 1)}", percent_range(one.spread, 1)),
        (percent(one.never), ""),
    )


@dataclass(frozen=True)
class ShownMember:
    """A member on the page: its picture, if there is one, and its caption."""

    picture: str | None
    title: str
    terms: str


def exposed_members(finding: MembershipFinding) -> list[ShownMember]:
    """Return the members that are exposed most."""
    return [
        ShownMember(
            one.picture,
            one.label or f"row {count(one.row)}",
            f"row{NBSP}{count(one.row)}, {one.client.replace(' ', NBSP)}, above {percent(one.percentile)} of non-members",
        )
        for one in finding.exposed
    ]


TEMPLATE: Final = """\
{% for one in group_tables %}
<details>
<summary>{{ one.summary }}</summary>
<p class="note">{{ one.sentence }}</p>
<div class="scroll" role="region" aria-label="Figures by {{ one.by }}{{ suffix }}" tabindex="0">
<table class="stacked">
<thead><tr><th scope="col">{{ one.by }}</th><th scope="col">members</th><th scope="col">others</th><th scope="col">AUC</th><th scope="col">TPR at {{ one.rate }} FPR</th></tr></thead>
<tbody>
{% for name, members, others, area, tpr in one.rows %}
<tr><th scope="row">{{ name }}</th><td data-label="members">{{ members }}</td><td data-label="others">{{ others }}</td>{{ cell(area, "AUC") }}{{ cell(tpr, "TPR at " ~ one.rate ~ " FPR") }}</tr>
{% endfor %}
</tbody>
</table>
</div>
</details>
{% endfor %}
{% if examples %}
<details>
<summary>{{ examples.summary }}</summary>
<p class="note">{{ examples.sentence }}</p>
<div class="scroll" role="region" aria-label="False positives by example{{ suffix }}" tabindex="0">
<table class="stacked">
<thead><tr><th scope="col">attack</th><th scope="col">worst example</th><th scope="col">spread</th><th scope="col">never accused</th></tr></thead>
<tbody>
{% for name, worst, spread, never in examples.rows %}
<tr><th scope="row">{{ name }}</th>{{ cell(worst, "worst example") }}{{ cell(spread, "spread") }}{{ cell(never, "never accused") }}</tr>
{% endfor %}
</tbody>
</table>
</div>
</details>
{% endif %}
{% if exposed %}
<details>
<summary>The members that are exposed most: training examples</summary>
<p class="note">These are private training examples: keep this page as private as those, or set attacks.exposed = 0, which leaves them out. They are the members
with the highest scores by the best attack, among the candidates that did not choose it, and the percentage is the share of non-members with a
lower score.{% if not leaks %} The attack finds no more members than guessing here, so that the list is a matter of chance.{% endif %}</p>
{% if exposed[0].picture %}
<div class="pictures" role="group" aria-label="The members that are exposed most{{ suffix }}">
{% for one in exposed %}
<figure class="pair single"><img src="data:image/png;base64,{{ one.picture }}" alt="{{ one.title }}"><figcaption>{{ one.title }}<span class="under">{{ one.terms }}</span></figcaption></figure>
{% endfor %}
</div>
{% else %}
<ol class="note">
{% for one in exposed %}
<li>{{ one.title }}: {{ one.terms }}</li>
{% endfor %}
</ol>
{% endif %}
</details>
{% endif %}
"""  # noqa: E501
