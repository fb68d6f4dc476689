"""The likelihood ratio of an example whose two means have a joint prior."""

from __future__ import annotations

import numpy as np
from scipy import stats

from attacks.membership import FloatArray
from attacks.membership._sides import TINY, Side, Sides


def joint_ratio(sides: Sides, weight: float = 8.0, neighbours: int = 200) -> FloatArray:
    """The log-ratio of each candidate, of shape (N,).

    Args:
        sides: the statistics of the shadows.
        weight: a₀, half of the degrees of freedom that the neighbours' variance counts as.
        neighbours: how many examples are neighbours.
    """
    both = (sides.inside, sides.outside)
    mean_N2 = np.stack(sides.means(), axis=1)
    spread_N2 = np.stack([_variance(side, weight, neighbours) for side in both], axis=1)
    count_N2 = np.stack([side.count_N for side in both], axis=1)
    # The variance of a mean of n; of none it is so large that the other side and the prior decide.
    error_N2 = spread_N2 / np.where(count_N2 > 0, count_N2, 1e-9)
    posterior_N2, left_N2 = _conditioned(mean_N2, error_N2, count_N2)
    freedom_N2 = 2 * weight + np.maximum(count_N2 - 1, 0)
    log_N2 = stats.t.logpdf(sides.target_N[:, None], freedom_N2, posterior_N2, np.sqrt(spread_N2 + left_N2))
    return np.asarray(log_N2[:, 0] - log_N2[:, 1])


def _variance(side: Side, weight: float, neighbours: int) -> FloatArray:
    """(2 a₀ v + SS) / (2 a₀ + n − 1), with v that of the neighbours in the mean."""
    order_N = np.argsort(side.mean_N, kind="stable")
    squares_N, freedom_N = side.squares_N[order_N], np.maximum(side.count_N[order_N] - 1, 0)
    window = min(neighbours, len(order_N))
    begin_N = np.clip(np.arange(len(order_N)) - window // 2, 0, len(order_N) - window)
    sums = [np.concatenate([[0.0], np.cumsum(values)]) for values in (squares_N, freedom_N)]
    near_squares_N, near_freedom_N = (one[begin_N + window] - one[begin_N] for one in sums)
    near_N = np.empty_like(side.mean_N)
    near_N[order_N] = np.where(near_freedom_N > 0, near_squares_N / np.maximum(near_freedom_N, 1), side.variance)
    counted_N = np.maximum(side.count_N - 1, 0)
    return np.asarray((2 * weight * near_N + side.squares_N) / (2 * weight + counted_N) + TINY)


def _conditioned(mean_N2: FloatArray, error_N2: FloatArray, count_N2: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Posterior means and variances of both sides' means, given their observed ones; two columns each."""
    seen_N = (count_N2 > 0).all(axis=1)
    fitted_N2 = mean_N2[seen_N] if seen_N.sum() > 2 else mean_N2
    errors_2 = error_N2[seen_N].mean(axis=0) if seen_N.sum() > 2 else np.zeros(2)
    # C = cov(x̄) − diag(mean s²/n), with eigenvalues of at least 1e-3.
    values, vectors = np.linalg.eigh(np.cov(fitted_N2.T) - np.diag(errors_2))
    prior_22 = vectors @ np.diag(np.maximum(values, 1e-3)) @ vectors.T
    total_N22 = prior_22 + error_N2[:, :, None] * np.eye(2)
    gain_N22 = prior_22 @ np.linalg.inv(total_N22)
    centre_2 = fitted_N2.mean(axis=0)
    posterior_N2 = centre_2 + np.einsum("nij,nj->ni", gain_N22, mean_N2 - centre_2)
    left_N22 = prior_22 - gain_N22 @ prior_22
    return posterior_N2, np.maximum(np.einsum("nii->ni", left_N22), 0.0)
