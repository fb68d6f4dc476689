"""Who is protected from whom and by how much: one frozen object that training and accounting both read.

======================  =========  ===============================  ==================================================
plan                    unit       protected from                   where the noise is added
======================  =========  ===============================  ==================================================
``none``                                                            nowhere
``example``             example    external, client, server         by each client, to each step's clipped gradients
``client_central``      client     external, client (see there)     by the server, to the sum of clipped updates
``client_local``        client     external, client, server         by each client, to its clipped update
``client_dpftrl``       client     external, client                 by the server, correlated over rounds
``client_distributed``  client     external, client, server         by each client, a share, inside secure aggregation
======================  =========  ===============================  ==================================================

The client-level plans are in :mod:`privfl.privacy.client_plans`; ``client_central`` and ``client_dpftrl`` trust the server.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from privfl.adversaries import Adversary
from privfl.config import (
    AdaptiveClipping,
    AllClients,
    ClientCentral,
    ClientDistributed,
    ClientDpftrl,
    ClientLocal,
    ClientPromise,
    Clipping,
    ExampleLevel,
    ExperimentConfig,
    NoPrivacy,
    PerLayerClipping,
    PoissonCohort,
    SeparatedCohort,
)
from privfl.privacy.client_plans import CentralPlan, ClientPlan, DpftrlPlan, Imagined
from privfl.privacy.draws import Randomness
from privfl.privacy.events import LocalTraining, Unit
from privfl.privacy.mechanisms import Relation
from privfl.privacy.own_noise_plans import DistributedPlan, LocalPlan


@dataclass(frozen=True)
class NoPlan:
    """Nothing is promised and no noise is added."""


@dataclass(frozen=True)
class ExamplePlan:
    """Example-level DP-SGD at each client (Abadi et al. 2016, algorithm 1).

    **Guarantees.** For each client k: the joint distribution of everything that client k ever sends is
    (ε_k, δ)-indistinguishable when one of its examples is trained on or is not, to any adversary, the server included,
    and with secure aggregation or without. ε_k is the price of the events that the ledger holds for k. Clients hold
    disjoint data, so the promise to every example is max_k ε_k (parallel composition, McSherry 2009).

    The client's *size* N_k is the number of examples that it owns, whether it trains on them or not. It is public and
    does not change with a neighbouring data set: sample rate, number of steps, denominator and weight are computed from
    it alone. Were they computed from the number of examples trained on, one example more could show as one step more,
    and no ε would hold. The noise multiplier and the cohorts are public too; seeded noise is drawn in floating point,
    whose rounding (Mironov 2012) the guarantee neglects.

    ===========================  =====================================================================================
    edge                         what happens
    ===========================  =====================================================================================
    client smaller than a batch  sample rate 1: full-batch steps, no amplification
    empty batch                  a step of pure noise; taken and counted
    non-finite gradient          counts as zero: the example contributes nothing, the sensitivity stays
    client that never took part  ε_k = 0
    ===========================  =====================================================================================

    Args:
        noise_multiplier: standard deviation of the noise over ``max_grad_norm``; None until it is calibrated.
        max_grad_norm: the L2 norm to which each example's gradient is clipped.
        delta: the δ at which ε is stated.
        budget: no client's ε may exceed this; None: no limit.
        batch_size: B, the expected number of examples in a batch.
        local_epochs, local_steps: how long a client trains in a round; one of the two.
        sampler: how batches are drawn; ``shuffle`` is priced without any amplification by sampling.
        randomness: where noise and batches come from.
        scheme: the whole gradient at once, or each of L layers to ``max_grad_norm``/√L.
    """

    noise_multiplier: float | None
    max_grad_norm: float
    delta: float
    budget: float | None
    batch_size: int
    local_epochs: int | None
    local_steps: int | None
    sampler: Literal["poisson", "shuffle"] = "poisson"
    randomness: Randomness = "seeded"
    scheme: Literal["flat", "per_layer"] = "flat"

    unit: ClassVar[Unit] = "example"
    relation: ClassVar[Relation] = "add_or_remove_one"
    adversaries: ClassVar[tuple[Adversary, ...]] = ("external", "client", "server")

    @property
    def clip(self) -> float:
        """C, the L2 norm that one unit's contribution is clipped to."""
        return self.max_grad_norm

    def sample_rate(self, size: int) -> float:
        """Q = B / N, at most 1."""
        return min(1.0, self.batch_size / size)

    def steps(self, size: int) -> int:
        """Local steps a round. An epoch is ⌈1/q⌉ steps: each example is expected at least once."""
        if self.local_steps is not None:
            return self.local_steps
        assert self.local_epochs is not None
        return self.local_epochs * math.ceil(size / self.batch_size)

    def local_training(self, size: int) -> LocalTraining:
        """What a client of that size does in one round.

        Args:
            size: N ≥ 1, the examples that the client owns.
        """
        assert self.noise_multiplier is not None, "the plan was not calibrated"
        rate = self.sample_rate(size)
        return LocalTraining(
            sampler=self.sampler,
            sample_rate=rate,
            steps=self.steps(size),
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            expected_batch_size=rate * size,
        )

    def calibrated(self, noise_multiplier: float) -> ExamplePlan:
        """The same plan with its noise fixed."""
        return replace(self, noise_multiplier=noise_multiplier)


Plan = NoPlan | ExamplePlan | ClientPlan


@dataclass(frozen=True)
class Federation:
    """What a plan must know of the federation: how many clients there are, how many at most take part in a round, and D."""

    clients: int
    largest_cohort: int
    dimension: int


def plan_for(config: ExperimentConfig, federation: Federation) -> Plan:
    """The plan that a configuration describes; not yet calibrated where a target ε is given.

    Args:
        config: the whole of it: sampling, cohort and aggregator are part of what is promised.
        federation: the facts that are not in it.
    """
    privacy, training = config.privacy, config.training
    if isinstance(privacy, NoPrivacy):
        return NoPlan()
    if isinstance(privacy, ExampleLevel):
        return ExamplePlan(
            noise_multiplier=privacy.noise_multiplier,
            max_grad_norm=privacy.max_grad_norm,
            delta=privacy.delta,
            budget=privacy.budget,
            batch_size=training.batch_size,
            local_epochs=training.local_epochs,
            local_steps=training.local_steps,
            sampler=privacy.sampler,
            randomness=privacy.randomness,
            scheme=_scheme(privacy.clipping),
        )
    return _client_plan(config, privacy, federation)


def _scheme(clipping: Clipping) -> Literal["flat", "per_layer"]:
    return "per_layer" if isinstance(clipping, PerLayerClipping) else "flat"


def _client_plan(config: ExperimentConfig, privacy: ClientPromise, federation: Federation) -> ClientPlan:
    cohort, clipping, clients = config.cohort, privacy.clipping, federation.clients
    size = clients if isinstance(cohort, AllClients) else cohort.size
    shared: dict[str, Any] = {
        "noise_multiplier": privacy.noise_multiplier,
        "max_update_norm": privacy.max_update_norm,
        "delta": privacy.delta,
        "budget": privacy.budget,
        "scheme": _scheme(clipping),
        "randomness": privacy.randomness,
    }
    match privacy:
        case ClientCentral(imagined=imagined):
            return CentralPlan(
                **shared,
                sampler="poisson" if isinstance(cohort, PoissonCohort) else "all" if size == clients else "fixed",
                population=clients,
                size=size,
                names_cohort=bool(getattr(config.aggregator, "hides_updates", False)),
                adaptive=clipping if isinstance(clipping, AdaptiveClipping) else None,
                imagined=Imagined(imagined.population, imagined.cohort) if imagined is not None else None,
            )
        case ClientDpftrl(factorization=factorization, bands=bands):
            assert isinstance(cohort, SeparatedCohort), "the configuration sees to it"
            return DpftrlPlan(
                **shared,
                factorization=factorization,
                bands=bands or cohort.separation,
                rounds=config.rounds,
                separation=cohort.separation,
                size=cohort.size,
            )
        case ClientLocal():
            return LocalPlan(**shared)
        case ClientDistributed(mechanism=mechanism, bits=bits, survivors=survivors):
            return DistributedPlan(
                **shared,
                mechanism=mechanism,
                bits=bits,
                survivors=survivors,
                dimension=federation.dimension,
                clients=max(federation.largest_cohort, survivors),
            )
    raise AssertionError(f"a plan for {type(privacy).__name__} is missing")
