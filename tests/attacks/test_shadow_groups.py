"""Shadow models that are trained together: their groups, what is kept of them, and what an interruption leaves."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks import _shadows
from attacks._run import run_attacks
from privfl.config import ExperimentConfig
from privfl.loading import loads
from privfl.running import side_by_side
from privfl.running.assembling import assemble
from privfl.running.recording import run
from privfl.running.run_folder import RunFolder
from privfl.storage import npz, read_npz

NAMES = ["membership/lira"]


def configuration(shadow_models: int, **changes: Any) -> ExperimentConfig:
    return loads(
        {
            "name": "grouped",
            "rounds": 2,
            "data": {"kind": "digits", "clients": 2, "holdout": 0.5},
            "model": {"kind": "logistic"},
            "cohort": {"kind": "all"},
            "training": {"local_epochs": 1, "batch_size": 32, "lr": 0.2},
            "privacy": {"kind": "example", "noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 1.0},
            "aggregator": {"kind": "mean"},
            "server": {"kind": "fedavg"},
            "attacks": {"run": NAMES, "shadow_models": shadow_models},
            **changes,
        }
    )


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shadows, "cores", lambda: 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run(configuration(0, attacks={"run": [], "shadow_models": 0}), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def folder(trained: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of one finished run."""
    for path in trained.path.rglob("*"):
        if path.is_file():
            (tmp_path / path.relative_to(trained.path)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path.relative_to(trained.path)).write_bytes(path.read_bytes())
    return RunFolder.open(tmp_path)


def attack(folder: RunFolder, shadow_models: int) -> list[tuple[int, int]]:
    told: list[tuple[int, int]] = []
    run_attacks(folder, NAMES, lambda done, total: told.append((done, total)), [f"attacks.shadow_models={shadow_models}"])
    return told


def kept(folder: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder.path / "attacks" / "shadows").glob("shadow_*")}


def groups(folder: RunFolder) -> list[int]:
    found: list[int] = read_npz(folder.path / "attacks" / "shadows" / "members.npz")["group_S"].tolist()
    return found


def test_at_least_four_groups_and_more_join_them(folder: RunFolder) -> None:
    assert attack(folder, 8) == [(0, 8), (2, 8), (4, 8), (6, 8), (8, 8)]
    assert groups(folder) == [0, 0, 1, 1, 2, 2, 3, 3]
    before = kept(folder)
    assert attack(folder, 11) == [(8, 11), (9, 11), (10, 11), (11, 11)]
    assert groups(folder) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6]
    assert {name: kept(folder)[name] for name in before} == before
    assert attack(folder, 8) == [(8, 8)]


def test_a_damaged_one_is_trained_with_its_group_and_has_its_bytes_again(folder: RunFolder) -> None:
    attack(folder, 8)
    before, path = kept(folder), folder.path / "attacks" / "shadows" / "shadow_003.npz"
    path.write_bytes(path.read_bytes()[:500])
    assert attack(folder, 8) == [(7, 8), (8, 8)]
    assert kept(folder) == before


def test_an_attack_that_was_interrupted_goes_on_with_the_same_groups(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = _shadows._carry_out
    asked: list[Sequence[int]] = []

    def some(experiment: Any, jobs: Any) -> Iterator[Any]:
        asked.extend(job.indices for job in jobs)
        for place, found in enumerate(real(experiment, jobs)):
            if place == 2 and len(asked) == 4:
                raise TimeoutError
            yield found

    monkeypatch.setattr(_shadows, "_carry_out", some)
    with pytest.raises(TimeoutError):
        attack(folder, 8)
    whole = {f"shadow_{index:03d}.npz" for index in range(4)}
    assert kept(folder).keys() == whole
    # Fewer are asked for, but the group is trained as a whole, and the others of it are kept.
    assert attack(folder, 5) == [(4, 5), (5, 5)]
    assert kept(folder).keys() == {*whole, "shadow_004.npz", "shadow_005.npz"}
    attack(folder, 8)
    assert asked == [(0, 1), (2, 3), (4, 5), (6, 7), (4, 5), (6, 7)]
    interrupted = kept(folder)
    for name in interrupted:
        (folder.path / "attacks" / "shadows" / name).unlink()
    attack(folder, 8)
    assert kept(folder) == interrupted


def test_members_of_an_older_version_are_trained_one_by_one(folder: RunFolder) -> None:
    attack(folder, 8)
    path = folder.path / "attacks" / "shadows" / "members.npz"
    together, members = kept(folder), read_npz(path)["member_SN"]
    path.write_bytes(npz({"member_SN": members}))
    for name in together:
        (path.parent / name).unlink()
    assert len(attack(folder, 8)) == 9
    alone = kept(folder)
    assert alone.keys() == together.keys()
    for name in alone:
        one, other = (read_npz_bytes(found[name]) for found in (alone, together))
        np.testing.assert_allclose(one["candidates_NC"], other["candidates_NC"], rtol=0, atol=1e-4)
        assert np.array_equal(one["member_N"], other["member_N"])


def read_npz_bytes(content: bytes) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(io.BytesIO(content)) as archive:
        return dict(archive)


def test_an_engine_that_trains_one_client_after_another_trains_shadows_one_by_one() -> None:
    training = {"local_epochs": 1, "batch_size": 32, "lr": 0.2, "engine": "opacus"}
    assert _shadows._groups(assemble(configuration(64, training=training)), 64).tolist() == list(range(64))
    assert np.bincount(_shadows._groups(assemble(configuration(64)), 64)).tolist() == [16, 16, 16, 16]


def test_shadows_that_share_a_start_would_be_noticed(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model of a group is far from the others: it has initial weights, batches and noise of its own."""
    attack(folder, 8)
    shadows = [read_npz(folder.path / "attacks" / "shadows" / f"shadow_{index:03d}.npz")["candidates_NC"] for index in (0, 1)]
    assert float(np.abs(shadows[0] - shadows[1]).mean()) > 0.1
    monkeypatch.setattr(side_by_side, "_from", lambda _, task: task)
    for index in (0, 1):
        (folder.path / "attacks" / "shadows" / f"shadow_{index:03d}.npz").unlink()
    attack(folder, 8)
    broken = read_npz(folder.path / "attacks" / "shadows" / "shadow_001.npz")["candidates_NC"]
    assert float(np.abs(broken - shadows[1]).mean()) > 0.1
