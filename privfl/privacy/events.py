"""Privacy events: records of the noised releases of a round, which plans write and the ledger keeps.

An event states the unit that it protects (``unit``) and the mechanisms by which it is priced (:meth:`releases`, see
:mod:`privfl.privacy.mechanisms`). A ledger holds events of one unit only.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from privfl.privacy.mechanisms import (
    DiscreteGaussianSum,
    FixedSizeGaussian,
    Gaussian,
    History,
    MatrixGaussian,
    Mechanism,
    PoissonGaussian,
    Relation,
    ShuffledEpoch,
    SkellamSum,
)
from privfl.tables import Frozen

Unit = Literal["example", "client"]
"""The unit of privacy: one example, or all data of one client."""


class _Event(Frozen):
    """An event of the ledger."""

    def without_norm(self) -> Self:
        """The event without the norm, which may adapt; the noise is relative to the norm, so the price does not use it."""
        return self


class LocalTraining(_Event):
    """One client's local DP-SGD in one round: ``steps`` applications of the Gaussian mechanism, each on a batch.

    With ``sampler = "poisson"`` every example of the client enters each step's batch independently with probability
    ``sample_rate``. With ``"shuffle"`` batches are cut from a shuffled order, so each example is in one batch of an epoch.
    Each gradient is clipped to L2 norm ``max_grad_norm``. Gaussian noise of standard deviation
    ``noise_multiplier * max_grad_norm`` is added to their sum. The result is divided by ``expected_batch_size``, which
    depends neither on how many examples were drawn nor on how many there are to draw. An empty batch counts as a step.
    """

    kind: Literal["local_training"] = "local_training"
    sampler: Literal["poisson", "shuffle"] = "poisson"
    sample_rate: PositiveFloat
    steps: NonNegativeInt
    noise_multiplier: PositiveFloat
    max_grad_norm: PositiveFloat
    expected_batch_size: PositiveFloat

    unit: ClassVar[Unit] = "example"

    def releases(self, times: int, relation: Relation = "add_or_remove_one") -> History:
        """The releases of ``times`` such rounds about one example."""
        if self.sampler == "poisson":
            return History({PoissonGaussian(self.sample_rate, self.noise_multiplier, relation): self.steps * times})
        # The slack absorbs rounding: the inverse of a rate such as 1/49 may be slightly above 49.
        epochs = math.ceil(self.steps / math.ceil(1 / self.sample_rate - 1e-9)) * times
        if relation == "replace_one":
            return History({Gaussian(self.noise_multiplier, relation): epochs})
        return History({ShuffledEpoch(self.noise_multiplier): epochs})


class CohortSum(_Event):
    """A trusted server's release of one round: the sum of a secret cohort's clipped updates, with Gaussian noise.

    ``size`` of ``population`` clients were drawn: on average if ``poisson``, exactly if ``fixed``; ``all`` is everybody.
    The noise on the sum has standard deviation ``noise_multiplier * max_update_norm``. The sum is divided by
    ``denominator``, whichever clients came. ``count_noise`` is the standard deviation of the noise on the count of updates
    within the norm; None if the norm does not adapt.
    """

    kind: Literal["cohort_sum"] = "cohort_sum"
    sampler: Literal["poisson", "fixed", "all"]
    population: PositiveInt
    size: PositiveInt
    noise_multiplier: PositiveFloat
    max_update_norm: PositiveFloat
    denominator: PositiveFloat
    count_noise: PositiveFloat | None = None

    unit: ClassVar[Unit] = "client"

    def without_norm(self) -> Self:
        """The event with a norm of 1, because the norm may adapt."""
        return self.model_copy(update={"max_update_norm": 1.0})

    @property
    def total_noise_multiplier(self) -> float:
        """z, noise multiplier of update and count together; they contribute 1/z_Δ and 1/(2σ_b) (Andrew 2021, theorem 1)."""
        if self.count_noise is None:
            return self.noise_multiplier
        # z = (z_Δ⁻² + (2σ_b)⁻²)^(−1/2)
        return float(f"{(self.noise_multiplier**-2 + (2 * self.count_noise) ** -2) ** -0.5:.12g}")

    def releases(self, times: int, relation: Relation = "add_or_remove_one") -> History:
        """The releases of ``times`` such rounds about one client; always under ``replace_one`` if the size is fixed."""
        noise = self.total_noise_multiplier
        one: Mechanism
        match self.sampler:
            case "poisson":
                one = PoissonGaussian(self.size / self.population, noise, relation)
            case "fixed":
                one = FixedSizeGaussian(self.population, self.size, noise)
            case "all":
                one = Gaussian(noise, relation)
        return History({one: times})


class NoisyUpdate(_Event):
    """One client's own release of one round: its clipped update with Gaussian noise.

    The update is clipped to L2 norm ``max_update_norm``; the noise has standard deviation
    ``noise_multiplier * max_update_norm``.
    """

    kind: Literal["noisy_update"] = "noisy_update"
    noise_multiplier: PositiveFloat
    max_update_norm: PositiveFloat

    unit: ClassVar[Unit] = "client"

    def releases(self, times: int, relation: Relation = "add_or_remove_one") -> History:
        """The releases of ``times`` such rounds about this client."""
        return History({Gaussian(self.noise_multiplier, relation): times})


class CorrelatedSum(_Event):
    """A trusted server's release of one round of DP-FTRL: a sum of clipped updates with one row of correlated noise.

    The rows of noise are C⁻¹ times independent rows of standard deviation ``noise_multiplier * max_update_norm``; C is the
    strategy matrix. ``sensitivity`` is the distance, over ``max_update_norm``, that one client can move C times the stream
    of sums if no client takes part twice within ``separation`` of the ``rounds`` rounds. The sum is divided by
    ``denominator``.
    """

    kind: Literal["correlated_sum"] = "correlated_sum"
    factorization: Literal["tree", "banded"]
    rounds: PositiveInt
    separation: PositiveInt
    sensitivity: PositiveFloat
    noise_multiplier: PositiveFloat
    max_update_norm: PositiveFloat
    denominator: PositiveFloat

    unit: ClassVar[Unit] = "client"

    def releases(self, times: int, relation: Relation = "add_or_remove_one") -> History:
        """The release of the first ``times`` rounds about one client: one Gaussian release, priced as the whole run."""
        return History({MatrixGaussian(self.noise_multiplier, self.sensitivity, relation): min(times, 1)})


class NoiseShare(_Event):
    """One client's part in one secure sum: an integer vector with integer noise of ``variance`` on each entry.

    The sum holds the noise of at least ``survivors`` clients. The fields are those of the codec that made the vector
    (:mod:`privfl.privacy.distributed`).
    """

    kind: Literal["noise_share"] = "noise_share"
    mechanism: Literal["skellam", "discrete_gaussian"]
    sensitivity_l1: PositiveFloat
    sensitivity_l2: PositiveFloat
    dimension: PositiveInt
    variance: PositiveFloat
    survivors: PositiveInt
    max_update_norm: PositiveFloat

    unit: ClassVar[Unit] = "client"

    def releases(self, times: int, relation: Relation = "add_or_remove_one") -> History:
        """The releases of ``times`` such rounds about this client; under ``replace_one`` its vector moves twice as far."""
        moved = 2.0 if relation == "replace_one" else 1.0
        make = SkellamSum if self.mechanism == "skellam" else DiscreteGaussianSum
        one = make(moved * self.sensitivity_l1, moved * self.sensitivity_l2, self.dimension, self.variance, self.survivors)
        return History({one: times})


Event = Annotated[LocalTraining | CohortSum | NoisyUpdate | CorrelatedSum | NoiseShare, Field(discriminator="kind")]
