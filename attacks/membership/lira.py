"""LiRA: a likelihood ratio per example (Carlini et al. 2022, "Membership inference attacks from first principles")."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from attacks.membership import BoolArray, Evidence, FloatArray
from attacks.membership._sides import Side, Sides, TwoSidedAttack
from privfl.auditing.questions.membership import MembershipClaim
from privfl.running.knowledge import Knowledge
from privfl.running.queries import MOST, QuerySignals
from privfl.running.views import View


class Lira(TwoSidedAttack):
    """Does the target's confidence look like that of shadows that trained on the example, or of those that did not?

    The confidence φ is the task's; a classifier's is the stable logit.

    Variants:
        ``online``: log N(φ; µ_in, σ_in²) − log N(φ; µ_out, σ_out²), both per example (algorithm 1).
        ``online, fixed variance``: the same with one σ_in and one σ_out for all examples.
        ``offline``: (φ − µ_out) / σ_out, one-sided: only an output *more* confident than without the example speaks for
        membership (section VI.C).
        ``offline, fixed variance``: the same with one σ_out, that is, the order of φ − µ_out.

    If ``queries`` is above 1, all models also answer for the example's mirror image and for both shifted by a pixel; the paper
    queries the augmentations that were trained with. A variant is then the mean over queries, each with its own means and
    variances, as in the authors' code. There is one more:
        ``multivariate, fixed covariance``: the log-ratio of two normal distributions of the vector of φ, with one covariance
        within examples for each side.

    If no shadow trained on any candidate, the offline variants alone are computed, which need no others.

    Below 32 shadows a variance per example is unreliable (with 4 of them the online AUC of the reference pool is .512):
    it is computed all the same; read the fixed variance, or RMIA.

    An example with fewer than two shadows on a side takes that side's fixed variance there; one with none takes the
    other side's mean, shifted by the average gap between the sides. If no example has two shadows on a side, the spread
    within examples cannot be known and the spread over all examples stands in. No score is ever NaN.
    """

    queries: Annotated[int, Field(ge=1, le=MOST)] = 1

    @property
    def wanted_queries(self) -> int:
        """See :class:`attacks.Attack`."""
        return self.queries

    def run(self, view: View, knowledge: Knowledge) -> MembershipClaim:
        """See :class:`attacks.Attack`."""
        if self.queries == 1:
            return super().run(view, knowledge)
        super().require_shadows(knowledge.shadows.member_SN)
        assert knowledge.queries is not None, "they were asked for"
        return MembershipClaim(over_queries(knowledge.queries, knowledge.shadows.member_SN, self.queries))

    def require_shadows(self, member_SN: BoolArray) -> None:
        """See :class:`attacks.Attack`: some candidate is left out of a shadow."""
        if self.queries > 1 or not len(member_SN) or member_SN.any():
            super().require_shadows(member_SN)

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`."""
        self.require_shadows(evidence.shadow_member_SN)
        if not evidence.shadow_member_SN.any():
            outside = Side.of(evidence.signals.shadow_SN, ~evidence.shadow_member_SN)
            return offline(evidence.signals.target_N, outside.mean_N, outside)
        return ratios(Sides.of(evidence))


def ratios(sides: Sides) -> dict[str, FloatArray]:
    """The scores of each variant, from one query."""
    target_N, inside, outside = sides.target_N, sides.inside, sides.outside
    in_N, out_N = sides.means()
    ratio_N = _log_normal(target_N, in_N, inside.variance_N) - _log_normal(target_N, out_N, outside.variance_N)
    fixed_N = _log_normal(target_N, in_N, inside.variance) - _log_normal(target_N, out_N, outside.variance)
    return {
        "online": ratio_N,
        "online, fixed variance": fixed_N,
        **offline(target_N, out_N, outside),
    }


def offline(target_N: FloatArray, out_N: FloatArray, outside: Side) -> dict[str, FloatArray]:
    """The scores of the variants that need no shadow that trained on the example."""
    return {
        "offline": (target_N - out_N) / np.sqrt(outside.variance_N),
        "offline, fixed variance": (target_N - out_N) / np.sqrt(outside.variance),
    }


def over_queries(signals: QuerySignals, member_SN: BoolArray, queries: int) -> dict[str, FloatArray]:
    """The scores of each variant, from several queries; one query of all candidates is in memory at a time."""
    totals: dict[str, FloatArray] = {}
    in_QN, out_QN = (np.empty((queries, member_SN.shape[1])) for _ in range(2))
    for number in range(queries):
        sides = Sides.beside(member_SN, *signals.at(number))
        in_QN[number], out_QN[number] = sides.means()
        for variant, scores_N in ratios(sides).items():
            totals[variant] = totals.get(variant, 0.0) + scores_N / queries
    return {**totals, "multivariate, fixed covariance": _multivariate(signals, member_SN, in_QN, out_QN)}


def _multivariate(signals: QuerySignals, member_SN: BoolArray, in_QN: FloatArray, out_QN: FloatArray) -> FloatArray:
    """Log N(φ; µ_in, Σ_in) − log N(φ; µ_out, Σ_out), with Σ pooled within examples; an identity where nothing was pooled."""
    queries = len(in_QN)
    sums, freedoms = np.zeros((2, queries, queries)), np.zeros(2)
    for here, _, shadow_SQn in signals.parts(queries):
        for side, (taken_SN, mean_QN) in enumerate(((member_SN, in_QN), (~member_SN, out_QN))):
            taken_Sn = taken_SN[:, here]
            away_SQn = np.where(taken_Sn[:, None], shadow_SQn - mean_QN[:, here], 0.0)
            sums[side] += np.einsum("sqn,srn->qr", away_SQn, away_SQn, optimize=True)
            freedoms[side] += np.maximum(taken_Sn.sum(0) - 1, 0).sum()
    covariances = [
        total / freedom + _RIDGE * np.trace(total) / freedom / queries * np.eye(queries) if freedom else np.eye(queries)
        for total, freedom in zip(sums, freedoms, strict=True)
    ]
    target_QN = np.stack([signals.target[number, :] for number in range(queries)])
    inside_N, outside_N = (
        _log_normals(target_QN - mean_QN, covariance) for mean_QN, covariance in zip((in_QN, out_QN), covariances, strict=True)
    )
    return inside_N - outside_N


_RIDGE = 1e-6
"""Share of the mean variance that is added to each: queries of a symmetric image are one query."""


def _log_normals(away_QN: FloatArray, covariance: FloatArray) -> FloatArray:
    """The log-likelihood of each vector, up to the constant −Q log(2π)/2."""
    root = np.linalg.cholesky(covariance)
    return np.asarray(-(np.linalg.solve(root, away_QN) ** 2).sum(0) / 2 - np.log(np.diag(root)).sum())


def _log_normal(value_N: FloatArray, mean_N: FloatArray, variance: FloatArray | float) -> FloatArray:
    """The log-likelihood log N(value; mean, variance), up to the constant −log(2π)/2."""
    return np.asarray(-((value_N - mean_N) ** 2) / (2 * variance) - np.log(variance) / 2)
