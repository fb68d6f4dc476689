"""What was done and what it spends, as facts: the language between those who add noise and those who count.

An event says whom it protects (``unit``) and how its releases are priced (:meth:`releases`, in the words of
:mod:`privfl.privacy.mechanisms`). Units are never mixed: a ledger holds one of them.
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
"""What one row of protection is."""


class _Event(Frozen):
    """An event of the ledger."""

    def but_for_norm(self) -> Self:
        """The event with any norm that may change within a run taken out: noise is relative to it, and so is its price."""
        return self


class LocalTraining(_Event):
    """One client's local DP-SGD in one round: ``steps`` times the Gaussian mechanism on a batch.

    ``sampler = "poisson"``: in each step every example of the client enters the batch independently with probability
    ``sample_rate``. ``"shuffle"``: batches are cut from a shuffled order, each example is in one of an epoch. Each
    gradient is clipped to ``max_grad_norm`` in L2; Gaussian noise of standard deviation
    ``noise_multiplier * max_grad_norm`` is added to their sum; the result is divided by ``expected_batch_size``, which
    depends neither on how many examples were drawn nor on how many there are to draw. An empty batch is a step too.
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
        """What ``times`` such rounds release about one example."""
        if self.sampler == "poisson":
            return History({PoissonGaussian(self.sample_rate, self.noise_multiplier, relation): self.steps * times})
        # A small slack: a rate such as 1/49 may have an inverse a hair above 49.
        epochs = math.ceil(self.steps / math.ceil(1 / self.sample_rate - 1e-9)) * times
        if relation == "replace_one":
            return History({Gaussian(self.noise_multiplier, relation): epochs})
        return History({ShuffledEpoch(self.noise_multiplier): epochs})


class CohortSum(_Event):
    """A trusted server's release of one round: the sum of a secret cohort's clipped updates, with Gaussian noise.

    ``size`` of ``population`` clients were drawn: on average by ``poisson``, exactly by ``fixed``; ``all`` is everybody.
    The noise on the sum has standard deviation ``noise_multiplier * max_update_norm``; the sum is divided by
    ``denominator`` whoever came. ``count_noise`` is the standard deviation of the noise on the count of updates within
    the norm, where the norm adapts.
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

    def but_for_norm(self) -> Self:
        """With a norm of 1: it may adapt."""
        return self.model_copy(update={"max_update_norm": 1.0})

    @property
    def total_noise_multiplier(self) -> float:
        """z: of update and count together, a client contributing 1/z_Δ and 1/(2σ_b) (Andrew 2021, theorem 1)."""
        if self.count_noise is None:
            return self.noise_multiplier
        # z = (z_Δ⁻² + (2σ_b)⁻²)^(−1/2)
        return float(f"{(self.noise_multiplier**-2 + (2 * self.count_noise) ** -2) ** -0.5:.12g}")

    def releases(self, times: int, relation: Relation = "add_or_remove_one") -> History:
        """What ``times`` such rounds release about one client. A cohort of fixed size knows replacement only."""
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
    """One client's own release of one round: its update clipped to ``max_update_norm``, with Gaussian noise of
    standard deviation ``noise_multiplier * max_update_norm``.
    """

    kind: Literal["noisy_update"] = "noisy_update"
    noise_multiplier: PositiveFloat
    max_update_norm: PositiveFloat

    unit: ClassVar[Unit] = "client"

    def releases(self, times: int, relation: Relation = "add_or_remove_one") -> History:
        """What ``times`` such rounds release about this client."""
        return History({Gaussian(self.noise_multiplier, relation): times})


class CorrelatedSum(_Event):
    """A trusted server's release of one round of DP-FTRL: a sum of clipped updates with one row of correlated noise.

    The rows are C⁻¹ times independent rows of standard deviation ``noise_multiplier * max_update_norm``, C being the
    strategy. ``sensitivity`` is how far one client moves C times the stream, over ``max_update_norm``, when no client
    takes part twice within ``separation`` of ``rounds`` rounds. The sum is divided by ``denominator``.
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
        """What the first ``times`` rounds release about one client: together one Gaussian release, of the whole run."""
        return History({MatrixGaussian(self.noise_multiplier, self.sensitivity, relation): min(times, 1)})


class NoiseShare(_Event):
    """One client's part in one secure sum: integers with integer noise of ``variance``, at least ``survivors`` of which
    are in the sum for certain. Facts of the codec that made it (:mod:`privfl.privacy.distributed`).
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
        """What ``times`` such rounds release about this client; under ``replace_one`` its vector moves twice as far."""
        moved = 2.0 if relation == "replace_one" else 1.0
        make = SkellamSum if self.mechanism == "skellam" else DiscreteGaussianSum
        one = make(moved * self.sensitivity_l1, moved * self.sensitivity_l2, self.dimension, self.variance, self.survivors)
        return History({one: times})


Event = Annotated[LocalTraining | CohortSum | NoisyUpdate | CorrelatedSum | NoiseShare, Field(discriminator="kind")]
