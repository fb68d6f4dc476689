"""The blind classifier: can members be told from others by their inputs and labels, without looking at the model?"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from privfl.auditing.roc import Estimate, auc

MOST: Final = 2_000
"""The most candidates that it looks at, evenly over all."""

_WIDE: Final = 64
"""Inputs of more numbers are projected on so many principal components."""

ALARM: Final = 0.55
"""An AUC above this, if its interval lies above one half, means that members and others come from different distributions."""


def blind_auc(inputs_N: NDArray[Any] | None, labels_N: NDArray[Any] | None, member_N: NDArray[np.bool_]) -> Estimate | None:
    """The cross-validated AUC of a classifier that sees inputs and labels alone (Das, Zhang & Tramèr 2024, "Blind baselines").

    It is an ensemble of 50 randomised trees (scikit-learn), with five folds, each candidate scored by trees that did not see
    it. If a fair coin decided who is a member, it is one half up to chance. Above that, members and others differ without any
    model, and every attack may find that difference instead of a leak.

    The interval takes the scores as independent, which they are not quite, since folds share most of their training data. So an
    alarm also asks for an AUC above ``ALARM``.

    Args:
        inputs_N: the candidates' inputs, of shape (N, ...); None if there are none.
        labels_N: their classes or values, shape (N,); None likewise.
        member_N: whether each candidate is a member.

    Returns:
        the AUC, or None if there is nothing to look at, or fewer than five members or others.
    """
    if inputs_N is None and labels_N is None:
        return None
    taken = np.unique(np.linspace(0, len(member_N) - 1, min(MOST, len(member_N))).astype(np.int64))
    truth_n = member_N[taken]
    if min(truth_n.sum(), (~truth_n).sum()) < _FOLDS:
        return None
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    parts = [_numbers(inputs_N[taken])] if inputs_N is not None else []
    if labels_N is not None:
        parts.append(np.asarray(labels_N[taken], dtype=np.float64).reshape(len(taken), -1))
    trees = ExtraTreesClassifier(50, min_samples_leaf=3, random_state=0, n_jobs=1)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    scores = cross_val_predict(trees, np.concatenate(parts, axis=1), truth_n, cv=folds, method="predict_proba")[:, 1]
    return auc(np.asarray(scores, dtype=np.float64), truth_n)


_FOLDS: Final = 5


def _numbers(inputs_n: NDArray[Any]) -> NDArray[np.float64]:
    """The inputs as a table of at most so many columns."""
    table = np.asarray(inputs_n, dtype=np.float64).reshape(len(inputs_n), -1)
    if table.shape[1] <= _WIDE:
        return table
    from sklearn.decomposition import PCA

    return np.asarray(PCA(min(_WIDE, len(table)), svd_solver="randomized", random_state=0).fit_transform(table))
