"""Statistics of the shadows that did, and of those that did not, train on each example.

Suffixes as in :mod:`attacks.membership`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from attacks.membership import BoolArray, Evidence, FloatArray, MembershipAttack
from privfl.errors import ConfigError

TINY = 1e-30
"""Keeps a likelihood finite if shadows agree exactly; far below any spread that training leaves."""


@dataclass(frozen=True)
class Side:
    """The confidence of the shadows on one side of each example: per example, and over all.

    Args:
        count_N: how many shadows are on this side.
        mean_N: their mean; 0 if there is none.
        squares_N: Σ (φ − mean)² over them.
        variance_N: their variance; the pooled one for an example with fewer than two.
        mean: the mean over all examples and shadows of this side.
        spread: the variance over the same.
        variance: the pooled variance *within* examples, or the spread if no example has two shadows.
    """

    count_N: FloatArray
    mean_N: FloatArray
    squares_N: FloatArray
    variance_N: FloatArray
    mean: float
    spread: float
    variance: float

    @classmethod
    def of(cls, shadow_SN: FloatArray, taken_SN: BoolArray) -> Side:
        """The side of the shadows that ``taken_SN`` picks; it has at least one for some example."""
        count_N = taken_SN.sum(axis=0).astype(np.float64)
        mean_N = np.where(taken_SN, shadow_SN, 0.0).sum(axis=0) / np.maximum(count_N, 1)
        squares_N = np.where(taken_SN, (shadow_SN - mean_N) ** 2, 0.0).sum(axis=0)
        everything = shadow_SN[taken_SN]
        # The fixed variance is the pooled spread *within* examples; the spread of all logits would add that between examples.
        freedom = np.maximum(count_N - 1, 0).sum()
        pooled = squares_N.sum() / freedom if freedom > 0 else everything.var()
        own_N = squares_N / np.maximum(count_N - 1, 1)
        return cls(
            count_N=count_N,
            mean_N=mean_N,
            squares_N=squares_N,
            variance_N=np.where(count_N > 1, own_N, pooled) + TINY,
            mean=float(everything.mean()),
            spread=float(everything.var()) + TINY,
            variance=float(pooled) + TINY,
        )


@dataclass(frozen=True)
class Sides:
    """The target's confidence in each candidate, and both sides' statistics."""

    target_N: FloatArray
    shadow_SN: FloatArray
    inside: Side
    outside: Side

    @classmethod
    def of(cls, evidence: Evidence, target_N: FloatArray | None = None, shadow_SN: FloatArray | None = None) -> Sides:
        """The statistics of the evidence, which has shadows on both sides.

        Args:
            evidence: says which shadow trained on which candidate.
            target_N: the target's signal, higher for members; None: the task's confidence.
            shadow_SN: the shadows'.
        """
        if target_N is None:
            target_N = evidence.signals.target_N
        if shadow_SN is None:
            shadow_SN = evidence.signals.shadow_SN
        return cls.beside(evidence.shadow_member_SN, target_N, shadow_SN)

    @classmethod
    def beside(cls, member_SN: BoolArray, target_N: FloatArray, shadow_SN: FloatArray) -> Sides:
        """The statistics of any signals, beside which shadow trained on which candidate."""
        return cls(target_N, shadow_SN, Side.of(shadow_SN, member_SN), Side.of(shadow_SN, ~member_SN))

    def means(self) -> tuple[FloatArray, FloatArray]:
        """Both sides' means per example; one without shadows takes the other's, moved by the average gap."""
        inside, outside = self.inside, self.outside
        gap = inside.mean - outside.mean
        in_N = np.where(inside.count_N > 0, inside.mean_N, outside.mean_N + gap)
        return in_N, np.where(outside.count_N > 0, outside.mean_N, inside.mean_N - gap)


class TwoSidedAttack(MembershipAttack):
    """An attack that compares shadows that trained on an example with shadows that did not."""

    threat: ClassVar[str] = "An adversary with the final model who trains others like it wants to know who was trained on."

    needs: ClassVar[str] = "the final model, shadow models"

    cost: ClassVar[str] = "the training of the shadow models"

    least_shadows: ClassVar[int] = 1

    by_signals: ClassVar[bool] = True

    def require_shadows(self, member_SN: BoolArray) -> None:
        """See :class:`attacks.Attack`: some candidate is in a shadow, and some is left out of one.

        Raises:
            ConfigError: there is nothing to compare.
        """
        super().require_shadows(member_SN)
        if member_SN.all() or not member_SN.any():
            raise ConfigError("attacks.shadow_models: no candidate is left out of, or in, any shadow; raise it or data.holdout")


def surprise(confidence: FloatArray) -> FloatArray:
    """The loss log(1 + e^−φ), which does not round to 0 for a confident output."""
    return np.asarray(np.logaddexp(0.0, -confidence))


def settled_order(shadow_SN: FloatArray) -> NDArray[np.int64]:
    """An order of the shadows that follows from their signals alone, so that no result depends on how they were numbered."""
    return np.lexsort(shadow_SN.T[:2])
