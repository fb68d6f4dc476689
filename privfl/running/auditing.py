"""Turns a configuration into that of its audit: with canaries, and with the audits that it allows."""

from __future__ import annotations

from privfl.config import ExperimentConfig
from privfl.loading import loads


def audited(config: ExperimentConfig, count: int | None = None, kind: str | None = None) -> ExperimentConfig:
    """The configuration of an audit.

    Args:
        config: the run that is to be audited. Canaries that it has stay, with what is given here changed in them.
        count: M, how many canaries are planted; None: as many as the configuration says, else 1,000.
        kind: the canaries' name on their shelf; None: that of the configuration, else the strongest that its plan allows:
            gradients for single examples, clients for whole clients, mislabelled examples without a promise.

    Raises:
        ConfigError: the canaries do not go with the other settings.
    """
    canaries = {} if config.canaries is None else config.canaries.model_dump()
    if kind is not None and kind != canaries.get("kind"):
        canaries = {"kind": kind, **({"count": canaries["count"]} if canaries else {})}
    canaries.setdefault("kind", _strongest(config))
    if count is not None:
        canaries["count"] = count
    names = ["auditing/one_run", "auditing/noise", "auditing/two_gaussians"]
    if config.records.views != "final":
        names += ["auditing/one_run_rounds", "auditing/noise_rounds"]
    table = config.model_dump(exclude_none=True)
    table |= {"name": f"{config.name}-audit", "canaries": canaries, "attacks": {"run": names, "shadow_models": 0}}
    made = loads(table)
    if getattr(made.canaries, "direction", None) == "random":
        table["attacks"] = {"run": [*names, "auditing/one_shot"], "shadow_models": 0}
        made = loads(table)
    return made


def _strongest(config: ExperimentConfig) -> str:
    if not config.privacy.promises:
        return "mislabelled"
    return "client" if config.privacy.clips_messages else "gradient"
