"""Checks of settings that several paces share."""

from __future__ import annotations

from privfl.config import ExperimentConfig, PaceConfig
from privfl.tables import contradiction


def require_clock(pace: PaceConfig, config: ExperimentConfig) -> None:
    """Raise unless clients have durations.

    Raises:
        PydanticCustomError: names the clock.
    """
    if not config.clock.ticks:
        raise contradiction(
            "clock.kind",
            config.clock.kind,
            f"pace {pace.kind!r} needs to know how long clients take; set 'constant', 'lognormal' or 'half_normal'",
        )
