"""``privfl reproduce``: rows by name, each run once, failures shown."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import Call, calling, one_line
from papers_made import RunHere, write_row

from privfl.data.datasets import _store
from privfl.data.datasets.digits import Digits
from privfl.running import sweeping
from privfl.running.run_folder import RunFolder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def privfl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return calling(monkeypatch, capsys)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> RunHere:
    found = RunHere()
    monkeypatch.setattr(sweeping, "run_one", found)
    return found


def statuses(folder: Path) -> dict[str, str]:
    return {path.stem: json.loads(path.read_text())["status"] for path in sorted((folder / "results").glob("*.json"))}


def test_rows_are_run_once_judged_and_recorded(privfl: Call, here: RunHere, tmp_path: Path) -> None:
    rows = tmp_path / "paper_configs"
    write_row(rows, "good")
    write_row(rows, "wrong", {"claim": 0.2, "tolerance": 0.01, "note": "The claim was made up."})
    write_row(rows, "worse", {"claim": None, "tolerance": None, "below": "good"}, rounds=1)
    write_row(rows, "large", {"device": "gpu"})
    (rows / "plain.toml").write_text((rows / "good.toml").read_text().partition("[paper]")[0])
    here.failing.add("good/seed=2")
    code, out, err = privfl("reproduce", "worse", "wrong")
    # What it is compared with is run too, and what failed is no result.
    assert code == 1
    assert "good, seed 2: failed: privfl: it was made to fail" in err
    assert "it is compared with good, which was not run" in out
    assert len(here.begun) == 9
    here.failing.clear()
    here.begun.clear()
    code, out, err = privfl("reproduce", "all")
    assert code == 0, err
    assert here.begun == ["good/seed=2"]
    assert statuses(rows) == {"good": "reproduced", "worse": "reproduced", "wrong": "not reproduced"}
    assert "4 rows: 2 reproduced, 1 not reproduced, 1 not run." in out
    assert "wrong: The claim was made up." in out
    assert "not run: large: needs a GPU (about 0.01 min a seed)" in err
    page = (rows / "README.md").read_text()
    assert "4 rows: 2 reproduced, 1 not reproduced, 1 not run." in page
    assert "| large | not run | 90.0 ± 20.0 | – | – | – | – | 0.0 | Nobody & Somebody 2020 | table 1, first row |" in page
    for name in ("papers.csv", "papers.md", "papers.tex", "papers.html"):
        assert (tmp_path / "runs" / "reproduce" / name).stat().st_size
    table = list(csv.DictReader((tmp_path / "runs" / "reproduce" / "papers.csv").read_text().splitlines()))
    values = json.loads((rows / "results" / "good.json").read_text())["cells"][0]["values"]
    assert float(table[0]["mean"]) == pytest.approx(sum(values) / 3, rel=1e-5)
    assert "<td>Nobody &amp; Somebody 2020</td>" in (tmp_path / "runs/reproduce/papers.html").read_text()
    # All of it can be written again without training.
    before = {path: path.read_bytes() for path in [rows / "README.md", *(rows / "results").iterdir()]}
    (rows / "README.md").unlink()
    here.begun.clear()
    assert privfl("reproduce", "--table")[0] == 0
    assert here.begun == []
    assert {path: path.read_bytes() for path in before} == before


def test_fewer_seeds_do_not_replace_more_and_other_settings_do(privfl: Call, here: RunHere, tmp_path: Path) -> None:
    rows = tmp_path / "paper_configs"
    path = write_row(rows, "good")
    assert privfl("reproduce", "good")[0] == 0
    before = (rows / "results" / "good.json").read_bytes()
    code, out, err = privfl("reproduce", "good", "--seeds", "1")
    assert code == 0
    assert "It has 1 of the 3 seeds that it needs." in out
    assert "good: the recorded result has more seeds and was kept" in err
    assert (rows / "results" / "good.json").read_bytes() == before
    path.write_text(path.read_text().replace("rounds = 3", "rounds = 2"))
    privfl("reproduce", "--table")
    assert "its settings were changed after it was run" in (rows / "README.md").read_text()
    here.begun.clear()
    assert privfl("reproduce", "good", "--seeds", "2")[0] == 0
    assert here.begun == ["good/seed=0 again", "good/seed=1 again"]
    assert json.loads((rows / "results" / "good.json").read_text())["seeds"] == [0, 1]


def test_settings_can_follow_the_seed(privfl: Call, here: RunHere, tmp_path: Path) -> None:
    write_row(tmp_path / "paper_configs", "row", {"seeds": [7], "seeded": ["model.torch_seed"]}, rounds=1)
    assert privfl("reproduce", "row")[0] == 0
    config = RunFolder.open(tmp_path / "runs" / "reproduce" / "row" / "seed=7").config
    assert (config.seed, config.model.model_dump()["torch_seed"]) == (7, 7)


def test_published_outputs_are_attacked_in_place_of_a_model(
    privfl: Call, here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target is right about its members alone; a shadow model of the same kind shows how to tell."""
    rows, data = tmp_path / "paper_configs", tmp_path / "data" / "authors"
    monkeypatch.setenv("PRIVFL_DATA", str(tmp_path / "data"))
    data.mkdir(parents=True)
    table = Digits(kind="digits").load()
    y = np.concatenate([table.train.y, table.test.y])
    right = np.where(np.arange(len(y)) < len(table.train.y), y, (y + 1) % 10)
    np.savez(data / "outputs.npz", target=10.0 * np.eye(10)[right], shadow=10.0 * np.eye(10)[right])
    published = {"logits": "authors/outputs.npz:target", "reference_logits": "authors/outputs.npz:shadow"}
    paper = {"metric": "attack:membership/class_thresholds[correctness]:auc", "claim": 1.0, "tolerance": 0.001}
    write_row(rows, "row", {**paper, "published": published})
    code, _, err = privfl("reproduce", "row")
    assert code == 0, err
    assert statuses(rows) == {"row": "reproduced"}
    assert here.begun == []
    for name, said in (
        ("authors/outputs.npz:nobody", "has no array 'nobody'; it has shadow, target"),
        ("authors/nothing.npz:target", "row: needs authors/nothing.npz of the authors in $PRIVFL_DATA"),
    ):
        write_row(rows, "row", {**paper, "published": {**published, "logits": name}})
        assert said in privfl("reproduce", "row")[1]
    write_row(rows, "row", {**paper, "metric": "test.accuracy", "published": published})
    assert "must be attack:<name>:<figure>, of the published outputs" in one_line(privfl("reproduce", "row")[2])


def test_a_smoke_run_records_nothing(privfl: Call, tmp_path: Path) -> None:
    """Through a process of its own, as in earnest; a GPU is not needed."""
    rows = tmp_path / "paper_configs"
    write_row(rows, "good", {"device": "gpu"}, device="cuda", rounds=5000)
    code, out, err = privfl("reproduce", "all", "--smoke")
    assert code == 0, err
    assert "1 of 1 rows run; nothing was recorded" in out
    assert not (rows / "README.md").exists()
    assert not (rows / "results").exists()
    assert not (tmp_path / "runs" / "reproduce").exists()


def test_the_list_has_filters(privfl: Call, tmp_path: Path) -> None:
    rows = tmp_path / "paper_configs"
    write_row(rows, "one", {"topic": "attack"})
    write_row(rows, "two", {"device": "gpu", "minutes": 30.0})
    write_row(rows, "three", {"minutes": 2.0})
    for words, names in (
        (["--list"], "one two three"),
        (["--list", "--cpu"], "one three"),
        (["--list", "--minutes", "1"], "one"),
        (["--list", "--topic", "attack"], "one"),
        (["t*", "--list"], "two three"),
    ):
        code, out, _ = privfl("reproduce", *words)
        assert code == 0
        shown = {line.split()[0] for line in out.splitlines() if line.split()}
        assert shown & {"one", "two", "three"} == set(names.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to reproduce: name a row, a pattern in quotes, or all"),
        (["good1"], "'good1': is no row of a paper; did you mean 'good'?"),
        (["bad*"], "'bad*': is no row of a paper; allowed: all, good"),
        (["all", "--topic", "robustness"], "--topic 'robustness': did you mean 'robust'?"),
        (["all", "--topic", "robust"], "no row of 1 passes the filters"),
        (["all", "--papers", "nowhere"], "nowhere: is no folder; type this in a clone of privfl"),
        (["all", "--smoke", "--seeds", "2"], "--seeds 2: --smoke runs one seed of each row"),
    ],
)
def test_mistakes_are_one_line(privfl: Call, tmp_path: Path, words: list[str], said: str) -> None:
    write_row(tmp_path / "paper_configs", "good")
    code, _, err = privfl("reproduce", *words)
    assert code == 2
    assert said in one_line(err)


def test_a_row_is_told_what_is_wrong_with_it(privfl: Call, here: RunHere, tmp_path: Path) -> None:
    rows = tmp_path / "paper_configs"
    write_row(rows, "row", {"metric": "epsilon"})
    # Before anything is run.
    code, _, err = privfl("reproduce", "row")
    assert code == 1
    assert "row: failed: privacy.kind = 'none': nothing is promised, so no ε exists" in err
    for paper, said in (
        ({"metric": "test.acuracy"}, "paper.metric = 'test.acuracy': did you mean 'accuracy'?"),
        ({"metric": "client:nobody"}, "paper.metric = 'client:nobody': has no examples of its own"),
        ({"metric": "personal.mean"}, "paper.metric = 'personal.mean': no client has a model of its own"),
        ({"metric": "attack:membership/loss:auc"}, "paper.metric = 'attack:membership/loss': the run has no finding of it"),
    ):
        write_row(rows, "row", {**paper, "seeds": 1})
        code, out, err = privfl("reproduce", "row")
        assert code == 1
        assert f"row, seed 0: failed: {said}" in err
        assert f"row: failed: {said}" in out
    write_row(rows, "row", {"needs": ["no_such_module"]})
    assert "row: needs no_such_module: pip install no_such_module" in privfl("reproduce", "row")[1]
    write_row(rows, "row", {"claim": None, "tolerance": None, "above": "rov"})
    assert "paper compares with 'rov', which is no row: did you mean 'row'?" in one_line(privfl("reproduce", "row")[2])


def test_missing_data_are_a_reason_and_no_failure(
    privfl: Call, here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIVFL_DATA", str(tmp_path))
    monkeypatch.setattr(_store, "cache_root", lambda: tmp_path / "cache")
    rows = tmp_path / "paper_configs"
    write_row(rows, "row", data={"kind": "location30", "clients": 2})
    code, out, _ = privfl("reproduce", "row", "--quiet")
    assert code == 0
    assert "row: needs the data set location30: " in out
    assert here.begun == []
    assert "1 row: 1 not run." in out


def test_the_readme_is_that_of_the_results(tmp_path: Path, privfl: Call) -> None:
    """Of the rows that this project has: after a change of either, `privfl reproduce --table` writes it again."""
    shutil.copytree(ROOT / "paper_configs", tmp_path / "paper_configs")
    assert privfl("reproduce", "--table")[0] == 0
    for path in (tmp_path / "paper_configs").rglob("*.*"):
        assert path.read_bytes() == (ROOT / path.relative_to(tmp_path)).read_bytes(), path
