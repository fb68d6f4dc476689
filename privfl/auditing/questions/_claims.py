"""Scores, shares and checks that the questions about canaries have in common."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from privfl.auditing.evaluation import require_both_kinds
from privfl.auditing.questions import Claims, Truth
from privfl.auditing.questions._scores import ScoresClaim
from privfl.errors import DataError

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
Scored = tuple[str, str, list[int], FloatArray]

LEVEL: Final = 0.95
"""All bounds of one finding hold together with this probability."""


def scored(claims: Claims) -> list[Scored]:
    """Attack, variant, rounds and scores of every variant, by name."""
    found = []
    for attack, made in sorted(claims.by_attack.items()):
        assert isinstance(made.claim, ScoresClaim)
        found += [(attack, variant, list(made.rounds), scores_N) for variant, scores_N in made.claim.scores.items()]
    return found


def share_of(count: int, share: float, generator: np.random.Generator) -> BoolArray:
    """A share of so many candidates, drawn at random whatever their membership is, of shape (N,)."""
    chosen_N = np.zeros(count, np.bool_)
    chosen_N[generator.permutation(count)[: int(count * share)]] = True
    return chosen_N


def require_canaries(truth: Truth) -> None:
    """Refuse too few canaries.

    Raises:
        DataError: a half has no members, or no others.
    """
    try:
        require_both_kinds(truth.candidate_members, truth.halves_generator())
    except DataError as error:
        raise DataError(str(error).replace("raise data.holdout", "raise canaries.count")) from None
