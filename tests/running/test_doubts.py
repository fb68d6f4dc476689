"""Settings that are legal and hardly meant are told before the first round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_runs import SMALL, small

from privfl.running.assembling import assemble
from privfl.running.doubts import doubts
from privfl.running.recording import run


def told(**changes: Any) -> list[str]:
    return doubts(assemble(small(**changes)))


def test_the_usual_settings_raise_no_doubt() -> None:
    assert told() == []


def test_a_batch_larger_than_every_client() -> None:
    sizes = assemble(small()).data.sizes()
    training = {**SMALL["training"], "batch_size": int(sizes.max())}
    assert told(training=training) == []
    (sentence,) = told(training={**training, "batch_size": int(sizes.max()) + 1})
    assert sentence.startswith(
        f"training.batch_size = {sizes.max() + 1}: is more than any client has (the largest has {sizes.max()} "
    )


def test_a_promise_that_is_hardly_one() -> None:
    privacy = {"kind": "example", "delta": 1e-4, "max_grad_norm": 1.0}
    assert told(privacy={**privacy, "target_epsilon": 50.0}) == []
    (sentence,) = told(privacy={**privacy, "target_epsilon": 51.0})
    assert sentence.startswith("privacy.target_epsilon = 51: is hardly a promise")


def test_doubts_are_told_once_and_before_the_first_round(tmp_path: Path) -> None:
    heard: list[str] = []
    config = small(rounds=2, training={**SMALL["training"], "batch_size": 4000}, attacks={"shadow_models": 0})
    run(config, tmp_path / "run", observer=lambda record, timing: heard.append("round"), warn=heard.append)
    assert [one.partition(" ")[0] for one in heard] == ["training.batch_size", "round", "round"]
    run(config, tmp_path / "run", resume=True, warn=heard.append)
    assert len(heard) == 3
