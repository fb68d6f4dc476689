"""FedMIA: a client's measure of an example beside that of the other clients on the same example (Zhu et al., "FedMIA", arXiv
2402.06289).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from scipy import special

from attacks.membership import FloatArray
from attacks.membership._gradients import cosines
from attacks.membership._updates import SeenRound, UpdatesAttack


class FedMIA(UpdatesAttack):
    """Is the update of the example's client more about this example than the updates of the others, who do not own it?

    In each round z = (M_c − mean) / sd, with M the measure of the same example by each client, c the client that owns it, and
    the mean and the sd (of a sample) over the other clients of the round. It needs two others. The authors take Φ(z), which
    saturates.

    Variants:
        ``I``: M is minus the loss at the local model; the mean of Φ(z) − 1/2 over rounds.
        ``II``: M is the cosine between minus the update and the example's gradient at the global model; the same.
        ``I, z`` and ``II, z``: the mean of z.
    """

    threat: ClassVar[str] = "A server that sees each client's update and has an example wants to know who trained on it."

    needs: ClassVar[str] = "the updates of 3 or more clients in a round"

    cost: ClassVar[str] = "a pass forward over the candidates for each update, and one backward in each round"

    least_clients: ClassVar[int] = 3

    def score(self, seen: SeenRound) -> dict[str, FloatArray]:
        """See :class:`attacks.membership._updates.UpdatesAttack`."""
        place_N = seen.places
        rows_n = np.flatnonzero(place_N >= 0)
        every = seen.every
        cosines_KN = cosines(every.inner_KN, every.squares_N, every.norms_K[:, None])
        scores: dict[str, FloatArray] = {}
        for name, measure_KN in (("I", -every.local_losses_KN), ("II", cosines_KN)):
            z_N = np.full(len(place_N), np.nan)
            z_N[rows_n] = against_others(measure_KN[:, rows_n], place_N[rows_n])
            scores |= {name: special.ndtr(z_N) - 0.5, f"{name}, z": z_N}
        return scores


def against_others(measure_Kn: FloatArray, place_n: np.ndarray[tuple[int], np.dtype[np.int64]]) -> FloatArray:
    """The z of each example's own client against the others, of shape (n,); NaN if the others do not differ.

    Args:
        measure_Kn: each client's measure of each example, K ≥ 3.
        place_n: the row of the client that owns it.
    """
    clients, columns = len(measure_Kn), np.arange(len(place_n))
    own_n = measure_Kn[place_n, columns]
    others = measure_Kn.astype(np.float64).copy()
    others[place_n, columns] = 0.0
    mean_n = others.sum(0) / (clients - 1)
    deviations = others - mean_n
    deviations[place_n, columns] = 0.0
    with np.errstate(all="ignore"):
        z_n = (own_n - mean_n) / np.sqrt((deviations**2).sum(0) / (clients - 2))
    return np.where(np.isfinite(z_n), z_n, np.nan)
