"""Text from gradients: of a class and of the next token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reconstruction_runs import attacked

from privfl.auditing.questions.reconstruction import ReconstructionRecord
from privfl.storage import npz

TAG = {"kind": "reconstruction/tag", "steps": 300, "most": 4}


def texts(path: Path, clients: int, next_token: bool = False) -> dict[str, Any]:
    """Sequences of eight of fifty tokens, with one of four classes, or with the tokens that follow."""
    generator = np.random.default_rng(0)
    x = generator.integers(0, 50, (200, 8))
    y = np.roll(x, -1, axis=1) if next_token else generator.integers(0, 4, 200)
    path.mkdir(exist_ok=True)
    arrays: dict[str, np.ndarray] = {"x": x.astype(np.float32), "y": y}
    if next_token:
        arrays["classes"] = np.array([str(token) for token in range(50)])
    (path / "text.npz").write_bytes(npz(arrays))
    data = {"kind": "arrays", "file": str(path / "text.npz"), "clients": clients, "holdout": 1e-9}
    return {"data": data, "model": {"kind": "own_models.bag", "kind_of_output": "each" if next_token else "class"}}


def tokens_right(record: ReconstructionRecord) -> float:
    (measure,) = record.measures
    assert measure.name == "tokens right"
    assert measure.chance < 0.4
    return measure.median.value


@pytest.mark.parametrize("examples", [1, 2])
def test_the_text_behind_a_gradient_is_found(examples: int, tmp_path: Path) -> None:
    found = attacked(tmp_path / "run", TAG, **texts(tmp_path, 160 // examples))
    for variant in ("nearest", "nearest that moved"):
        record = found[f"tag: {variant}"]
        assert record.trained_on == 4 * examples
        assert tokens_right(record) > 0.9
        assert record.labels is not None
        assert record.labels.right.value > 0.8


def test_noise_leaves_chance(tmp_path: Path) -> None:
    noisy = {"kind": "example", "noise_multiplier": 1.0, "delta": 1e-3, "max_grad_norm": 1.0}
    found = attacked(tmp_path / "run", {**TAG, "steps": 100}, privacy=noisy, **texts(tmp_path, 160))
    record = found["tag: nearest"]
    assert record.recognised is not None
    # The run's noise depends on the file's path. A guess has two of eight tokens right once in 100 texts, which may be more
    # than the nearest of 40 fresh texts has: two of four are recognised once in 1,500 runs.
    assert record.recognised.value <= 0.25
    # Noise moves every token, so that none is known to be there.
    assert tokens_right(found["tag: nearest that moved"]) == tokens_right(record) <= record.measures[0].chance


def test_the_next_token_is_a_task_as_well(tmp_path: Path) -> None:
    changes = {**texts(tmp_path, 160, next_token=True), "task": {"kind": "next_token"}}
    found = attacked(tmp_path / "run", {**TAG, "most": 2}, **changes)
    assert tokens_right(found["tag: nearest that moved"]) > 0.6
    assert found["tag: nearest"].labels is None
