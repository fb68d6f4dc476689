"""Where a run lies: nothing is left of one that was refused, the right one goes on, and one may take another's place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_runs import small

import privfl
from privfl.config import ExperimentConfig
from privfl.errors import ConfigError, ModelError, RunFolderError
from privfl.running.default_folder import default_folder
from privfl.running.experiment import Experiment
from privfl.running.recording import run
from privfl.running.run_folder import RunFolder

PLAIN: dict[str, Any] = {"privacy": {"kind": "none"}, "aggregator": {"kind": "mean"}, "rounds": 2}
LOSS = {"run": ["membership/loss"], "shadow_models": 0}
REFUSED = small(privacy={"kind": "example", "noise_multiplier": 1.0, "delta": 1e-2, "max_grad_norm": 1.0})


def plain(**changes: Any) -> ExperimentConfig:
    return small(**{**PLAIN, **changes})


def interrupted(path: Path, **changes: Any) -> RunFolder:
    """A run that was interrupted after its first round."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(plain(**changes), path, observer=interrupt)
    return RunFolder.open(path)


# --- a run that does not begin ----------------------------------------------------------------------------------------


def test_of_a_run_that_is_refused_no_folder_is_left(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"privacy\.delta = 0\.01"):
        run(REFUSED, tmp_path / "runs" / "deep" / "run")
    assert not list(tmp_path.iterdir())
    # What was there before stays, but for what runs that did not begin left in it.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".lock").touch()
    with pytest.raises(ConfigError):
        run(REFUSED, tmp_path / "mine")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_of_a_run_that_is_interrupted_before_it_begins_no_folder_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(self: RunFolder, *_: object) -> None:
        (self.path / "environment.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "begin", crash)
    with pytest.raises(KeyboardInterrupt):
        run(plain(), tmp_path / "run")
    assert not list(tmp_path.iterdir())


# --- which folder -----------------------------------------------------------------------------------------------------


def test_a_refused_command_does_not_lead_resume_astray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    interrupted(Path("runs/small"))
    # Neither a refused run nor one that was killed before it began is a run.
    assert default_folder(plain(), resume=False, overwrite=False) == Path("runs/small-2")
    with pytest.raises(ConfigError):
        run(REFUSED, Path("runs/small-2"))
    Path("runs/small-2").mkdir()
    Path("runs/small-2/.lock").touch()
    assert default_folder(plain(), resume=True, overwrite=False) == Path("runs/small")
    assert default_folder(plain(seed=7), resume=True, overwrite=False) == Path("runs/small")
    assert default_folder(plain(), resume=False, overwrite=False) == Path("runs/small-3")
    assert default_folder(plain(), resume=False, overwrite=True) == Path("runs/small")


def test_resume_takes_the_last_unfinished_run_of_its_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def chosen(**changes: Any) -> Path:
        return default_folder(plain(**changes), resume=True, overwrite=False)

    assert chosen() == Path("runs/small")
    run(plain(seed=2), Path("runs/small-2"))
    interrupted(Path("runs/small-3"), seed=1)
    interrupted(Path("runs/small-11"), seed=2)
    run(plain(seed=2), Path("runs/small-12"))
    assert chosen(seed=1) == Path("runs/small-3")
    assert chosen(seed=2) == Path("runs/small-11")
    run(plain(seed=2), Path("runs/small-11"), resume=True)
    assert chosen(seed=2) == Path("runs/small-12")
    # Of other settings: the last, which says what differs.
    with pytest.raises(RunFolderError, match=r"runs/small-12: was begun with seed = 2, not 3.*--overwrite"):
        run(plain(seed=3), chosen(seed=3), resume=True)


# --- in another's place -----------------------------------------------------------------------------------------------


def test_an_error_in_training_does_not_block_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: object, **__: object) -> None:
        raise ModelError("diverged; lower training.lr")

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "step", diverge)
        with pytest.raises(ModelError):
            run(plain(), tmp_path / "run")
    with pytest.raises(RunFolderError, match="replace it with --overwrite"):
        run(plain(seed=1), tmp_path / "run")
    folder = run(plain(seed=1), tmp_path / "run", overwrite=True)
    assert folder.result == run(plain(seed=1), tmp_path / "other").result
    for name in ("rounds.jsonl", "ledger.jsonl", "config.toml"):
        assert (folder.path / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_a_run_is_replaced_once_the_new_one_begins_and_whole(tmp_path: Path) -> None:
    folder = run(plain(attacks=LOSS), tmp_path / "run")
    privfl.Run(folder.path).attack()
    (folder.path / "report.html").write_text("the page")
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError):
        run(REFUSED, folder.path, overwrite=True)
    with pytest.raises(ConfigError, match="--resume and --overwrite"):
        run(plain(), folder.path, overwrite=True, resume=True)
    (folder.path / "notes.txt").write_text("precious")
    with pytest.raises(RunFolderError, match=r"holds 'notes\.txt', which no run has; move it away"):
        run(plain(), folder.path, overwrite=True)
    (folder.path / "notes.txt").unlink()
    with folder.locked(), pytest.raises(RunFolderError, match="another process is using it"):
        run(plain(), folder.path, overwrite=True)
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before
    again = run(plain(), folder.path, overwrite=True)
    assert (again.findings, (again.path / "report.html").exists()) == ((), False)


def test_a_replacement_that_breaks_off_can_be_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, removed = run(plain(), tmp_path / "run"), list[str]()
    unlink = Path.unlink

    def crash(self: Path, missing_ok: bool = False) -> None:
        removed.append(self.name)
        if len(removed) == 3:
            raise KeyboardInterrupt
        unlink(self, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", crash)
        with pytest.raises(KeyboardInterrupt):
            run(plain(), folder.path, overwrite=True)
    assert (folder.path / "config.toml").exists()
    assert run(plain(), folder.path, overwrite=True).result.rounds == 2


# --- paths as text ----------------------------------------------------------------------------------------------------


def test_a_path_may_be_text_wherever_python_takes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = privfl.run(plain(attacks=LOSS), "runs/one")
    assert privfl.Run("runs/one") == done
    assert privfl.load("runs/one/config.toml") == done.config
    assert done.page("one.html") == privfl.compare("runs/one", "one.html") == Path("one.html")
    assert done.export("one.safetensors") == Path("one.safetensors")
    with pytest.raises(RunFolderError, match="nowhere: is not a run folder"):
        privfl.Run("nowhere")
