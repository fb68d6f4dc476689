"""What a training step spends, as facts: the language between those who add noise and those who count."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveFloat

from privfl.config import Frozen


class LocalTraining(Frozen):
    """One client's local DP-SGD in one round: ``steps`` times the Poisson-sampled Gaussian mechanism.

    In each step every example of the client enters the batch independently with probability ``sample_rate``; its
    gradient is clipped to ``max_grad_norm`` in L2; Gaussian noise of standard deviation
    ``noise_multiplier * max_grad_norm`` is added to their sum; the result is divided by ``expected_batch_size``, which
    depends neither on how many examples were drawn nor on how many there are to draw. An empty batch is a step too.
    """

    sample_rate: PositiveFloat
    steps: NonNegativeInt
    noise_multiplier: PositiveFloat
    max_grad_norm: PositiveFloat
    expected_batch_size: PositiveFloat
