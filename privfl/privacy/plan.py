"""Who is protected from whom and by how much: one frozen object that training and accounting both read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from privfl.config import ExampleLevel, NoPrivacy, TrainingConfig
from privfl.privacy.events import LocalTraining


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
    and no ε would hold. The noise multiplier and the cohorts are public too; noise is drawn in floating point, whose
    rounding (Mironov 2012) the guarantee neglects.

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
    """

    noise_multiplier: float | None
    max_grad_norm: float
    delta: float
    budget: float | None
    batch_size: int
    local_epochs: int | None
    local_steps: int | None

    unit: ClassVar[Literal["example"]] = "example"
    relation: ClassVar[str] = "add or remove one example, client sizes fixed"
    sampler: ClassVar[str] = "Poisson"
    adversaries: ClassVar[tuple[str, ...]] = ("external", "client", "server")

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
            sample_rate=rate,
            steps=self.steps(size),
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            expected_batch_size=rate * size,
        )

    def calibrated(self, noise_multiplier: float) -> ExamplePlan:
        """The same plan with its noise fixed."""
        return replace(self, noise_multiplier=noise_multiplier)


Plan = NoPlan | ExamplePlan


def plan_for(privacy: NoPrivacy | ExampleLevel, training: TrainingConfig) -> Plan:
    """The plan that a configuration describes; not yet calibrated where a target ε is given."""
    if isinstance(privacy, NoPrivacy):
        return NoPlan()
    return ExamplePlan(
        noise_multiplier=privacy.noise_multiplier,
        max_grad_norm=privacy.max_grad_norm,
        delta=privacy.delta,
        budget=privacy.budget,
        batch_size=training.batch_size,
        local_epochs=training.local_epochs,
        local_steps=training.local_steps,
    )
