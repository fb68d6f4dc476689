"""Which of two updates was sent, from the secure sum: with a candidate, or without it (Ngo et al. 2024, "Secure aggregation is
not private against membership inference attacks", section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from scipy import optimize

from attacks import Attack
from attacks.membership import FloatArray
from attacks.membership._gradients import Gradients
from attacks.membership._updates import evenly, mean_scores
from privfl.adversaries import Adversary
from privfl.auditing.questions.membership import MembershipClaim
from privfl.errors import ConfigError, ViewError
from privfl.running.knowledge import Candidates, Knowledge, Prospect
from privfl.running.views import ServerView, View

_AT_ONCE: Final = 1024
"""So many candidates are unknown coins at once; the others are then taken for fresh examples."""

_FRESH: Final = 256
"""So many fresh examples stand for the examples that the server does not know."""


class WhichUpdate(Attack):
    """Is the example's gradient in the sum of a round's updates?

    A client's updates with an example (u1) and without it (u0) differ by −s g, with g the example's gradient at the model of
    the round and s the weight of one example in the sum. The sum S has that difference in it or not, beside all that others
    add, of mean m and covariance C. The log-ratio of the two cases is (u1 − u0)ᵀ C⁻¹ (S − m − (u0 + u1)/2). Secure aggregation
    hides an update only as Gaussian noise of covariance C would.

    The server knows the candidates, and each one is in the sum by a coin: C = Σ s² g gᵀ / 4 over the other candidates, plus the
    second moment of fresh examples for those that it does not know, plus λ I for all that is not linear in gradients. The
    likelihood of the sum determines λ and s, since gradients shrink in training. C⁻¹ is never formed: the products of gradients
    with each other and with the sum are enough. Up to 1,024 candidates are coins at once; all others then count as fresh ones.

    Args:
        rounds: how many rounds, taken evenly over the run.

    Variants:
        ``log-ratio``: its mean over the rounds with the example's client; the median if there is none.
    """

    adversary: ClassVar[Adversary] = "server"

    question: ClassVar[str] = "membership"

    threat: ClassVar[str] = "A server that sees sums and knows what a client may have sent wants to know which it was."

    needs: ClassVar[str] = "the sum of each round's updates by SGD, all candidates, fresh examples"

    cost: ClassVar[str] = "the products of all candidates' gradients with each other in some rounds"

    rounds: PositiveInt = 5

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.Attack`: updates are linear in gradients."""
        training = prospect.protocol.training
        if prospect.protocol.example_weight(0) is None:
            raise ConfigError(
                f"training.optimizer = {training.optimizer.kind!r}: {self.kind!r} needs updates that are linear in the "
                "gradients; set training.optimizer = 'sgd'"
            )
        super().require_possible(prospect)

    def run(self, view: View, knowledge: Knowledge) -> MembershipClaim:
        """See :class:`attacks.Attack`.

        Raises:
            ViewError: no sum is finite.
        """
        assert isinstance(view, ServerView)
        found = mean_scores(
            {"log-ratio": self._round(view, knowledge, number)} for number in evenly(view.rounds(), self.rounds)
        )
        if not found:
            raise ViewError(f"{self.kind!r}: no round has a finite sum; run it with a lower training.lr")
        return MembershipClaim(found)

    def _round(self, view: ServerView, knowledge: Knowledge, number: int) -> FloatArray:
        """The log-ratio of each candidate, of shape (N,); NaN for those whose client is not in the sum."""
        candidates, survivors = knowledge.candidates, view.survivors(number)
        scores_N = np.full(len(candidates), np.nan)
        inside_n = np.flatnonzero(np.isin(candidates.client_N, survivors))
        if not len(inside_n):
            return scores_N
        (sum_D, weights), protocol = view.sums(number), knowledge.protocol
        weight = weights / len(survivors)
        step = protocol.example_weight(number, weight)
        if not sum_D.isfinite().all() or not step:
            return scores_N
        owned = protocol.largest * weights
        order_n = np.random.default_rng(number).permutation(inside_n)
        for rows_n in np.array_split(order_n, -(-len(order_n) // _AT_ONCE)):
            joined, fresh = _joined(knowledge, rows_n)
            gradients = Gradients(knowledge.network, joined, view.model_before(number))
            along = gradients.products(sum_D[None].float(), np.arange(len(joined)))
            # The members among the candidates that are not looked at now, and those whose membership was no coin.
            unknown = max(owned - len(inside_n), 0.0) + (len(inside_n) - len(rows_n)) / 2
            told = Model.of(
                gradients.gram(),
                -along.inner_Kn[0],
                float(along.norms_K[0] ** 2),
                knowledge.network.layout.size,
                fresh,
                unknown,
            )
            scores_N[rows_n] = told.log_ratios(*told.fitted(weight * step))
        return scores_N


def _joined(knowledge: Knowledge, rows_n: NDArray[np.int64]) -> tuple[Candidates, int]:
    """Some candidates and then fresh examples, and the number of the fresh ones."""
    candidates, population = knowledge.candidates, knowledge.population
    fresh = min(_FRESH, len(population))
    x = torch.cat([candidates.x[torch.from_numpy(rows_n).to(candidates.x.device)], population.x[:fresh]])
    y = np.concatenate([candidates.y_N[rows_n], population.y_N[:fresh]])
    return Candidates(x, y, np.full(len(y), -1)), fresh


@dataclass(frozen=True)
class Model:
    """A Gaussian model of a sum S in the eigenbasis of gradients' products: S has mean −s m and covariance λ I + s² Hᵀ H / 4.

    The rows of H are the gradients of n candidates, and centred ones of fresh examples for those that the server does not know.

    Args:
        values_M, vectors_MM: the eigenvalues and eigenvectors of H Hᵀ.
        sum_M, mean_M: H S and H m in that basis.
        squares: ‖S‖², ⟨S, m⟩ and ‖m‖².
        candidates: n.
        size: D.
    """

    values_M: FloatArray
    vectors_MM: FloatArray
    sum_M: FloatArray
    mean_M: FloatArray
    squares: tuple[float, float, float]
    candidates: int
    size: int

    @classmethod
    def of(cls, gram_MM: FloatArray, along_M: FloatArray, square: float, size: int, fresh: int, unknown: float) -> Self:
        """The model of a sum.

        Args:
            gram_MM: ⟨g_i, g_j⟩ of candidates and then of fresh examples.
            along_M: ⟨g_i, S⟩.
            square: ‖S‖².
            size: D.
            fresh: how many of the M examples are fresh.
            unknown: how many examples that the server does not know are in the sum.
        """
        n = len(along_M) - fresh
        # A half of each candidate, and the unknown examples.
        share_M = np.concatenate([np.full(n, 0.5), np.full(fresh, unknown / fresh if fresh else 0.0)])
        turn_MM = np.eye(n + fresh)
        turn_MM[n:, n:] -= 1 / max(fresh, 1)
        turn_MM[n:, n:] *= 2 * np.sqrt(unknown / max(fresh - 1, 1))
        values_M, vectors_MM = np.linalg.eigh(turn_MM @ gram_MM @ turn_MM.T)
        towards_M = gram_MM @ share_M
        projected = [vectors_MM.T @ (turn_MM @ one_M) for one_M in (along_M, towards_M)]
        squares = square, float(share_M @ along_M), float(share_M @ towards_M)
        return cls(np.maximum(values_M, 0.0), vectors_MM, projected[0], projected[1], squares, n, size)

    def noise(self, scale: float) -> tuple[float, float]:
        """The λ under which S is most likely if an example's weight s is ``scale``, and minus twice its log-likelihood."""
        kept = self.values_M > 1e-9 * self.values_M.max()
        values_m = self.values_M[kept]
        squares_m = (self.sum_M + scale * self.mean_M)[kept] ** 2 / values_m
        square = self.squares[0] + 2 * scale * self.squares[1] + scale**2 * self.squares[2]
        free, rest = max(self.size - len(values_m), 0), max(square - squares_m.sum(), 0.0)

        def surprise(log_noise: float) -> float:
            noise = np.exp(log_noise)
            spread_m = noise + scale**2 * values_m / 4
            return float((np.log(spread_m) + squares_m / spread_m).sum() + free * log_noise + rest / noise)

        middle = np.log(max(square, 1e-300) / self.size)
        found = optimize.minimize_scalar(surprise, bounds=(middle - 25, middle + 5), method="bounded", options={"xatol": 0.01})
        return float(np.exp(found.x)), float(found.fun)

    def fitted(self, step: float) -> tuple[float, float]:
        """The s and the λ under which S is most likely, s from a hundredth of ``step`` to three times it."""
        scales = step * np.geomspace(0.01, 3.0, 58)
        told = [self.noise(scale) for scale in scales]
        best = int(np.argmin([surprise for _, surprise in told]))
        return float(scales[best]), told[best][0]

    def log_ratios(self, scale: float, noise: float) -> FloatArray:
        """The log-ratio of each candidate, by the covariance of the others (Sherman & Morrison), of shape (n,)."""
        spread_M = noise + scale**2 * self.values_M / 4
        vectors_nM = self.vectors_MM[: self.candidates]
        # H C⁻¹ (S − m) and the diagonal of H C⁻¹ Hᵀ
        towards_n = vectors_nM @ ((self.sum_M + scale * self.mean_M) / spread_M)
        own_n = vectors_nM**2 @ (self.values_M / spread_M)
        found: FloatArray = -scale * towards_n / np.maximum(1 - scale**2 * own_n / 4, 1e-12)
        return found
