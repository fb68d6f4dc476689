"""A score for each candidate: the claim of several questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from privfl.auditing.questions import Arrays, Claim
from privfl.errors import ItemError, first_line

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class ScoresClaim(Claim):
    """A claim of scores: for each variant of the attack, by its name, a score of each candidate.

    Args:
        scores: variant -> scores of shape (N,), in the order of the candidates; higher means member. A decision is a
            score too: 1 for member, 0 for non-member.
    """

    scores: Mapping[str, FloatArray]

    def arrays(self, attack: str) -> dict[str, NDArray[Any]]:
        """``attack: variant`` -> scores."""
        return {f"{attack}: {variant}": scores_N for variant, scores_N in self.scores.items()}

    @classmethod
    def from_arrays(cls, attack: str, arrays: Arrays) -> Self:
        """The claim from the arrays that :meth:`arrays` gave."""
        return cls({name.removeprefix(f"{attack}: "): scores_N for name, scores_N in arrays.items()})

    def checked(self, attack: str, candidates: int) -> Self:
        """The same claim with all scores as float64.

        Raises:
            ItemError: it is not one score per candidate for each named variant.
        """
        return type(self)(_named_scores(attack, self.scores, candidates))


def _named_scores(attack: str, returned: object, candidates: int) -> dict[str, FloatArray]:
    """Scores of each named variant, as float64 arrays, after checks."""
    shape = 'scores must be {name: scores}, for example {"my score": scores}, a score for each candidate'
    if not isinstance(returned, Mapping):
        raise ItemError(f"attack {attack!r}: gave a {type(returned).__name__} without a name; {shape}")
    if not returned:
        raise ItemError(f"attack {attack!r}: gave no scores; {shape}")
    found = {}
    for name, values in returned.items():
        try:
            scores_N = np.asarray(values).astype(np.float64, casting="same_kind")
        except (TypeError, ValueError, RuntimeError) as error:
            raise ItemError(f"attack {attack!r}, {name!r}: its scores are no numbers ({first_line(error)}); {shape}") from None
        if not isinstance(name, str) or scores_N.shape != (candidates,):
            raise ItemError(
                f"attack {attack!r}, {name!r}: its scores have the shape {scores_N.shape}, must be ({candidates},); {shape}"
            )
        if np.isnan(scores_N).any():
            raise ItemError(f"attack {attack!r}, {name!r}: {np.isnan(scores_N).sum()} of its scores are NaN; {shape}")
        found[name] = scores_N
    return found
