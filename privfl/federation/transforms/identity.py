"""The identity: payloads are sent whole, as in FedAvg (McMahan et al. 2017)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from privfl.config import ExperimentConfig
from privfl.federation.transforms import Shared, Transform
from privfl.seeding import Seed


class Identity(Transform):
    """No compression: D' numbers of four bytes, no error. It goes with every plan, aggregator and algorithm."""

    linear: ClassVar[bool] = True

    def check(self, config: ExperimentConfig) -> None:
        """It goes with everything."""

    def compress(self, payload_D: Tensor, shared: Shared, own: Seed) -> Tensor:  # noqa: ARG002
        """The payload itself."""
        return payload_D
