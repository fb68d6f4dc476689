"""The settings that differ between runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from privfl.config import ExperimentConfig
from privfl.report.run_records import RunRecords


def differences(runs: Sequence[RunRecords]) -> list[tuple[str, list[str]]]:
    """Return each setting but the seed that differs, with its value in each run; a dash if a run does not have it."""
    found = differing([run.config for run in runs])
    found.pop("seed", None)
    return [(key, ["–" if value is None else _shown(value) for value in values]) for key, values in found.items()]


def differing(configs: Sequence[ExperimentConfig]) -> dict[str, list[object]]:
    """Return each setting that differs between configurations, with its value in each; None if it is absent.

    The name is left out. A list is given as the words that the page shows for it.
    """
    # A configuration with the default task does not contain the key.
    flat = [{"task.kind": config.task.kind, **dict(_flat(config.model_dump(exclude_none=True), ""))} for config in configs]
    keys = dict.fromkeys(key for settings in flat for key in settings if key != "name")
    values = {key: [_plain(settings.get(key)) for settings in flat] for key in keys}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def _flat(table: Mapping[str, Any], at: str) -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    for key, value in table.items():
        pairs += _flat(value, f"{at}{key}.") if isinstance(value, Mapping) else [(at + key, value)]
    return pairs


def _plain(value: object) -> object:
    return _shown(value) if isinstance(value, (list, tuple)) else value


def _shown(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item.get("kind", item)) if isinstance(item, Mapping) else str(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
