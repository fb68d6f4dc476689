"""The figures of the best attack in groups of candidates: classes, clients, or any other, with intervals that hold together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from privfl.auditing.evaluation import BestScores, headline_fpr
from privfl.auditing.roc import Estimate, OperatingPoint, auc, operating_point, roc

MOST: Final = 100
"""The most groups of one kind that are measured, the largest ones; every further one would widen all intervals."""


@dataclass(frozen=True)
class GroupFigures:
    """The figures of the best attack in one group of candidates.

    Args:
        group: number or name of the group.
        members: number of members of the group among the measured candidates.
        nonmembers: number of its non-members among them.
        auc: the AUC within the group; None if members or non-members are missing.
        tpr: the share of the group's members above the threshold that all measured non-members together set; None if there are
            no members.
    """

    group: Any
    members: int
    nonmembers: int
    auc: Estimate | None
    tpr: OperatingPoint | None


def by_group(best: BestScores, member_N: NDArray[np.bool_], group_N: NDArray[Any], level: float = 0.95) -> list[GroupFigures]:
    """The AUC and the TPR of the best attack in each group of candidates, on the candidates that did not choose it.

    The TPR is at the headline's false-positive rate, at a threshold for all: groups have too few non-members for one of their
    own, and an attacker has one threshold. Its interval counts the threshold as uncertain
    (:meth:`privfl.auditing.roc.Roc.limits`, with the non-members of all groups and the members of this one).

    With G groups the 2 G intervals are each at level 1 − (1 − level) / (2 G) (Bonferroni), so that all of them hold together
    with a probability of at least ``level``.

    Args:
        best: the scores of the best attack, and the candidates that did not choose it.
        member_N: whether each candidate is a member, drawn by independent fair coins.
        group_N: the group of each candidate. The largest ``MOST`` groups are measured.
        level: confidence level of all intervals together.
    """
    names, sizes = np.unique(group_N[best.measured_N], return_counts=True)
    names = names[np.sort(np.argsort(-sizes, kind="stable")[:MOST])]
    each = 1 - (1 - level) / (2 * max(len(names), 1))
    others_N = best.measured_N & ~member_N
    fpr, found = headline_fpr(int(others_N.sum())), []
    for name in names:
        here_N = (group_N == name) & best.measured_N
        members = int(np.count_nonzero(member_N[here_N]))
        others = int(np.count_nonzero(here_N)) - members
        pooled_N = (here_N & member_N) | others_N
        point = operating_point(roc(best.scores_N[pooled_N], member_N[pooled_N]), fpr, each) if members else None
        area = auc(best.scores_N[here_N], member_N[here_N], each) if members and others else None
        found.append(GroupFigures(name.item(), members, others, area, point))
    return found
