"""The names and numbers of a run that trackers are sent."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from privfl.auditing.evaluation import LOW_FPR
from privfl.auditing.questions.epsilon import EpsilonFinding
from privfl.auditing.questions.membership import MembershipFinding
from privfl.records import RoundRecord, TimingRecord
from privfl.report.roc import rate_at
from privfl.running.run_folder import RunFolder
from privfl.trackers import Setting, TrackedRun


def tracked(folder: RunFolder) -> TrackedRun:
    """A run folder as trackers see it; the identity is that of its place and of its settings but those of attacks."""
    path, config = folder.path.resolve(), folder.config
    identity = hashlib.sha256(f"{path}\n{config.model_dump_json(exclude={'attacks'})}".encode()).hexdigest()[:16]
    return TrackedRun(path.name, identity, path, dict(_flat(config.model_dump(mode="json"))))


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Setting]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield prefix + key, value if isinstance(value, str | int | float | bool) else json.dumps(value, ensure_ascii=False)


def of_round(record: RoundRecord, timing: TimingRecord) -> dict[str, float]:
    """The figures of one round."""
    test = {} if record.evaluation is None else {name: one.value for name, one in record.evaluation.metrics.items()}
    return _finite(
        {
            **{f"test/{name}": value for name, value in test.items()},
            "train/loss": record.train_loss,
            "train/clipped_share": record.clipped_share,
            "privacy/epsilon": record.epsilon,
            "cohort/clients": len(record.cohort),
            "cohort/survivors": len(record.survivors),
            "bytes/up": record.bytes_up,
            "bytes/down": record.bytes_down,
            "seconds/round": timing.total,
        }
    )


def of_run(folder: RunFolder) -> dict[str, float]:
    """The figures of a finished run: test metrics, the promise, its cost, and what each attack found."""
    result = folder.result
    promise = result.privacy
    found: dict[str, float | None] = {
        **{f"final/{name}": one.value for name, one in result.evaluation.metrics.items()},
        "promise/epsilon": promise.epsilon if promise is not None else None,
        "promise/delta": promise.delta if promise is not None else None,
        "cost/bytes_up": result.bytes_up,
        "cost/bytes_down": result.bytes_down,
        "cost/seconds": math.fsum(timing.total for timing in folder.timings()),
    }
    for finding in folder.findings:
        if isinstance(finding, MembershipFinding):
            found |= _membership(finding)
        if isinstance(finding, EpsilonFinding):
            found |= {f"audit/{finding.adversary}/{one.attack}/epsilon_lower": one.epsilon_lower for one in finding.audits}
    return _finite(found)


def _membership(finding: MembershipFinding) -> dict[str, float | None]:
    at = f"leakage/{finding.adversary}"
    found: dict[str, float | None] = {f"{at}/best/epsilon_lower": finding.best.epsilon_lower}
    for record in finding.attacks:
        # An attack may have several variants; the first has the attack's own name.
        own = record.attack.rpartition("/")[2] == record.variant
        name = f"{at}/{record.attack}" if own else f"{at}/{record.attack}/{record.variant}"
        rate = rate_at(record.rates, LOW_FPR)
        found[f"{name}/auc"] = record.auc.value
        found[f"{name}/tpr_at_1pct_fpr"] = rate.tpr.value if rate is not None and rate.tpr is not None else None
    return found


def _finite(figures: Mapping[str, float | None]) -> dict[str, float]:
    """Those that are numbers: trackers keep neither None nor NaN."""
    return {name: float(value) for name, value in figures.items() if value is not None and math.isfinite(value)}
