"""Trackers, each with its real library and without a network."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from command_line import Call, calling
from small_runs import small

from privfl.auditing.questions.membership import MembershipFinding
from privfl.cli.track import LiveTrackers
from privfl.errors import ConfigError, TrackerError
from privfl.records import RoundRecord, TimingRecord
from privfl.running import attacking, recording
from privfl.running.run_folder import RunFolder
from privfl.trackers import TrackedRun, Tracker, open_tracker
from privfl.trackers._figures import of_round, of_run, tracked
from privfl.trackers._tracking import Tracking

pytestmark = pytest.mark.filterwarnings("ignore")
"""The libraries warn of themselves."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with an attack and without a page."""
    path = tmp_path_factory.mktemp("tracked") / "run"
    folder = recording.run(small(rounds=3), path)
    attacking.attack(folder, ["membership/loss"])
    return path


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return calling(monkeypatch, capsys)


class Told(Tracker):
    """A tracker that remembers what it is told."""

    packages = ()

    def __init__(self, has: int = 0) -> None:
        self.has = has
        self.run: TrackedRun | None = None
        self.rounds: dict[int, Mapping[str, float]] = {}
        self.final: Mapping[str, float] = {}
        self.files: list[str] = []

    def begin(self, run: TrackedRun) -> int:
        self.run = run
        return self.has

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        assert step not in self.rounds
        self.rounds[step] = figures

    def finish(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        self.final, self.files = figures, [file.name for file in files]


class Broken(Told):
    """A tracker that fails in the second round."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        if step == 2:
            raise ConnectionError("no route to host")
        super().log(step, figures)


def test_a_finished_run_is_sent_whole_and_the_figures_are_the_records(finished: Path) -> None:
    told = Told()
    Tracking("told", told, finished).finish()
    folder = RunFolder.open(finished)
    assert list(told.rounds) == [1, 2, 3]
    assert told.rounds[3]["privacy/epsilon"] == folder.rounds()[2].epsilon
    assert told.final["final/accuracy"] == folder.result.evaluation.headline.value
    (finding,) = folder.findings
    assert isinstance(finding, MembershipFinding)
    found = {name: value for name, value in told.final.items() if name.endswith("/auc")}
    assert list(found.values()) == [one.auc.value for one in finding.attacks]
    assert "leakage/external/membership/loss/auc" in found
    assert told.run is not None
    assert told.run.settings["privacy.kind"] == "example"
    assert told.files == ["config.toml", "result.json"]


def test_rounds_that_a_tracker_has_are_not_sent_again(finished: Path) -> None:
    told = Told(has=2)
    Tracking("told", told, finished).finish()
    assert list(told.rounds) == [3]


def test_a_run_that_trains_is_followed_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    def stop(record: RoundRecord, _: TimingRecord) -> None:
        if record.round == 1:
            raise KeyboardInterrupt

    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        recording.run(small(), path, observer=stop)
    told = Told()
    following = Tracking("told", told, path)
    recording.run(small(), path, resume=True, observer=following.send)
    following.finish()
    assert list(told.rounds) == [1, 2, 3, 4]
    assert told.final["final/loss"] > 0


def test_an_unfinished_run_has_rounds_and_no_results(tmp_path: Path) -> None:
    def stop(record: RoundRecord, _: TimingRecord) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recording.run(small(), tmp_path / "run", observer=stop)
    told = Told()
    Tracking("told", told, tmp_path / "run").finish()
    assert (list(told.rounds), told.final, told.files) == ([1], {}, ["config.toml"])


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Broken()
    monkeypatch.setattr("privfl.trackers.open_tracker", lambda name: broken)
    trackers = LiveTrackers(["wandb"])
    trackers.follow(tmp_path / "run")
    folder = recording.run(small(), tmp_path / "run", observer=trackers.send)
    trackers.finish()
    assert folder.finished
    assert list(broken.rounds) == [1]
    said = capsys.readouterr().err
    assert "warning: tracker 'wandb' failed (ConnectionError: no route to host)" in said
    assert f"privfl track {tmp_path / 'run'} --to wandb" in said


def test_a_missing_library_and_an_unknown_tracker_are_said_before_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: Call
) -> None:
    with pytest.raises(ConfigError, match=r"tracker 'mlfow': did you mean 'mlflow'\? allowed: mlflow, tensorboard, wandb"):
        open_tracker("mlfow")
    find: Callable[[str], object] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else find(name))
    with pytest.raises(ConfigError, match=r"needs the package mlflow: pip install 'privfl\[mlflow\]'"):
        open_tracker("mlflow")
    code, _, said = call("run", "paper_configs/digits.toml", "--out", tmp_path / "run", "--track", "mlflow")
    assert (code, said.count("\n")) == (2, 1)
    assert not (tmp_path / "run").exists()


def test_figures_that_are_not_numbers_are_left_out(finished: Path) -> None:
    folder = RunFolder.open(finished)
    record = folder.rounds()[0].model_copy(update={"train_loss": float("nan"), "epsilon": None})
    figures = of_round(record, folder.timings()[0])
    assert "train/loss" not in figures
    assert "privacy/epsilon" not in figures


def test_the_same_folder_has_the_same_identity_and_another_has_another(finished: Path, tmp_path: Path) -> None:
    first = tracked(RunFolder.open(finished)).identity
    assert first == tracked(RunFolder.open(finished)).identity
    # Later attacks may change the settings of a finished run's attacks; it is the same run.
    attacked = shutil.copytree(finished, tmp_path / "attacked")
    before = tracked(RunFolder.open(attacked)).identity
    attacking.attack(RunFolder.open(attacked), ["membership/attack_p"], settings=["attacks.exposed=3"])
    assert tracked(RunFolder.open(attacked)).identity == before
    (tmp_path / "run").mkdir()
    for file in ("config.toml", "environment.json"):
        (tmp_path / "run" / file).write_bytes((finished / file).read_bytes())
    assert tracked(RunFolder.open(tmp_path / "run")).identity != first


# --- the real libraries -----------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own for what a library writes."""
    monkeypatch.chdir(tmp_path)
    for key in [key for key in os.environ if key.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(key)
    yield tmp_path
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()  # It would remember whether it was online.


def test_tensorboard_reads_what_was_sent(finished: Path, here: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # The second time replaces the first.
        Tracking("tensorboard", open_tracker("tensorboard"), finished).finish()
    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    folder = RunFolder.open(finished)
    read = [(event.step, event.value) for event in events.Scalars("test/accuracy")]
    sent = [(one.round + 1, one.evaluation.headline.value) for one in folder.rounds() if one.evaluation is not None]
    assert read == [(step, pytest.approx(value, rel=1e-6)) for step, value in sent]
    assert [event.value for event in events.Scalars("promise/epsilon")] == [
        pytest.approx(of_run(folder)["promise/epsilon"], rel=1e-6)
    ]
    assert events.Tags()["tensors"][:1] == ["config.toml/text_summary"]


def test_mlflow_reads_what_was_sent_from_sqlite(finished: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    store = f"sqlite:///{here / 'store.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    for _ in range(2):  # The second time adds no round.
        Tracking("mlflow", open_tracker("mlflow"), finished).finish()
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("privfl")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    folder = RunFolder.open(finished)
    assert run.data.params["training.lr"] == str(folder.config.training.lr)
    assert {name: run.data.metrics[name] for name in of_run(folder)} == of_run(folder)
    assert [one.step for one in client.get_metric_history(run.info.run_id, "bytes/up")] == [1, 2, 3]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"config.toml", "result.json"}
    assert run.info.status == "FINISHED"


def test_wandb_keeps_offline_what_was_sent(finished: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    Tracking("wandb", open_tracker("wandb"), finished).finish()
    sys.modules["wandb"].teardown()  # It writes in a process of its own, which ends here.
    identity = tracked(RunFolder.open(finished)).identity
    (log,) = here.glob(f"wandb/offline-run-*/run-{identity}.wandb")
    written = log.read_bytes()
    for name in ("test/accuracy", "privacy/epsilon", "leakage/external/membership/loss/auc", "training.lr", "result.json"):
        assert name.encode() in written, name


def test_wandb_without_an_account_is_one_line(finished: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(here / "none"))
    with pytest.raises(TrackerError, match=r"tracker 'wandb' failed \(.*\); the run folder has everything"):
        Tracking("wandb", open_tracker("wandb"), finished).finish()
