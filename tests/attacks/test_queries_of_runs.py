"""Attacks that want several queries of each candidate: the harness answers them once, and keeps the answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from attacks import _queries, _shadows
from attacks._run import run_attacks
from privfl.auditing.questions.membership import MembershipFinding
from privfl.errors import ConfigError
from privfl.loading import loads
from privfl.running.recording import run
from privfl.running.run_folder import RunFolder
from privfl.storage import npz, read_npz


def begin(path: Path, queries: int, **changes: Any) -> RunFolder:
    config = {
        "name": "queried",
        "rounds": 1,
        "data": {"kind": "digits", "clients": 2, "holdout": 0.5},
        "model": {"kind": "mlp", "hidden": [32]},
        "cohort": {"kind": "all"},
        "training": {"local_epochs": 40, "batch_size": 16, "lr": 0.2},
        "privacy": {"kind": "none"},
        "aggregator": {"kind": "mean"},
        "server": {"kind": "fedavg"},
        "attacks": {"run": [{"kind": "membership/lira", "queries": queries}], "shadow_models": 4},
        **changes,
    }
    return run(loads(config), path)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shadows, "cores", lambda: 1)


def test_queries_are_answered_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, asked = begin(tmp_path / "run", 4), list[int]()
    original = _queries.signals

    def counted(*given: Any) -> Any:
        asked.append(given[3])
        return original(*given)

    monkeypatch.setattr(_queries, "signals", counted)
    (found,) = run_attacks(folder)
    assert isinstance(found, MembershipFinding)
    variants = {one.variant: one.auc for one in found.attacks}
    assert len(variants) == 5
    # Two shadows a side are too few for a variance of each example, and for 4 × 4 covariances.
    assert max(one.low for one in variants.values()) > 0.5
    assert "multivariate, fixed covariance" in variants
    assert asked == [4] * 5
    again = [f'attacks.run=[{{kind="membership/lira",queries={queries}}}]' for queries in (4, 2, 6)]
    before = (folder.path / "attacks" / "membership" / "lira.npz").read_bytes()
    assert run_attacks(folder, settings=again[:1]) == (found,)
    assert asked == [4] * 5
    assert (folder.path / "attacks" / "membership" / "lira.npz").read_bytes() == before
    run_attacks(folder, settings=again[1:2])
    assert asked == [4] * 5
    # More are asked for, and one file is damaged.
    run_attacks(folder, settings=again[2:])
    assert asked == [4] * 5 + [6] * 5
    path = folder.path / "attacks" / "queries" / "shadow_001.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    run_attacks(folder, settings=again[2:])
    assert asked == [4] * 5 + [6] * 6
    assert path.read_bytes() == whole


def test_the_first_query_is_the_example_itself(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run", 2, training={"local_epochs": 2, "batch_size": 16, "lr": 0.2})
    run_attacks(folder)
    signals_QN = load_file(folder.path / "attacks" / "queries" / "shadow_002.safetensors")["signals_QN"]
    kept = read_npz(folder.path / "attacks" / "shadows" / "shadow_002.npz")
    logits_NC = kept["candidates_NC"].astype(np.float64)
    partition = read_npz(folder.path / "membership.npz")
    labels = loads(folder.config.model_dump()).data.load().train.y[partition["candidate_N"]]  # type: ignore[attr-defined]
    own = logits_NC[np.arange(len(labels)), labels]
    logits_NC[np.arange(len(labels)), labels] = -np.inf
    assert signals_QN[0] == pytest.approx(own - np.logaddexp.reduce(logits_NC, axis=1), abs=1e-3)
    assert np.abs(signals_QN[0] - signals_QN[1]).mean() > 0.1


def test_shadows_of_an_older_version_are_trained_again_if_their_models_are_needed(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run", 1, training={"local_epochs": 1, "batch_size": 16, "lr": 0.2})
    told: list[int] = []
    run_attacks(folder)
    path = folder.path / "attacks" / "shadows" / "shadow_001.npz"
    kept = read_npz(path)
    whole = path.read_bytes()
    path.write_bytes(npz({name: value for name, value in kept.items() if name != "model_D"}))
    run_attacks(folder, observer=lambda done, _: told.append(done))
    assert told == [4]
    run_attacks(folder, (), lambda done, _: told.append(done), ['attacks.run=[{kind="membership/lira",queries=2}]'])
    assert told == [4, 3, 4]
    assert path.read_bytes() == whole


def test_inputs_that_are_no_images_are_refused_before_the_run(tmp_path: Path) -> None:
    text = tmp_path / "own.csv"
    text.write_text("a,b,label\n" + "\n".join(f"{i % 5},{i % 7},{i % 2}" for i in range(400)) + "\n")
    data = {"kind": "table", "file": str(text), "label": "label", "clients": 2, "holdout": 0.5}
    with pytest.raises(ConfigError, match=r"attacks\.run: 'membership/lira': queries = 3 asks for mirrored and shifted images"):
        begin(tmp_path / "run", 3, data=data)
    assert not (tmp_path / "run").exists()
