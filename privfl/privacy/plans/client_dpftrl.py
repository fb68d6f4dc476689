"""DP-FTRL plan: a trusted server adds noise that is correlated over rounds."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt

from privfl.adversaries import Adversary
from privfl.config import ExperimentConfig
from privfl.errors import PrivacyError
from privfl.privacy.client_plans import PUBLIC_COHORT, ClientPlan, ClientSettings
from privfl.privacy.cohorts import CohortSampler
from privfl.privacy.events import CorrelatedSum
from privfl.privacy.factorization import BandedToeplitz, BinaryTree, Factorization, Participation
from privfl.privacy.gaussian import gaussian, require_noise
from privfl.privacy.mechanisms import Relation
from privfl.privacy.plans import Federation, PlanState, PlanWords, Release, WeightedSum
from privfl.seeding import Seed
from privfl.tables import contradiction, narrow


@dataclass(frozen=True)
class DpftrlPlan(ClientPlan):
    """DP-FTRL plan: noise on sums, correlated over rounds (Kairouz et al. 2021; Choquette-Choo et al. 2023).

    Round t releases (Σ clip(Δ_k, C) + (C_s⁻¹ Z)_t) / m, with C_s the strategy matrix, Z of independent rows N(0, z²C² I) and
    m the size of every cohort. Later noise cancels part of earlier noise, so sums over rounds have less of it.

    **Guarantees.** All global models together are (ε, δ)-indistinguishable between a run with one client's updates and a run
    in which they are zero. This holds against other clients and against anybody who has the final model. Who takes part is
    public and earns no amplification. The whole run is one Gaussian release, with the sensitivity of a client that takes part
    at most once in any ``separation`` rounds in a row; the cohort sampler keeps to that separation. The server is trusted.

    Edges: every cohort has the size ``size``; a zero or non-finite update contributes zero. A run that ends early has spent
    as much as the whole run. The noise is seeded only, because correlated rows are not integers on a grid.

    Args:
        factorization: ``tree``, or ``banded``: the Toeplitz strategy of least error with ``bands`` diagonals.
        bands: number of bands, at most ``separation``.
        rounds: number of rounds of the whole run.
        separation: no client takes part twice within so many rounds in a row.
        size: number of clients in every cohort.
    """

    factorization: Literal["tree", "banded"]
    bands: int
    rounds: int
    separation: int
    size: int

    trusts_server: ClassVar[bool] = True

    @property
    def relation(self) -> Relation:
        """A client's updates are present or are zero; it takes part in both cases."""
        return "add_or_remove_one"

    @property
    def adversaries(self) -> tuple[Adversary, ...]:
        """All adversaries except the server."""
        return ("external", "client")

    def strategy(self) -> Factorization:
        """C_s, the strategy, which computes its noise row by row."""
        return _strategy(self.factorization, self.rounds, self.bands)

    def planned(self, size: int = 0) -> CorrelatedSum:  # noqa: ARG002
        """The event of every round."""
        participation = Participation(self.separation, -(-self.rounds // self.separation))
        return CorrelatedSum(
            factorization=self.factorization,
            rounds=self.rounds,
            separation=self.separation,
            sensitivity=_sensitivity(self.strategy(), participation),
            noise_multiplier=self._noise(),
            max_update_norm=self.max_update_norm,
            denominator=self.size,
        )

    def at_server(
        self,
        total: WeightedSum,
        state: PlanState,
        round_number: int,
        stream: Seed,
    ) -> Release:
        """See :class:`Plan`."""
        event, strategy = self.planned(), self.strategy()
        fresh_D = gaussian(len(total.sum_D), self._noise() * self.max_update_norm, stream / "noise", total.sum_D.device)
        require_noise(fresh_D, event.noise_multiplier * event.max_update_norm)
        rows_MD = state["rows_MD"].cpu().numpy().copy() if state else strategy.start(len(fresh_D))
        row_D = torch.from_numpy(strategy.advance(rows_MD, round_number, fresh_D.cpu().numpy())).to(fresh_D.device)
        mean_D = (total.sum_D + row_D) / event.denominator
        return Release(mean_D.float(), {"rows_MD": torch.from_numpy(rows_MD)}, event)

    def require_cohorts(self, cohorts: Sequence[Sequence[int]]) -> None:
        """Raise unless each cohort has its size and the separation is kept; the sensitivity assumes both."""
        last: dict[int, int] = {}
        for number, cohort in enumerate(cohorts):
            for client in cohort:
                if number - last.get(client, number - self.separation) < self.separation:
                    raise PrivacyError(
                        f"round {number}: client {client} took part {number - last[client]} rounds before; cohorts of this "
                        f"plan share nobody within {self.separation} rounds: mend the cohort sampler"
                    )
                last[client] = number
            if len(cohort) != self.size:
                raise PrivacyError(f"round {number}: a cohort of {len(cohort)}: must have {self.size}; mend the cohort sampler")


@functools.lru_cache(maxsize=16)
def _strategy(factorization: str, rounds: int, bands: int) -> Factorization:
    return BinaryTree(rounds) if factorization == "tree" else BandedToeplitz.optimised(rounds, min(bands, rounds))


@functools.lru_cache(maxsize=16)
def _sensitivity(strategy: Factorization, participation: Participation) -> float:
    """Sensitivity of a strategy; cached, since every round asks for it and it takes a loop over all rounds."""
    return strategy.sensitivity(participation)


class ClientDpftrl(ClientSettings):
    """DP-FTRL: noise on a trusted server's sums, correlated over rounds (Kairouz 2021, Choquette-Choo 2023).

    ``factorization``: tree aggregation (``tree``), or a ``banded`` Toeplitz matrix with ``bands`` diagonals.
    """

    prices_sum: ClassVar[bool] = True

    factorization: Literal["tree", "banded"] = "banded"
    bands: PositiveInt | None = None

    def check(self, config: ExperimentConfig) -> None:
        """See :class:`PlanSettings`."""
        super().check(config)
        min_separation: int | None = getattr(config.cohort, "min_separation", None)
        if min_separation is None:
            raise contradiction(
                "cohort.kind",
                config.cohort.kind,
                "'client_dpftrl' needs a minimum separation: set cohort.kind = 'separated'",
            )
        if self.randomness == "secure":
            allowed = "correlated noise is not on a grid; set 'seeded', or privacy.kind = 'client_central'"
            raise contradiction("privacy.randomness", "secure", allowed)
        if self.bands is not None and (self.factorization == "tree" or self.bands > min_separation):
            raise contradiction(
                "privacy.bands",
                self.bands,
                f"must be at most cohort.separation = {min_separation}, and absent with factorization = 'tree'; lower it",
            )

    def plan(self, config: ExperimentConfig, federation: Federation) -> DpftrlPlan:
        """See :class:`PlanSettings`."""
        cohort = narrow(config.cohort, CohortSampler)
        assert cohort.min_separation is not None, "check() sees to it"
        return DpftrlPlan(
            **self.shared(),
            factorization=self.factorization,
            bands=self.bands or cohort.min_separation,
            rounds=config.rounds,
            separation=cohort.min_separation,
            size=config.pace.asked(cohort.expected(federation.clients)),
        )

    def words(self, sampler: str) -> PlanWords:  # noqa: ARG002
        """See :class:`PlanSettings`."""
        return PlanWords(
            noise="Each client's whole update is clipped to L2 norm {clip}. The server adds Gaussian noise to their sum. "
            "It is correlated over rounds, and made from independent noise of standard deviation {noise} × {clip}.",
            public=PUBLIC_COHORT,
        )
