"""Single clients' updates from sums and from the record of who took part (Lam et al. 2021, "Gradient disaggregation: breaking
privacy in federated learning by reconstructing the user participant matrix").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from attacks import Attack
from attacks.membership import BoolArray, FloatArray
from attacks.membership._gradients import Gradients
from privfl.adversaries import Adversary
from privfl.auditing.questions.membership import MembershipClaim
from privfl.errors import ConfigError, ViewError
from privfl.running.knowledge import Knowledge, Prospect
from privfl.running.views import ServerView, View

_NUMBERS: Final = 2**26
"""So many numbers of clients' updates are in memory at once: 512 MiB of float64."""


class Disaggregation(Attack):
    """Does a client's usual update, solved for from many sums, go against the gradient of this example?

    With P who took part (rounds by clients, 0 or 1) and S the sums of the rounds, the least-squares solution of P U = S has a
    row for each client. It is its (weighted) update if that is the same in all rounds, and a mean of them if it drifts. P must
    have as many independent rounds as there are clients; the server has it, and need not guess it as the authors do.

    Variants:
        ``cosine``: the mean, over the rounds with the example's client, of the cosine between minus that row and the gradient
        of the example's loss at the model that the round began with.
    """

    adversary: ClassVar[Adversary] = "server"

    question: ClassVar[str] = "membership"

    threat: ClassVar[str] = "A server that sees sums of updates, and who took part, wants each client's update back."

    needs: ClassVar[str] = "the sums of as many rounds as there are clients"

    cost: ClassVar[str] = "a pass forward and backward over the candidates, and a system of equations"

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.Attack`: the cohorts tell the clients apart."""
        super().require_possible(prospect)
        present_TK = _present(prospect.cohorts, range(prospect.clients))
        if why := _unsolved(present_TK):
            raise ConfigError(f"rounds = {len(present_TK)}: {self.kind!r} {why}")

    def run(self, view: View, knowledge: Knowledge) -> MembershipClaim:
        """See :class:`attacks.Attack`.

        Raises:
            ViewError: those whose updates arrived do not tell the clients apart.
        """
        assert isinstance(view, ServerView)
        candidates = knowledge.candidates
        rounds = [number for number in view.rounds() if view.survivors(number)]
        there = [view.survivors(number) for number in rounds]
        clients = sorted({client for one in there for client in one} | set(candidates.client_N.tolist()))
        present_TK = _present(there, clients)
        if why := _unsolved(present_TK):
            raise ViewError(f"{self.kind!r} {why}")
        total_N = np.zeros(len(candidates))
        at_once = max(1, _NUMBERS // view.layout.size)
        inverse_KT = np.linalg.pinv(present_TK.astype(np.float64))
        for start in range(0, len(clients), at_once):
            some = slice(start, start + at_once)
            solved_KD = solve(inverse_KT[some], (view.sums(number)[0] for number in rounds))
            solved = dict(zip(clients[some], solved_KD, strict=True))
            for number, survivors in zip(rounds, there, strict=True):
                gradients = Gradients(knowledge.network, candidates, view.model_before(number))
                for client in sorted(solved.keys() & set(survivors)):
                    rows_n = np.flatnonzero(candidates.client_N == client)
                    total_N[rows_n] += gradients.cosines(solved[client], rows_n)
        count_K = dict(zip(clients, present_TK.sum(0), strict=True))
        return MembershipClaim({"cosine": total_N / np.array([count_K[int(client)] for client in candidates.client_N])})


def solve(inverse_KT: FloatArray, sums: Iterable[Tensor]) -> Tensor:
    """Updates of shape (K, D) in float64, from the sums of T rounds, which are read one at a time.

    Args:
        inverse_KT: the pseudo-inverse of who took part.
        sums: the sum of each round, of length D.
    """
    inverse = torch.from_numpy(inverse_KT)
    solved_KD = torch.zeros(0)
    for t, sum_D in enumerate(sums):
        if not t:
            solved_KD = torch.zeros(len(inverse), len(sum_D), dtype=torch.float64)
        solved_KD.addr_(inverse[:, t], sum_D.double())
    return solved_KD


def _present(cohorts: Iterable[Iterable[int]], clients: Sequence[int]) -> BoolArray:
    """Who took part, of shape (T, K)."""
    return np.stack([np.isin(clients, list(cohort)) for cohort in cohorts])


def _unsolved(present_TK: BoolArray) -> str:
    """Why the rounds do not tell the clients apart; empty if they do."""
    (rounds, clients), rank = present_TK.shape, int(np.linalg.matrix_rank(present_TK.astype(np.float64)))
    if rank == clients:
        return ""
    return (
        f"must tell {clients} clients apart, and only {rank} of these {rounds} rounds have independent cohorts; "
        "set rounds higher, and cohort.kind = 'poisson' or 'fixed', of a size below the number of clients"
    )
