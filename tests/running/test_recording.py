"""What a run leaves behind: the same bytes for the same seed, intact whatever stops it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_runs import SMALL, small

from privfl.data.datasets.digits import Digits
from privfl.data.federated import LoadedData
from privfl.errors import RunFolderError, StorageError
from privfl.loading import dump
from privfl.privacy.ledger import Account, Entry, Ledger
from privfl.records import RoundRecord
from privfl.running import views
from privfl.running.recording import run
from privfl.running.run_folder import RunFolder
from privfl.running.views import ServerView, open_view

SAME_BYTES = (
    "rounds.jsonl",
    "ledger.jsonl",
    "result.json",
    "model.safetensors",
    "membership.npz",
    "partition.json",
    "config.toml",
)


def contents(folder: Path) -> dict[str, bytes]:
    """Everything that a seed determines."""
    views = sorted((folder / "views").glob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in [*(folder / name for name in SAME_BYTES), *views]}


def spent_in(folder: Path) -> dict[Account, list[int]]:
    """Of every account, the rounds in which it spent something, as the file says."""
    found: dict[Account, list[int]] = {}
    for line in (folder / "ledger.jsonl").read_bytes().splitlines()[1:]:
        entry = Entry.model_validate_json(line)
        for account in entry.events():
            found.setdefault(account, []).append(entry.round)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run(small(), tmp_path_factory.mktemp("runs") / "finished")


def test_the_same_seed_gives_the_same_bytes(finished: RunFolder, tmp_path: Path) -> None:
    again = run(small(), tmp_path / "again")
    assert contents(again.path) == contents(finished.path)
    assert len(contents(finished.path)) == len(SAME_BYTES) + 4
    assert run(small(seed=1), tmp_path / "other").result != finished.result


def test_epsilon_of_the_result_is_that_of_the_ledger_on_disk(finished: RunFolder) -> None:
    ledger = Ledger.read(finished.path / "ledger.jsonl")
    privacy = finished.result.privacy
    assert privacy is not None
    assert ledger.epsilon() == privacy.epsilon == max(privacy.epsilon_clients)
    taking_part = sum(len(record.cohort) for record in finished.rounds() if record.skipped is None)
    assert sum(len(account_rounds) for account_rounds in spent_in(finished.path).values()) == taking_part > 0


def test_rounds_and_timings_are_whole(finished: RunFolder) -> None:
    rounds, timings = finished.rounds(), finished.timings()
    assert [record.round for record in rounds] == [timing.round for timing in timings] == [0, 1, 2, 3]
    epsilons = [record.epsilon for record in rounds]
    assert epsilons == sorted(epsilons)  # type: ignore[type-var]
    evaluation = rounds[-1].evaluation
    assert evaluation == finished.result.evaluation
    assert evaluation is not None
    assert evaluation.headline.low < evaluation.headline.value < evaluation.headline.high
    assert evaluation.clients is not None


def test_the_server_s_view_holds_sums_that_make_the_next_model(finished: RunFolder, tmp_path: Path) -> None:
    folder = run(small(server={"kind": "fedavg"}, cohort={"kind": "fixed", "size": 3}), tmp_path / "fedavg")
    from privfl.running.assembling import assemble

    view = open_view(folder, "server", assemble(folder.config).layout)
    assert isinstance(view, ServerView)
    for number in range(3):
        total_D, weight = view.sums(number)
        stepped = view.model_before(number) + (total_D / weight).to(view.model_before(number).dtype)
        assert np.allclose(stepped.numpy(), view.model_before(number + 1).numpy(), atol=1e-6)


def test_no_single_update_is_in_the_folder_under_secure_aggregation(finished: RunFolder) -> None:
    for path in (finished.path / "views").iterdir():
        assert set(load_file(path)) <= {"model_D", "participants_K", "survivors_K", "sum_D", "weight_sum"}


def test_a_run_stops_before_it_exceeds_its_budget(tmp_path: Path) -> None:
    privacy = {**SMALL["privacy"], "max_epsilon": 4.0}
    folder = run(small(rounds=16, privacy=privacy, records={"views": "final"}), tmp_path / "run")
    result = folder.result
    assert result.privacy is not None
    assert result.stopped is not None
    assert "above the budget of 4" in result.stopped
    assert 0 < result.rounds < 16
    assert result.privacy.epsilon <= 4.0
    assert len(folder.rounds()) == result.rounds
    assert (folder.path / "model.safetensors").exists()
    # A budget that not even the first round fits: nothing is spent.
    nothing = run(small(privacy={**privacy, "max_epsilon": 0.01}), tmp_path / "nothing").result
    assert nothing.rounds == 0
    assert nothing.privacy is not None
    assert nothing.privacy.epsilon == 0.0


def test_a_cohort_of_two_is_not_trained_under_secure_aggregation(tmp_path: Path) -> None:
    folder = run(small(rounds=12, cohort={"kind": "poisson", "size": 2}), tmp_path / "run")
    records = folder.rounds()
    assert any(len(record.cohort) == 2 for record in records)
    for record in records:
        assert (record.skipped is not None) == (len(record.cohort) < 3)
        assert (record.bytes_up == 0) == (record.skipped is not None)
    assert set(spent_in(folder.path)) == {client for record in records if record.skipped is None for client in record.cohort}


# --- crashes --------------------------------------------------------------------------------------------------------


_KILLED = """
import os, signal, sys, threading
from pathlib import Path
from privfl.loading import load
from privfl.running.recording import run
import privfl.federation.aggregators.secure_sum, privfl.data.datasets.digits, privfl.learning.training.opacus

def kill_in(seconds):
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()

def train(name, moment):
    whole, part = int(moment), moment % 1
    if whole == 0:
        kill_in(0.3 * part)

    def observe(record, timing):
        if record.round + 1 == whole:
            kill_in(timing.total * part)

    run(config, folder / name, observer=observe)
    os._exit(0)

config, folder = load(sys.argv[1]), Path(sys.argv[2])
for name, moment in zip(["reference", *map(str, range(10))], [-1.0, *map(float, sys.argv[3:])]):
    child = os.fork()
    if child == 0:
        train(name, moment)
    os.waitpid(child, 0)
"""


def test_kill_nine_at_ten_moments_then_resume(tmp_path: Path) -> None:
    """SIGKILL at ten moments, two of them before the first round, the others within a round's time after a round; each time the
    resumed run ends in the very bytes of the uninterrupted one."""
    config = tmp_path / "small.toml"
    config.write_text(dump(small(rounds=16)))
    moments = [*np.random.default_rng(0).uniform(0.0, 1.0, 2), *np.random.default_rng(1).uniform(1.0, 14.0, 8)]
    arguments = [str(config), str(tmp_path), *map(str, moments)]
    subprocess.run([sys.executable, "-W", "ignore", "-c", _KILLED, *arguments], check=True, timeout=300)
    reference = contents(tmp_path / "reference")
    cut_short = 0
    for number, moment in enumerate(moments):
        folder = RunFolder(tmp_path / str(number))
        done = len(folder.rounds()) if folder.path.exists() else 0
        cut_short += 0 < done < 16
        run(small(rounds=16), folder.path, resume=True)
        assert contents(folder.path) == reference, f"killed at {moment:.2f}, in round {done}"
    assert cut_short >= 3, "the kills missed the training"


@pytest.mark.parametrize("fatal", range(0, 24, 3))
def test_a_disk_that_fills_up_leaves_a_folder_to_resume(
    fatal: int, finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > fatal:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"No space left on device.*--resume"):
        run(small(), tmp_path / "run")
    monkeypatch.setattr(os, "fsync", real)
    assert not list((tmp_path / "run").glob("*.partial"))
    assert contents(run(small(), tmp_path / "run", resume=True).path) == contents(finished.path)


def test_resume_begins_where_there_is_nothing_and_does_nothing_where_all_is_done(tmp_path: Path) -> None:
    folder = run(small(), tmp_path / "run", resume=True)
    before = {path: path.stat().st_mtime_ns for path in folder.path.iterdir()}
    assert run(small(), tmp_path / "run", resume=True).result == folder.result
    assert {path: path.stat().st_mtime_ns for path in folder.path.iterdir()} == before


def test_resume_with_other_constants_is_refused(tmp_path: Path) -> None:
    """A round that did not finish would be computed again by another model."""
    folder = run(small(rounds=1), tmp_path / "run")
    (folder.path / "result.json").unlink()
    folder.write("partition.json", folder.partition.model_copy(update={"constants": "others"}))
    with pytest.raises(RunFolderError, match=r"the constants of the model .* differ from the run"):
        run(small(rounds=1), tmp_path / "run", resume=True)


def test_resume_with_another_configuration_names_the_setting(finished: RunFolder) -> None:
    with pytest.raises(RunFolderError, match=r"training\.batch_size = 16, not 8"):
        run(small(training={**SMALL["training"], "batch_size": 8}), finished.path, resume=True)


def test_a_folder_that_is_in_use_is_not_written_over(finished: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"holds a run.*--resume"):
        run(small(), finished.path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(RunFolderError, match="neither empty nor a run folder"):
        run(small(), tmp_path / "mine", resume=True)


# --- folders that are not what they were ----------------------------------------------------------------------------


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A run that was interrupted after two rounds."""

    def interrupt(record: RoundRecord, timing: object) -> None:
        if record.round == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(small(), tmp_path / "run", observer=interrupt)
    return tmp_path / "run"


def test_two_processes_do_not_work_on_one_folder(interrupted: Path) -> None:
    with RunFolder(interrupted).locked(), pytest.raises(RunFolderError, match="another process is using it"):
        run(small(), interrupted, resume=True)
    assert run(small(), interrupted, resume=True).result.rounds == 4


def test_other_versions_or_devices_do_not_go_on_with_a_run(interrupted: Path) -> None:
    written = json.loads((interrupted / "environment.json").read_text())
    (interrupted / "environment.json").write_text(json.dumps({**written, "device": "A GPU"}))
    with pytest.raises(RunFolderError, match="was begun with device A GPU, and here it is"):
        run(small(), interrupted, resume=True)


def test_other_data_do_not_go_on_with_a_run(interrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Digits.load

    def altered(self: Digits) -> LoadedData:
        loaded = original(self)
        loaded.train.x[0] += 1
        return loaded

    monkeypatch.setattr(Digits, "load", altered)
    with pytest.raises(RunFolderError, match="the data differ from those"):
        run(small(), interrupted, resume=True)


def test_a_ledger_from_which_something_is_missing_is_refused(interrupted: Path) -> None:
    path = interrupted / "ledger.jsonl"
    terms, first, *rest = path.read_bytes().splitlines(keepends=True)
    entry = Entry.model_validate_json(first)
    fewer = Entry(round=0, spent=entry.spent[1:]).model_dump_json().encode() + b"\n"
    for changed in ([terms, fewer, *rest], [terms.replace(b"0.0001", b"0.1"), first, *rest]):
        path.write_bytes(b"".join(changed))
        with pytest.raises(RunFolderError, match="is not what 2 rounds of this run spent"):
            run(small(), interrupted, resume=True)
    path.write_bytes(b"".join([terms, *rest]))
    with pytest.raises(RunFolderError, match="round 1 cannot be entered: must be round 0"):
        run(small(), interrupted, resume=True)


@pytest.mark.parametrize("cut", [1, 10, None])
def test_a_torn_last_line_of_the_ledger_is_repaired(
    cut: int | None, finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in the third round, while it was entered or after it: the round is computed again, and charged once."""

    def crash(folder: RunFolder, number: int, *_: object) -> None:
        if number == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(views, "observe_transcripts", crash)
        with pytest.raises(KeyboardInterrupt):
            run(small(), tmp_path / "run")
    path = tmp_path / "run" / "ledger.jsonl"
    whole = path.read_bytes()
    assert whole.count(b"\n") == 1 + 3
    if cut is not None:
        path.write_bytes(whole[:-cut])
        with pytest.raises(RunFolderError, match=r"ledger\.jsonl: its last line was cut; mend it with --resume"):
            Ledger.read(path)
    assert contents(run(small(), tmp_path / "run", resume=True).path) == contents(finished.path)


@pytest.mark.parametrize("name", ["ledger.jsonl", "state.safetensors"])
def test_a_truncated_file_is_one_line(name: str, interrupted: Path) -> None:
    (interrupted / name).write_bytes((interrupted / name).read_bytes()[:100])
    with pytest.raises(RunFolderError, match="damaged") as caught:
        run(small(), interrupted, resume=True)
    assert "\n" not in str(caught.value)


def test_what_was_spent_is_written_before_what_was_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(views, "observe", crash)
    with pytest.raises(KeyboardInterrupt):
        run(small(), tmp_path / "run")
    assert spent_in(tmp_path / "run")


def test_a_member_that_overflows_does_not_cost_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the plan it counts as nothing; were the run to end by it, that would tell."""
    original = Digits.load

    def extreme(self: Digits) -> LoadedData:
        loaded = original(self)
        loaded.train.x[:20] = 3e38
        return loaded

    monkeypatch.setattr(Digits, "load", extreme)
    result = run(small(), tmp_path / "run").result
    assert result.rounds == 4
    assert 0 < result.train < 1
