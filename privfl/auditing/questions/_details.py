"""The parts of a finding about membership that look at single groups and single members."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privfl.auditing.evaluation import BestScores
from privfl.auditing.groups import MOST, by_group
from privfl.auditing.questions._compared import pictures
from privfl.auditing.roc import Estimate
from privfl.records import Interval
from privfl.tables import Frozen


class GroupRecord(Frozen):
    """The figures of the best attack in one group, among the candidates that did not choose it.

    ``auc`` is that within the group; None if it has no members or no non-members there. ``tpr`` is the share of the group's
    members above the threshold of all groups together; None if it has no members, or if the threshold cannot be resolved.
    """

    group: str
    members: int
    nonmembers: int
    auc: Interval | None
    tpr: Interval | None


class Grouping(Frozen):
    """The groups of one kind: ``class``, ``client`` or ``group``.

    All intervals of one grouping hold together at 95 %: each is at ``level``. ``left_out`` is the number of smaller groups that
    were not measured, since every further one would widen all intervals.
    """

    by: str
    level: float
    fpr: float
    groups: list[GroupRecord]
    left_out: int


class ExposedMember(Frozen):
    """A member that the best attack ranks highest, among the candidates that did not choose the attack.

    ``row`` is its place in the pool, ``percentile`` the share of the measured non-members with a lower score. ``label`` is None
    if labels are no classes. ``picture`` is its input as PNG in base64; None if inputs are no images.
    """

    row: int
    label: str | None
    client: str
    percentile: float
    picture: str | None


def groupings(best: BestScores, member_N: NDArray[np.bool_], groups: Mapping[str, NDArray[Any]], fpr: float) -> list[Grouping]:
    """The figures of each kind of groups that has more than one of them.

    Args:
        best: the scores of the best attack, and the candidates that did not choose it.
        member_N: whether each candidate is a member.
        groups: the kind of grouping -> the group of each candidate.
        fpr: the false-positive rate of the headline.
    """
    found = []
    for by, group_N in groups.items():
        number = len(np.unique(group_N[best.measured_N]))
        if number < 2:
            continue
        records = [
            GroupRecord(
                group=str(one.group),
                members=one.members,
                nonmembers=one.nonmembers,
                auc=_interval(one.auc, one.members + one.nonmembers),
                tpr=_interval(None if one.tpr is None else one.tpr.tpr, one.members),
            )
            for one in by_group(best, member_N, group_N)
        ]
        level = 1 - 0.05 / (2 * len(records))
        found.append(Grouping(by=by, level=level, fpr=fpr, groups=records, left_out=max(number - MOST, 0)))
    return found


def exposed(
    best: BestScores,
    member_N: NDArray[np.bool_],
    row_N: NDArray[np.int64],
    groups: Mapping[str, NDArray[Any]],
    x_P: NDArray[Any],
    most: int,
) -> list[ExposedMember]:
    """The members with the highest scores, among the candidates that did not choose the attack.

    Args:
        best: the scores of the best attack, and the candidates that did not choose it.
        member_N: whether each candidate is a member.
        row_N: the place of each candidate in the pool.
        groups: names of the ``class`` and the ``client`` of each candidate.
        x_P: the pool's inputs.
        most: how many.
    """
    inside = np.flatnonzero(best.measured_N & member_N)
    outside = np.sort(best.scores_N[best.measured_N & ~member_N])
    highest = inside[np.argsort(-best.scores_N[inside], kind="stable")[:most]]
    below = np.searchsorted(outside, best.scores_N[highest], side="left") / len(outside)
    shown = pictures(x_P[row_N[highest]])
    return [
        ExposedMember(
            row=int(row_N[place]),
            label=str(groups["class"][place]) if "class" in groups else None,
            client=str(groups["client"][place]) if "client" in groups else "",
            percentile=float(share),
            picture=picture,
        )
        for place, share, picture in zip(highest, below, shown, strict=True)
    ]


def _interval(estimate: Estimate | None, count: int) -> Interval | None:
    if estimate is None:
        return None
    return Interval(value=estimate.value, low=estimate.low, high=estimate.high, n=count, level=estimate.level)
