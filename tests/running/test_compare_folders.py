"""The comparison of run folders, on two small runs: one without noise, one with noise and secure aggregation, each attacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from compare_folders import differences, main, repeatable
from small_runs import small

from attacks._run import run_attacks
from privfl.running.recording import run

RUNS: dict[str, dict[str, Any]] = {
    "plain": {"privacy": {"kind": "none"}, "aggregator": {"kind": "mean"}},
    "private": {},
}


def made(folder: Path, **changes: Any) -> Path:
    config = small(rounds=2, **changes, attacks={"run": ["membership/loss"], "shadow_models": 1})
    run_attacks(run(config, folder))
    return folder


@pytest.mark.parametrize("kind", RUNS)
def test_a_configuration_gives_the_same_bytes_twice(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (made(tmp_path / name, **RUNS[kind]) for name in ("one", "other"))
    assert differences(one, other) == []
    assert main([str(one), str(other)]) == 0
    assert capsys.readouterr().out.endswith(": the same\n")
    assert {"config.toml", "rounds.jsonl", "ledger.jsonl", "state.safetensors", "result.json"} < set(repeatable(one))


def test_another_seed_and_a_missing_file_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = made(tmp_path / "one"), made(tmp_path / "other", seed=1)
    (other / "result.json").unlink()
    assert {"config.toml", "model.safetensors", "rounds.jsonl", "result.json"} <= set(differences(one, other))
    assert main([str(one), str(one), str(one), str(other)]) == 1
    assert "model.safetensors" in capsys.readouterr().out
