"""The run folder: whole after any crash, typed when it is read back, and strict about what is not its own."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from small_runs import SMALL, small

from privfl.auditing.questions.membership import MembershipFinding
from privfl.errors import RunFolderError, StorageError
from privfl.records import Environment, Evaluation, Interval, PartitionRecord, RoundRecord, Spread, TimingRecord
from privfl.running.run_folder import FORMAT, RunFolder
from privfl.storage import npz, write_atomic, write_json

ENVIRONMENT = Environment(
    format=FORMAT, privfl="0", python="3.11", platform="any", processor="any", device="cpu", packages={"torch": "2.11"}
)
PARTITION = PartitionRecord(clients=["a"], classes=["0", "1"], counts=[[1, 2]], provenance="made up", digest="0", constants="0")
WHO = {"owner_N": np.zeros(3, np.int64), "candidate_N": np.ones(3, bool), "member_N": np.ones(3, bool)}


def begun(path: Path) -> RunFolder:
    folder = RunFolder.reserve(path)
    folder.begin(small(), ENVIRONMENT, WHO, PARTITION)
    return folder


def record(number: int, **changes: Any) -> RoundRecord:
    fields = {
        "round": number,
        "cohort": [1, 2],
        "survivors": [2],
        "secure": None,
        "skipped": None,
        "train_loss": 0.1 + 0.2,
        "clipped_share": 1 / 3,
        "clipped_coordinates": 0,
        "epsilon": 1e-17,
        "bytes_up": 2**40,
        "bytes_down": 0,
        "evaluation": Evaluation(
            metrics={
                "accuracy": Interval(value=0.5, low=0.4, high=0.6, n=10),
                "loss": Interval(value=1.0, low=0.9, high=1.1, n=10),
            },
            clients=Spread(minimum=0.0, p10=0.1, median=0.5, p90=0.9, maximum=1.0),
        ),
    }
    return RoundRecord(**{**fields, **changes})


def timing(number: int) -> TimingRecord:
    return TimingRecord(
        round=number, processes=1, train=0.1, aggregate_client=0.0, aggregate_server=0.0, evaluate=0.0, total=0.2, stages=[]
    )


def failing(code: int) -> Any:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, step, failing(errno.ENOSPC))
        with pytest.raises(StorageError, match=r"result\.json: could not be written \(No space left on device\)"):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_crash_between_writing_and_moving_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, b"old")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            write_atomic(path, b"new, and long")
    assert path.read_bytes() == b"old"
    write_atomic(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_the_content_is_on_disk_before_it_is_moved_into_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def spied_fsync(number: int) -> None:
        done.append("fsync")
        fsync(number)

    def spied_replace(old: Path, new: Path) -> None:
        done.append("replace")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", spied_fsync)
    monkeypatch.setattr(os, "replace", spied_replace)
    write_atomic(tmp_path / "x", b"content")
    assert done == ["fsync", "replace"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_a_disk_that_fails_is_no_mistake_of_the_user(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(code))
    with pytest.raises(StorageError, match=r"free some space, then go on with --resume") as caught:
        write_atomic(tmp_path / "x", b"")
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG])
def test_a_place_that_cannot_be_written_is(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(code))
    with pytest.raises(RunFolderError, match=r"cannot be written \(.*\); choose another place with --out") as caught:
        write_atomic(tmp_path / "x", b"")
    assert caught.value.exit_code == 2


def test_places_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "file" / "far" / "below"):
        with pytest.raises(RunFolderError, match="cannot be written"):
            RunFolder.reserve(path)
    with pytest.raises(RunFolderError, match=r"cannot be written \(Is a directory\)"):
        write_atomic(tmp_path, b"")


def test_json_is_exact_and_finite(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 0.1 + 0.2, "a": [1, None]})
    assert (tmp_path / "x.json").read_text() == '{\n "a": [\n  1,\n  null\n ],\n "b": 0.30000000000000004\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert "0.30000000000000004" in (tmp_path / "x.json").read_text()


def test_equal_arrays_give_equal_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"x": np.arange(6.0).reshape(2, 3), "y": np.array([True, False])}
    first = npz(arrays)
    # Not even the clock's year, which a zip archive would note of a file.
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert npz({name: array.copy() for name, array in arrays.items()}) == first
    assert npz({**arrays, "y": np.array([True, True])}) != first


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_folder_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    folder = begun(tmp_path / "deep" / "down")
    assert RunFolder.open(folder.path) == folder
    assert (folder.config, folder.environment, folder.partition) == (small(), ENVIRONMENT, PARTITION)
    assert (folder.finished, folder.findings, folder.rounds(), folder.timings()) == (False, (), [], [])
    for number in range(3):
        folder.append(record(number), timing(number))
    assert folder.rounds() == [record(number) for number in range(3)]
    assert folder.timings() == [timing(number) for number in range(3)]
    assert (folder.path / "rounds.jsonl").read_bytes().count(b"\n") == 3


@settings(max_examples=50, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.none() | st.text(), st.lists(st.integers(0, 2**40)))
def test_a_record_s_line_gives_the_same_record(value: float, text: str | None, cohort: list[int]) -> None:
    made = record(0, train_loss=value, skipped=text, cohort=cohort)
    line = made.model_dump_json().encode()
    assert len(line.splitlines()) == 1
    assert RoundRecord.model_validate_json(line) == made


def test_a_record_is_strict() -> None:
    for changes in ({"round": "1"}, {"train_loss": float("nan")}, {"train_los": 1.0}, {"bytes_up": 1.5}):
        with pytest.raises(ValidationError):
            record(0, **changes)


def test_a_round_is_on_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begun(tmp_path / "run")
    synced: list[int] = []
    fsync = os.fsync

    def spied(number: int) -> None:
        synced.append(os.fstat(number).st_size)
        fsync(number)

    monkeypatch.setattr(os, "fsync", spied)
    folder.append(record(0), timing(0))
    assert synced == [(folder.path / name).stat().st_size for name in ("rounds.jsonl", "timings.jsonl")]


@pytest.mark.parametrize("keep", [0, 1, 2, 3])
@pytest.mark.parametrize("tail", [b"", b'{"round": 3, "coh', b"\n"])
def test_rewind_drops_later_rounds_and_a_half_written_line(keep: int, tail: bytes, tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    for number in range(3):
        folder.append(record(number), timing(number))
    with (folder.path / "rounds.jsonl").open("ab") as file:
        file.write(tail)
    folder.rewind(keep)
    assert folder.rounds() == [record(number) for number in range(keep)]
    assert folder.timings() == [timing(number) for number in range(keep)]
    folder.append(record(keep, bytes_up=9), timing(keep))
    assert folder.rounds()[-1] == record(keep, bytes_up=9)


def test_rewind_of_a_folder_without_rounds(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    folder.rewind(0)
    assert folder.rounds() == []


def test_a_half_written_line_is_damage_until_it_is_rewound(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    (folder.path / "rounds.jsonl").write_bytes(b'{"round": 0, "coh')
    with pytest.raises(RunFolderError, match=r"rounds\.jsonl: is damaged .*repair it with --resume"):
        folder.rounds()


# --- what is not a run folder -----------------------------------------------------------------------------------------


def test_a_folder_that_is_in_use(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    with pytest.raises(
        RunFolderError, match="holds a run; continue it with --resume, replace it with --overwrite, or choose another"
    ):
        RunFolder.reserve(folder.path)
    with pytest.raises(RunFolderError, match="neither empty nor a run folder"):
        RunFolder.reserve(tmp_path)


@pytest.mark.parametrize("name", ["environment.json", "membership.npz", "partition.json", "config.toml"])
def test_a_crash_at_the_very_beginning_leaves_nothing_in_the_way(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed just before ``name`` was moved into place: it is no run folder yet, and a new run may begin there."""
    replace = os.replace

    def crash(old: Path, new: Path) -> None:
        if new.name == name:
            raise KeyboardInterrupt
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            begun(tmp_path / "run")
    with pytest.raises(RunFolderError, match="is not a run folder"):
        RunFolder.open(tmp_path / "run")
    assert begun(tmp_path / "run").partition == PARTITION


def test_folders_that_are_none(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunFolderError, match=r"is not a run folder \(no config\.toml in it\)"):
            RunFolder.open(path)


@pytest.mark.parametrize("content", ['{"format": 0}', '{"format": "1"}', "{}", "[]", "", "{", None])
def test_a_folder_of_another_version(content: str | None, tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    path = folder.path / "environment.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(RunFolderError, match=f"has format .*; this privfl reads format {FORMAT}: run its config.toml again"):
        RunFolder.open(folder.path)


def test_records_that_are_missing_or_damaged(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"has no result\.json: the run has not come that far; continue it with --resume"):
        _ = folder.result
    for content in ("{", "{}", "[]", '{"rounds": "3"}'):
        (folder.path / "result.json").write_text(content)
        with pytest.raises(RunFolderError, match=r"result\.json: is damaged \(.*\); run its config\.toml again") as caught:
            _ = folder.result
        assert len(str(caught.value).splitlines()) == 1


def test_the_attacks_record_is_typed(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    rate = {"fpr": 0.01, "tpr": None, "reason": "too few"}
    best = {"attack": "a", "variant": "v", "candidates": 5, "rates": [rate], "level": 0.95, "delta": 0.0}
    best |= {"epsilon_lower": 0.0, "epsilon_ceiling": 1.0, "headline_fpr": 0.1, "roc_fpr": [0.0, 1.0], "roc_tpr": [0.0, 1.0]}
    best["auc"] = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 5, "level": 0.95}
    who = {"question": "membership", "adversary": "server"}
    made = MembershipFinding.model_validate(
        {
            **who,
            "members": 5,
            "nonmembers": 5,
            "shadow_models": 0,
            "attacks": [],
            "best": best,
            "groupings": [],
            "exposed": [],
        }
    )
    folder.write_findings([made])
    assert folder.findings == (made,)
    path = folder.path / "attacks" / "summary.json"
    assert json.loads(path.read_text())["findings"][0]["best"]["rates"][0]["reason"] == "too few"
    for content in ("{", "[]", '{"members": 5}', '{"findings": [{"question": "nonsense"}]}', '{"findings": [{}]}'):
        path.write_text(content)
        with pytest.raises(RunFolderError, match=r"summary\.json: is damaged or of another version; attack the run again"):
            _ = folder.findings


# --- the same configuration -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, "seed = 0, not 1"),
        ({"training": {**SMALL["training"], "lr": 0.25}}, "training.lr = 0.5, not 0.25"),
        ({"data": {**SMALL["data"], "partition": {"kind": "iid"}}}, "data.partition.alpha = 1.0, not None"),
        ({"server": {"kind": "fedavg"}}, "server.beta1 = 0.9, not None"),
        ({"attacks": {"run": ["membership/loss"]}}, "attacks.run = (), not ({'kind': 'membership/loss'},)"),
    ],
)
def test_another_configuration_is_named(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    folder.require_same(small())
    with pytest.raises(RunFolderError) as caught:
        folder.require_same(small(**changes))
    assert f"{folder.path}: was begun with {said}; resume with the settings in its config.toml" in str(caught.value)
