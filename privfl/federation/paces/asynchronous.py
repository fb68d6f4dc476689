"""Asynchronous steps: the server mixes each client's model into its own as soon as it arrives (FedAsync, Xie et al. 2019)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from privfl.config import ExperimentConfig
from privfl.federation.paces._in_flight import InFlight
from privfl.tables import contradiction


class Asynchronous(InFlight):
    """x ← (1 − a_s) x + a_s y with a_s = ``mixing`` · (1 + s)^−``exponent``, for the model y of one client that trained
    from x_{t−s} with the paper's polynomial weights.

    The update y − x_{t−s} is what the client sends; the rest of the rule is the server's, and public. A single update is
    applied, so there is no sum that could hide it, and nothing to amplify: only noise that each client adds itself protects
    it.
    """

    mixing: Annotated[float, Field(gt=0, le=1)] = 0.6

    @property
    def group(self) -> int:
        """One."""
        return 1

    def check(self, config: ExperimentConfig) -> None:
        """See the contract."""
        if config.privacy.promises and not config.privacy.noises_messages:
            raise contradiction(
                "privacy.kind",
                config.privacy.kind,
                "protects a sum of several updates, and pace 'asynchronous' applies one at a time; set 'example' or "
                "'client_local', or pace.kind = 'buffered'",
            )
        super().check(config)

    def direction(self, direction_D: Tensor, global_D: Tensor, start_D: Tensor, staleness: int) -> Tensor:
        """a_s (y − x), with y = x_{t−s} + ``direction_D``."""
        rate = self.mixing * float((1 + staleness) ** -self.exponent)
        return rate * (direction_D + (start_D - global_D))

    def way_out(self, least: int) -> str:  # noqa: ARG002
        """An aggregator in the clear, or groups."""
        return "set aggregator.kind = 'mean', or pace.kind = 'buffered'"

    def words(self) -> str:
        """See the contract."""
        return "so many train at a time, and each one's model is mixed into the global one as soon as it is done"
