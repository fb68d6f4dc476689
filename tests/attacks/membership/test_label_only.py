"""Attacks by decisions alone: the distance to a boundary that is known, and what they find in runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_runs import small
from torch import Tensor

from attacks._run import run_attacks
from attacks.membership.label_only import Boundary
from privfl.auditing.questions.membership import MembershipFinding
from privfl.errors import ConfigError
from privfl.loading import loads
from privfl.running.recording import run

OVERFITTED: dict[str, Any] = {
    "name": "overfitted",
    "rounds": 5,
    "data": {"kind": "own_attacks.random_labels", "clients": 4, "holdout": 0.5},
    "model": {"kind": "mlp", "hidden": [64]},
    "cohort": {"kind": "all"},
    "training": {"local_epochs": 5, "batch_size": 16, "lr": 0.1},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
    "attacks": {"run": ["membership/label_only"], "shadow_models": 0},
}


@pytest.mark.parametrize(("iterations", "largest"), [(0, 20.0), (5, 1.05), (10, 1.03)])
def test_the_distance_to_a_plane_is_found_from_above(iterations: int, largest: float) -> None:
    generator = torch.Generator().manual_seed(1)
    normal_F = torch.nn.functional.normalize(torch.randn(10, generator=generator), dim=0)
    x_NF, fresh_PF = (torch.randn(rows, 10, generator=generator) for rows in (300, 300))

    def decide(x: Tensor) -> NDArray[np.int64]:
        return np.asarray((x @ normal_F > 0.3).numpy().astype(np.int64))

    labels_N = decide(x_NF)
    labels_N[:20] = 1 - labels_N[:20]
    found_N = Boundary(decide, fresh_PF, iterations, 40).distances(x_NF, labels_N)
    ratio_N = found_N[20:] / (x_NF @ normal_F - 0.3).abs().numpy()[20:]
    assert (found_N[:20] == 0).all()
    # Nothing nearer than the boundary has another answer.
    assert ratio_N.min() > 0.999
    assert np.median(ratio_N) < largest


def test_a_model_with_one_answer_has_no_boundary() -> None:
    x_NF = torch.arange(6.0).view(3, 2)
    found_N = Boundary(lambda x: np.zeros(len(x), np.int64), x_NF, 2, 3).distances(x_NF, np.array([0, 0, 1]))
    np.testing.assert_allclose(found_N, [4 * 2**0.5, 2 * 2**0.5, 0], rtol=1e-5)


def attacked(path: Path, **changes: Any) -> dict[str, Any]:
    """The AUC of each variant."""
    found = run_attacks(run(loads({**OVERFITTED, **changes}), path))
    assert all(isinstance(one, MembershipFinding) for one in found)
    return {one.variant: one.auc for finding in found for one in finding.attacks}  # type: ignore[attr-defined]


def test_an_overfitted_run_is_found_out(tmp_path: Path) -> None:
    for name, one in attacked(tmp_path / "run").items():
        assert one.low > 0.55, (name, one)


def test_a_run_that_is_noise_gives_nothing_away(tmp_path: Path) -> None:
    """At 99.99 %: by chance one of the two fails in one seed of five thousand."""
    privacy = {"kind": "example", "noise_multiplier": 300.0, "delta": 1e-5, "max_grad_norm": 1.0}
    training = {**OVERFITTED["training"], "local_epochs": 1}
    for name, one in attacked(tmp_path / "run", privacy=privacy, training=training, rounds=4).items():
        assert abs(one.value - 0.5) < (one.high - one.low) / 2 * 1.99, (name, one)


def test_images_are_also_mirrored_and_shifted(tmp_path: Path) -> None:
    config = small(
        rounds=2,
        privacy={"kind": "none"},
        aggregator={"kind": "mean"},
        attacks={"run": [{"kind": "membership/label_only", "iterations": 1, "directions": 2}], "shadow_models": 0},
    )
    (finding,) = run_attacks(run(config, tmp_path / "run"))
    assert isinstance(finding, MembershipFinding)
    assert {one.variant for one in finding.attacks} == {"augmentation", "distance"}


def test_other_tasks_are_refused_before_the_first_round(tmp_path: Path) -> None:
    config = small(
        task={"kind": "regression"},
        data={"kind": "own_tasks.made_up", "labels": "numbers", "clients": 10},
        attacks={"run": ["membership/label_only"], "shadow_models": 0},
    )
    with pytest.raises(ConfigError, match="needs one class of several, and task = 'regression': take it out"):
        run(config, tmp_path / "run")
