"""RMIA: robust with few shadows (Zarifzadeh, Liu & Shokri 2024, "Low-cost high-power membership inference attacks")."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, PositiveFloat
from scipy import special

from attacks.membership import BoolArray, Evidence, FloatArray, MembershipAttack


class Rmia(MembershipAttack):
    """Is the target's confidence in x, relative to what is usual for x, higher than that in population examples z?

    The score is the share of z with (p(x|θ)/p(x)) / (p(z|θ)/p(z)) ≥ γ (equations 2 to 4). One variant for each γ, ``offline``
    and ``online``. Offline p(x) is estimated from shadows that did not train on x, and p_in(x) by a·p_out(x) + (1 − a)
    (appendix B.2.2); if every shadow trained on x, that line is read backwards for p_out(x), and cut to [0, 1]. Online p(x) is
    the mean over all shadows, about half of which trained on x.

    Args:
        a: how confidence without the example predicts confidence with it; 1 for a model that does not memorise.
        gammas: the values of γ. The score is a step function of the ratio of x with one step per z, so that γ changes
            no order: it moves only which of the most and the least exposed examples tie.
    """

    threat: ClassVar[str] = "An adversary with the final model, some like it and fresh data wants to know who was trained on."

    needs: ClassVar[str] = "the final model, shadow models, fresh data"

    cost: ClassVar[str] = "the training of the shadow models"

    least_shadows: ClassVar[int] = 1

    by_signals: ClassVar[bool] = True

    a: Annotated[float, Field(gt=0, le=1)] = 0.3
    gammas: Annotated[tuple[PositiveFloat, ...], Field(strict=False, min_length=1)] = (1.0, 2.0)

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`."""
        self.require_shadows(evidence.shadow_member_SN)
        signals = evidence.signals
        shadow_SN, shadow_SP = probability(signals.shadow_SN), probability(signals.population_shadow_SP)
        usual_N = self._marginal(_mean_out(shadow_SN, evidence.shadow_member_SN, self.a))
        taken_SP = evidence.population_member_SP
        usual_P = self._marginal(shadow_SP.mean(axis=0) if taken_SP is None else _mean_out(shadow_SP, taken_SP, self.a))
        target_N, target_P = probability(signals.target_N), probability(signals.population_P)
        ratios = {
            "offline": (target_N / usual_N, target_P / usual_P),
            "online": (target_N / (shadow_SN.mean(axis=0) + _LEAST), target_P / (shadow_SP.mean(axis=0) + _LEAST)),
        }
        return {
            f"{way}, gamma {gamma:g}": dominated_share(*ratio, gamma) for way, ratio in ratios.items() for gamma in self.gammas
        }

    def _marginal(self, out: FloatArray) -> FloatArray:
        """The mean (p_in + p_out) / 2 with p_in = a·p_out + (1 − a)."""
        return np.asarray(((1 + self.a) * out + (1 - self.a)) / 2)


_LEAST = 1e-300
"""Keeps a ratio finite if no shadow gives the label any probability."""


def probability(confidence: FloatArray) -> FloatArray:
    """P = exp(−loss), the probability of the true class of a classifier."""
    return np.asarray(special.expit(confidence), dtype=np.float64)


def dominated_share(ratio_N: FloatArray, ratio_P: FloatArray, gamma: float) -> FloatArray:
    """The share of z with ratio_N ≥ γ·ratio_z, of shape (N,): by sorting, without the (N, P) matrix."""
    return np.asarray(np.searchsorted(np.sort(gamma * ratio_P), ratio_N, side="right") / len(ratio_P))


def _mean_out(shadow_SN: FloatArray, member_SN: BoolArray, a: float) -> FloatArray:
    count_N = (~member_SN).sum(axis=0)
    out_N = np.where(member_SN, 0.0, shadow_SN).sum(axis=0) / np.maximum(count_N, 1)
    backwards_N = np.clip((shadow_SN.mean(axis=0) - (1 - a)) / a, 0.0, 1.0)
    return np.asarray(np.where(count_N > 0, out_N, backwards_N))
