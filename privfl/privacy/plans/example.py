"""Example-level DP-SGD plan: each client clips its examples' gradients and adds noise in local training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from privfl.adversaries import Adversary
from privfl.config import ExperimentConfig
from privfl.errors import ConfigError
from privfl.privacy.events import LocalTraining, Unit
from privfl.privacy.gaussian import Randomness
from privfl.privacy.mechanisms import Relation
from privfl.privacy.plans import DpSgdPlan, Federation, PlanWords, PromiseSettings
from privfl.privacy.plans._clipping import FixedClipping, FlatClipping, scheme_of
from privfl.tables import Size, contradiction


@dataclass(frozen=True)
class ExamplePlan(DpSgdPlan):
    """Example-level DP-SGD plan, at each client (Abadi et al. 2016, algorithm 1).

    **Guarantees.** For each client k, the joint distribution of everything that k ever sends is (ε_k, δ)-indistinguishable
    between a run that trains on one of its examples and a run that does not. This holds against every adversary, the server
    included, with or without secure aggregation. ε_k is the price of the events that the ledger holds for k. Clients hold
    disjoint data, so the guarantee for every example is max_k ε_k (parallel composition, McSherry 2009).

    The client's *size* N_k is the number of examples that it owns, whether it trains on them or not. It is public and the
    same in neighbouring data sets. Sample rate, number of steps, denominator and weight are computed from it alone. If they
    were computed from the number of examples trained on, one more example could show as one more step, and no ε would hold.
    The noise multiplier and the cohorts are public too. Seeded noise is drawn in floating point, and the guarantee neglects
    its rounding (Mironov 2012).

    ===========================  =====================================================================================
    edge                         result
    ===========================  =====================================================================================
    client smaller than a batch  sample rate 1: full-batch steps, no amplification
    empty batch                  a step of pure noise, which is taken and counted
    non-finite gradient          counts as zero, so the sensitivity is unchanged
    client that never took part  ε_k = 0
    ===========================  =====================================================================================

    Args:
        noise_multiplier: standard deviation of the noise over ``max_grad_norm``; None until it is calibrated.
        max_grad_norm: the L2 norm to which each example's gradient is clipped.
        delta: the δ at which ε is stated.
        budget: the largest ε allowed for any client; None: no limit.
        batch_size: B, the expected number of examples in a batch.
        local_epochs, local_steps: length of a client's training in a round; one of the two is None.
        sampler: sampling of batches; ``shuffle`` is priced without amplification by sampling.
        randomness: source of noise and batches.
        scheme: clips the whole gradient at once, or each of L layers to ``max_grad_norm``/√L.
        statistics: noise multipliers of Gaussian releases about the examples of a single client before the first round, from
            which its inputs were computed.
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
    # Not in the representation, which names a run's noise: the data depend on the statistics already.
    statistics: tuple[float, ...] = field(default=(), repr=False)

    unit: ClassVar[Unit] = "example"
    relation: ClassVar[Relation] = "add_or_remove_one"
    adversaries: ClassVar[tuple[Adversary, ...]] = ("external", "client", "server")

    def sample_rate(self, size: int) -> float:
        """The sample rate q = B / N, at most 1."""
        return min(1.0, self.batch_size / size)

    def steps(self, size: int) -> int:
        """Number of local steps in a round; an epoch is ⌈1/q⌉ steps, so each example is expected at least once."""
        if self.local_steps is not None:
            return self.local_steps
        assert self.local_epochs is not None
        return self.local_epochs * math.ceil(size / self.batch_size)

    @property
    def accounted_sampler(self) -> str:
        """The sampler of the batches."""
        return self.sampler

    def as_if_poisson(self) -> ExamplePlan | None:
        """The same plan with Poisson batches; None unless batches are shuffled."""
        return replace(self, sampler="poisson") if self.sampler == "shuffle" else None

    def planned(self, size: int) -> LocalTraining:
        """The local training of a client of this size in one round.

        Args:
            size: N ≥ 1, number of examples that the client owns.
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


class Example(PromiseSettings):
    """Example-level DP-SGD at every client (Abadi 2016): add or remove one example, also against the server.

    ``sampler``: ``poisson`` batches earn amplification by sampling; ``shuffle`` is priced without any. ``clipping``: clips the
    whole gradient at once, or layer by layer.
    """

    noises_messages: ClassVar[bool] = True
    prices_statistics: ClassVar[bool] = True

    max_grad_norm: Size
    sampler: Literal["poisson", "shuffle"] = "poisson"
    clipping: FixedClipping = FlatClipping(kind="flat")

    def check(self, config: ExperimentConfig) -> None:
        """Refuse a second clipping of a batch's gradient, whose examples are clipped already."""
        if (norm := config.training.max_grad_norm) is not None:
            raise contradiction(
                "training.max_grad_norm",
                norm,
                "must be absent, as privacy.kind = 'example' clips each example's gradient to privacy.max_grad_norm; remove it",
            )

    def check_data(self, clients: int, examples: int) -> None:  # noqa: ARG002
        """Require δ < 1/N, with N the number of all examples that clients own."""
        if self.delta >= 1 / examples:
            raise ConfigError(
                f"privacy.delta = {self.delta:g}: must be below 1/N = 1/{examples}, one over all examples; lower it"
            )

    def plan(self, config: ExperimentConfig, federation: Federation) -> ExamplePlan:
        """See :class:`PlanSettings`."""
        training = config.training
        return ExamplePlan(
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            delta=self.delta,
            budget=self.budget,
            batch_size=training.batch_size,
            local_epochs=training.local_epochs,
            local_steps=training.local_steps,
            sampler=self.sampler,
            randomness=self.randomness,
            scheme=scheme_of(self.clipping),
            statistics=federation.statistics,
        )

    def words(self, sampler: str) -> PlanWords:  # noqa: ARG002
        """See :class:`PlanSettings`."""
        return PlanWords(
            noise="Each example's gradient is clipped to L2 norm {clip}. The client adds Gaussian noise of standard deviation "
            "{noise} × {clip} to the sum of each step.",
            public="The number of examples of each client, the cohort of each round, and the settings of the run.",
        )
