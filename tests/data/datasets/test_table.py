"""A table of the user's own: what becomes of its columns and rows, and one line for each mistake."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from command_line import calling, one_line
from small_runs import SMALL

from privfl.data.datasets import _own_files
from privfl.data.datasets.table import Table
from privfl.data.federated import LoadedData
from privfl.errors import ConfigError, DataError
from privfl.loading import dump, load, loads
from privfl.running.recording import run as train

PATIENTS = """site,age,sex,pressure,sick
North,63,m,145,yes
North,67,f,160,no
North,41,m,?,yes
South,56,f,120,no
South,62,m,140,yes
South,57,,120,no
South,44,f,118,yes
West,52,m,172,no
West,48,m,150,yes
West,54,f,,no
"""
TEST = "age,sex,pressure,sick\n50,m,130,no\n61,x,155,yes\n"


def table(folder: Path, content: str | bytes = PATIENTS, name: str = "patients.csv", **settings: Any) -> Table:
    content = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(content)
    if "test" in settings:
        (folder / "test.csv").write_text(settings.pop("test"))
        settings["test_file"] = str(folder / "test.csv")
    made: Table = Table.model_validate({"kind": "table", "clients": 2, "file": str(folder / name), "label": "sick", **settings})
    return made


def loaded(folder: Path, content: str | bytes = PATIENTS, **settings: Any) -> LoadedData:
    return table(folder, content, **{"missing": "impute", **settings}).load()


# --- columns ------------------------------------------------------------------------------------------------------------


def test_columns_become_numbers_by_the_training_part_alone(tmp_path: Path) -> None:
    data = loaded(tmp_path, client="site", test=TEST)
    age = np.array([63, 67, 41, 56, 62, 57, 44, 52, 48, 54.0])
    pressure = np.array([145, 160, 0, 120, 140, 120, 118, 172, 150, 0.0])
    missing = pressure == 0
    pressure[missing] = np.median(pressure[~missing])
    f, m = (np.array([sex == which for sex in "mfmfm-fmmf"]) for which in "fm")
    scaled = [(one - one.mean()) / one.std() for one in (age, pressure)]
    expected = np.column_stack([scaled[0], f, m, scaled[1], missing])
    np.testing.assert_allclose(data.train.x, expected, rtol=1e-5, atol=1e-6)
    assert data.train.y.tolist() == [1, 0] * 5
    assert data.classes == ("no", "yes")
    # An unseen level is all zeros; a number is scaled by the training part.
    np.testing.assert_allclose(data.test.x[1, :3], [(61 - age.mean()) / age.std(), 0, 0], rtol=1e-5)
    assert data.test.x[1, 4] == 0
    assert data.test.y.tolist() == [0, 1]
    # Other test rows move nothing of the training part.
    other = loaded(tmp_path, client="site", test=TEST.replace("130", "9000"))
    np.testing.assert_array_equal(other.train.x, data.train.x)


def test_what_was_done_is_said_and_recorded(tmp_path: Path) -> None:
    data = loaded(tmp_path, client="site", categories="sex", test=TEST)
    sha256 = hashlib.sha256(PATIENTS.encode()).hexdigest()
    assert [(one.name, one.size, one.sha256) for one in data.files] == [
        ("patients.csv", len(PATIENTS), sha256),
        ("test.csv", len(TEST), hashlib.sha256(TEST.encode()).hexdigest()),
    ]
    assert [(one.name, one.kind, one.inferred) for one in data.columns] == [
        ("age", "number", True),
        ("sex", "category", False),
        ("pressure", "number", True),
    ]
    assert data.columns[0].fill is None
    assert (data.columns[1].levels, data.columns[2].fill) == (["f", "m"], 142.5)
    assert data.provenance == (
        f"patients.csv (203 bytes, SHA-256 {sha256[:12]}…), label sick; the test part is test.csv (47 bytes, SHA-256 "
        f"{data.files[1].sha256[:12]}…). Inputs are 2 numbers (age, pressure): standardised; and 1 category (sex): one-hot, 2 "
        "levels, zeros for another or none. Whether a column is a number or a category was inferred from its values for age, "
        "pressure. A missing number (pressure) is the median, and an input of its own says so. Means, deviations, medians and "
        "levels are those of the training part, members and hold-out alike: no ε covers them."
    )


def test_with_ranges_no_statistic_of_the_data_is_used(tmp_path: Path) -> None:
    ranges = {"age": [50, 60], "pressure": [100, 200.0]}
    data = loaded(tmp_path, drop=["sex", "site"], ranges=ranges, missing="drop", test=TEST)
    np.testing.assert_allclose(data.train.x[:3], [[1, 0.45], [1, 0.6], [0.6, 0.2]], rtol=1e-6)
    assert "no ε" not in data.provenance
    assert "2 rows with a missing value were dropped" in data.provenance
    plain = loaded(tmp_path, drop=["sex", "site"], scale="none", missing="drop", test=TEST)
    np.testing.assert_array_equal(plain.train.x[0], [63, 145])
    assert "no ε" not in plain.provenance


def test_a_category_may_be_a_number_and_a_code_is_one_level_however_it_is_written(tmp_path: Path) -> None:
    rows = "".join(f"{code:{form}},{code % 2}\n" for form in (".0f", ".1f", ".2f", ".0f") for code in [10, 9, 2])
    data = loaded(tmp_path, "code,sick\n" + rows, categories=["code"])
    assert data.columns[0].levels == ["2", "9", "10"]
    assert data.train.x.shape[1] == 3
    assert (data.train.x.sum(axis=1) == 1).all()
    assert data.classes == ("0", "1")


def test_a_parquet_file_is_the_same_table(tmp_path: Path) -> None:
    typed = pyarrow.csv.read_csv(pyarrow.BufferReader(PATIENTS.replace("?", "").encode()))
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(typed, sink)
    one = loaded(tmp_path, client="site")
    other = loaded(tmp_path, sink.getvalue().to_pybytes(), name="patients.parquet", client="site")
    assert one.digest() == other.digest()
    assert one.columns == other.columns


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + PATIENTS,
        PATIENTS.replace("\n", "\r\n"),
        PATIENTS.replace(",", " , "),
        "".join(f'"{line.replace(",", chr(34) + "," + chr(34))}"\n' for line in PATIENTS.splitlines()),
    ],
    ids=["mark", "windows", "spaces", "quotes"],
)
def test_files_of_other_programs_are_the_same_table(content: str, tmp_path: Path) -> None:
    assert loaded(tmp_path, content, client="site").digest() == loaded(tmp_path, client="site").digest()


def test_another_delimiter_can_be_named(tmp_path: Path) -> None:
    one = loaded(tmp_path, PATIENTS.replace(",", ";"), delimiter=";")
    assert one.digest() == loaded(tmp_path).digest()


# --- labels -------------------------------------------------------------------------------------------------------------


def test_a_number_and_several_labels_can_be_learned(tmp_path: Path) -> None:
    rows = "a,b,c,d\n" + "".join(f"{i},{i / 8},{i % 2},{'true' if i % 3 else 'false'}\n" for i in range(20))
    number = loaded(tmp_path, rows, label="b", target="number")
    assert number.train.y.dtype == np.float32
    assert sorted([*number.train.y, *number.test.y]) == [i / 8 for i in range(20)]
    assert number.classes == ()
    several = loaded(tmp_path, rows, label=["c", "d"])
    assert several.train.y.dtype == np.int64
    assert several.train.y.shape == (16, 2)
    assert several.classes == ("c", "d")
    assert len(np.unique(several.train.y, axis=0)) == 4


# --- the test part ------------------------------------------------------------------------------------------------------


def test_the_test_part_is_drawn_by_its_own_seed_evenly_over_clients_and_classes() -> None:
    rng = np.random.default_rng(0)
    class_N, client_N = rng.integers(0, 3, 2000), rng.integers(0, 4, 2000)
    test_N = _own_files.drawn_test(0.25, 0, 2000, client_N, class_N)
    assert test_N.sum() == 500
    for client in range(4):
        for which in range(3):
            cell_N = (client_N == client) & (class_N == which)
            # Seven are kept beforehand, and at each end of a cell at most one more or less is taken.
            assert abs(test_N[cell_N].sum() - cell_N.sum() / 4) <= 3
    assert (test_N == _own_files.drawn_test(0.25, 0, 2000, client_N, class_N)).all()
    assert (test_N != _own_files.drawn_test(0.25, 1, 2000, client_N, class_N)).any()


@pytest.mark.parametrize("seed", range(20))
def test_no_client_and_no_class_loses_its_only_example(seed: int) -> None:
    client_N = np.array([0, 1, 1, 2, 2, 2, 2, 2, 2, 2])
    class_N = np.array([0, 0, 0, 0, 0, 1, 0, 0, 0, 0])
    train_N = ~_own_files.drawn_test(0.5, seed, 10, client_N, class_N)
    assert set(client_N[train_N]) == {0, 1, 2}
    assert set(class_N[train_N]) == {0, 1}


def test_the_test_part_is_that_of_all_runs_and_partitions(tmp_path: Path) -> None:
    def rows(**settings: Any) -> set[bytes]:
        return {row.tobytes() for row in loaded(tmp_path, scale="none", client="site", **settings).test.x}

    natural = rows(clients=None, partition={"kind": "natural"})
    assert natural == rows(clients=3, partition={"kind": "iid"}) == rows(clients=2, holdout=0.0)
    assert any(rows(split_seed=seed) != natural for seed in (1, 2, 3))
    assert len(rows(test_share=0.4)) == 2 * len(natural) == 4


# --- mistakes -----------------------------------------------------------------------------------------------------------

WIDE = "id,sick\n" + "".join(f"{number},{number % 2}\n" for number in range(101))
NAMES = "name,sick\n" + "".join(f"Patient {number},{number % 2}\n" for number in range(101))
OWN_TEST = {"drop": "site"}
MISTAKES: dict[str, tuple[str | bytes, dict[str, Any], str]] = {
    "label": (
        PATIENTS,
        {"label": "sik"},
        "data.label: 'sik' is no column of patients.csv; did you mean 'sick'? allowed: age, ",
    ),
    "client": (PATIENTS, {"client": "sites"}, "data.client: 'sites' is no column of patients.csv; did you mean 'site'?"),
    "numbers": (PATIENTS, {"numbers": ["Age"]}, "data.numbers: 'Age' is no column of patients.csv; did you mean 'age'?"),
    "drop": (PATIENTS, {"drop": ["ag"]}, "data.drop: 'ag' is no column"),
    "ranges": (PATIENTS, {"ranges": {"ags": [0, 1]}}, "data.ranges: 'ags' is no column of patients.csv; did you mean 'age'?"),
    "range of text": (PATIENTS, {"ranges": {"sex": [0, 1]}}, "data.ranges: 'sex' is no input that is a number; allowed: age"),
    "text": (PATIENTS, {"numbers": ["sex"]}, "data.numbers = 'sex': row 1 of patients.csv has 'm', which is no number; name"),
    "missing": (
        PATIENTS,
        {"missing": "refuse"},
        "1 rows have no value in 'sex' (3 rows with 'sex', 'pressure'); set data.missing",
    ),
    "no label": (PATIENTS.replace(",yes", ","), {}, "5 rows have no value in 'sick'; set data.missing = 'drop'; labels"),
    "no client": (
        PATIENTS.replace("North", "NA"),
        {"client": "site"},
        "3 rows have no value in 'site'; set data.missing = 'drop'",
    ),
    "nothing left": (PATIENTS.replace("yes", "").replace("no", ""), {"missing": "drop"}, "no row has all values"),
    "empty column": ("a,b,sick\n" + ",1,0\n,2,1\n" * 9, {}, "its column 'a' has no value at all; name it in data.drop"),
    "identifier": (
        WIDE,
        {},
        "column 'id' has a different whole number in each row, as an identifier has; name it in data.drop",
    ),
    "names": (NAMES, {}, "its column 'name' has 101 different texts, such as 'Patient 0'; name it in data.drop"),
    "many classes": (WIDE, {"label": "id"}, "has 101 different values, too many for classes; set data.target = 'number' and"),
    "text classes": (NAMES, {"label": "name"}, "has 101 different values, too many for classes; name another column"),
    "text number": (PATIENTS, {"target": "number"}, "data.label = 'sick': row 1 of patients.csv has 'yes', which is no number"),
    "no bits": (PATIENTS, {"label": ["sick", "age"]}, "data.label: 'sick' has 'yes'; each of several labels must be 0 or 1"),
    "one class": (PATIENTS.replace("yes", "no"), {}, "data.label = 'sick': has one class only, 'no'; there must be two"),
    "infinite": (PATIENTS.replace("63", "inf"), {}, "'age': row 1 of patients.csv has 'inf', which is too large"),
    "too large": (PATIENTS.replace("63", "1e39"), {"numbers": "age"}, "'age': row 1 of patients.csv has '1e39', which is too"),
    "no input": ("sick\n1\n0\n", {}, "no column is left as an input"),
    "no rows": ("age,sick\n", {}, "has no rows below its header; add at least one"),
    "nothing": ("", {}, "cannot be read as a table"),
    "twice": ("age,age,sick\n1,2,3\n", {}, "has two columns named 'age'; rename one of them"),
    "no name": ("age,,sick\n1,2,3\n", {}, "its column 2 has no name"),
    "ragged": (PATIENTS + "North,1,m\n", {}, "cannot be read as a table (CSV parse error: Row #12: Expected 5 columns, got 3"),
    "semicolons": (
        PATIENTS.replace(",", ";"),
        {},
        "has one column only, 'site;age;sex;pressure;sick'; set data.delimiter = ';'",
    ),
    "latin": (PATIENTS.replace("North", "Zürich").encode("latin-1"), {}, "is not UTF-8 (byte 29); save it as UTF-8"),
    "share": (PATIENTS, {"test_share": 0.9}, "data.test_share = 0.9: is 9 of 10 examples, and 2 are kept for training"),
    "test class": (
        PATIENTS,
        {**OWN_TEST, "test": TEST.replace("yes", "maybe")},
        "the test part has examples of class 'maybe', and",
    ),
    "test column": (
        PATIENTS,
        {**OWN_TEST, "test": TEST.replace("sex", "Sex")},
        "data.test_file: 'sex' is no column of test.csv",
    ),
    "test text": (
        PATIENTS,
        {**OWN_TEST, "test": TEST.replace("61", "old")},
        "data.test_file = 'age': row 2 of test.csv has 'old'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, tmp_path: Path) -> None:
    content, settings, words = MISTAKES[mistake]
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        loaded(tmp_path, content, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("patients.xlsx", b"PK", r"has no suffix of a table; allowed: .csv, .tsv, .txt, .parquet, .pq"),
        ("patients.parquet", b"PAR1", "cannot be read as a table"),
        ("patients.parquet", None, r"its column 'when' is of type list<.*>; columns must be text or numbers"),
    ],
)
def test_what_is_no_table_is_one_line(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is None:
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.table({"when": [[1], [2]], "sick": [0, 1]}), sink)
        content = sink.getvalue().to_pybytes()
    with pytest.raises(DataError, match=words) as caught:
        loaded(tmp_path, content, name=name)
    assert "\n" not in str(caught.value)


def test_the_settings_mistakes_are_said_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    privfl = calling(monkeypatch, capsys)
    for words, said in {
        "file=none.csv label=sick": f"data.file = 'none.csv': there is no such file in {tmp_path}, the folder at which",
        "file=. label=sick": "data.file = '.': is a folder; give a file",
        "label=sick": "data.file: is missing",
        "file=p.csv label=sick drop=sick": "data.drop = 'sick': is named in data.label too; name each column once",
        'file=p.csv label=sick numbers=["age","age"]': "data.numbers = 'age': is named twice; name each column once",
        "file=p.csv label=sick partition=natural": "data.client: must name the column of the clients if data.partition.kind",
        'file=p.csv label=["a","b"] target=number': "data.target = 'number': is for one label; name one column in data.label",
        "file=p.csv label=sick ranges.age=[9,1]": "data.ranges.age = [9.0, 1.0]: must be a range [low, high], low below high",
        "file=p.csv label=sick client=site partition=natural clients=2": "data.clients = 2: is set by the data",
        "file=p.csv label=sick missing=guess": "data.missing = 'guess': must be 'refuse', 'drop' or 'impute'",
    }.items():
        code, _, err = privfl("data", "show", "table", *words.split())
        assert (code, said in one_line(err)) == (2, True), err
    code, _, err = privfl("data", "fetch", "table")
    assert code == 2
    assert "there is nothing to fetch; `privfl data show table file=FILE.csv label=COLUMN` shows yours" in one_line(err)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("regression", r"data.target = 'class': must be 'number' for task = 'regression'"),
        ("multilabel", r"data.label = 'sick': must be a list of columns for task = 'multilabel'"),
    ],
)
def test_a_task_that_learns_another_kind_of_label_is_refused_before_anything_is_read(task: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        loads({**SMALL, "task": task, "data": {"kind": "table", "file": "none.csv", "label": "sick", "clients": 5}})


# --- a whole run --------------------------------------------------------------------------------------------------------


def test_a_run_on_a_table_records_its_files_and_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table(tmp_path)
    data = {"kind": "table", "file": "patients.csv", "label": "sick", "client": "site", "missing": "impute"}
    config = loads(
        {**SMALL, "rounds": 1, "cohort": "all", "data": {**data, "partition": "natural", "ranges": {"age": [0, 120]}}}
    )
    folder = train(config, tmp_path / "run")
    assert load(folder.path / "config.toml") == config == loads(folder.config.model_dump(mode="json", exclude_none=True))
    assert 'file = "patients.csv"' in dump(config)
    recorded = json.loads((folder.path / "partition.json").read_bytes())
    assert recorded["clients"] == ["North", "South", "West"]
    assert recorded["files"] == [
        {"name": "patients.csv", "size": len(PATIENTS), "sha256": hashlib.sha256(PATIENTS.encode()).hexdigest()}
    ]
    assert [one["name"] for one in recorded["columns"]] == ["age", "sex", "pressure"]
    # Another table under the same name is no longer the run's.
    (tmp_path / "patients.csv").write_text(PATIENTS.replace("63", "64"))
    code, _, err = calling(monkeypatch, capsys)("attack", "run", "membership/loss")
    assert code == 2
    assert "data" in one_line(err)
