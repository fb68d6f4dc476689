"""A first configuration for one's own data: what is written loads, runs and says what its parts do."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from command_line import Call, calling, one_line
from PIL import Image

from attacks import _shadows
from privfl.loading import load

RNG = np.random.default_rng(0)


@pytest.fixture
def privfl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr(_shadows, "cores", lambda: 1)  # No processes for shadow models; another test begins them.
    return calling(monkeypatch, capsys)


def table(place: Path, rows: int = 60, delimiter: str = ",", gap: str = "1.5") -> None:
    lines = [delimiter.join(("patient", "hospital", "age", "sex", "pressure", "died"))]
    for row in range(rows):
        values = (f"P{row * 7}x{row}", ("North", "South", "West")[row % 3], str(40 + row % 31), "mf"[row % 2])
        lines.append(delimiter.join((*values, gap if row == 5 else f"{100 + row % 17}.5", ("no", "yes")[row // 3 % 2])))
    place.write_text("\n".join(lines) + "\n")


def ran(privfl: Call, config: str, *settings: str) -> None:
    code, out, err = privfl("run", config, "rounds=1", *(settings or ("attacks.run=[]",)), "--quiet")
    assert code == 0, err
    assert "page: " in out


def test_a_table_with_clients(privfl: Call, tmp_path: Path) -> None:
    table(tmp_path / "patients.csv", rows=120)
    code, out, _ = privfl("init", "--data", "patients.csv", "--label", "died", "--client", "hospital", "--out", "my.toml")
    assert code == 0
    assert "privfl account my.toml" in out
    config, text = load("my.toml"), (tmp_path / "my.toml").read_text()
    assert config.name == "patients"
    assert config.data.partition.kind == "natural"
    assert config.cohort.kind == "all"
    assert list(config.model_dump()["data"]["drop"]) == ["patient"]
    assert config.model_dump()["privacy"]["delta"] == 0.01  # 96 training rows.
    tables = [line for line in text.splitlines() if line.startswith("[")]
    assert tables == ["[data]", "[model]", "[cohort]", "[training]", "[privacy]", "[aggregator]", "[server]", "[attacks]"]
    for head in tables:
        before = text.splitlines()[text.splitlines().index(head) - 1]
        assert before.startswith("# "), head
    for choices in ("client_dpftrl, ", "resnet8", "fedyogi", "regression"):
        assert choices in text
    ran(privfl, "my.toml", "attacks.shadow_models=2")


def test_nothing_is_overwritten_unless_asked(privfl: Call, tmp_path: Path) -> None:
    table(tmp_path / "patients.csv")
    (tmp_path / "patients.toml").write_text("mine")
    args = ["init", "--data", "patients.csv", "--label", "died", "--clients", "4"]
    code, _, err = privfl(*args)
    assert code == 2
    assert "--out patients.toml: is there already" in one_line(err)
    assert (tmp_path / "patients.toml").read_text() == "mine"
    assert privfl(*args, "--overwrite")[0] == 0
    assert load("patients.toml").data.clients == 4


def test_an_odd_table_is_understood(privfl: Call, tmp_path: Path) -> None:
    table(tmp_path / "my data.csv", rows=90, delimiter=";", gap="")
    code, _, err = privfl("init", "--data", "my data.csv", "--label", "died", "--out", "odd.toml")
    assert code == 0, err
    data = load("odd.toml").model_dump()["data"]
    assert (data["delimiter"], data["missing"], data["clients"]) == (";", "impute", 10)


def test_a_number_to_be_predicted_and_many_clients(privfl: Call, tmp_path: Path) -> None:
    table(tmp_path / "patients.csv", rows=150)
    assert privfl("init", "--data", "patients.csv", "--label", "pressure", "--clients", "30")[0] == 0
    config = load("patients.toml")
    assert (config.task.kind, config.cohort.kind, config.cohort.expected(30)) == ("regression", "poisson", 10)
    ran(privfl, "patients.toml")


def test_arrays(privfl: Call, tmp_path: Path) -> None:
    y = np.arange(80) % 3
    x = RNG.normal(size=(80, 5)) + y[:, None]
    np.savez(tmp_path / "own.npz", x=x, y=y, client=np.arange(80) // 3 % 4)
    assert privfl("init", "--data", "own.npz")[0] == 0
    assert load("own.toml").data.partition.kind == "natural"
    assert privfl("init", "--data", "own.npz", "--clients", "2", "--out", "two.toml")[0] == 0
    two = load("two.toml")
    assert (two.data.clients, two.aggregator.kind) == (2, "mean")
    ran(privfl, "two.toml")


@pytest.mark.parametrize("by_client", [False, True])
def test_a_folder_of_images(privfl: Call, tmp_path: Path, by_client: bool) -> None:
    for number in range(48):
        client = [f"school {number % 3}"] if by_client else []
        folder = tmp_path.joinpath("scans", *client, ("sick", "well")[number // 3 % 2])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(256, size=(12, 9)).astype(np.uint8)).save(folder / f"{number}.png")
    args = [] if by_client else ["--clients", "3"]
    assert privfl("init", "--data", "scans", "--out", "scans.toml", *args)[0] == 0
    data = load("scans.toml").model_dump()["data"]
    assert (data["size"], data["colour"], data["by_client"]) == (12, "grey", by_client)
    ran(privfl, "scans.toml")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_it_asks_three_things(privfl: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path / "patients.csv")
    monkeypatch.setattr("sys.stdin", Terminal("patients.csv\ndied\nhospital\n"))
    code, out, err = privfl("init")
    assert code == 0, err
    assert "Column to be learned (patient, hospital, age, sex, pressure, died)" in out + err
    assert load("patients.toml").data.partition.kind == "natural"
    monkeypatch.setattr("sys.stdin", Terminal("died\n5\n"))
    assert privfl("init", "--data", "patients.csv", "--out", "five.toml")[0] == 0
    assert load("five.toml").data.clients == 5


def test_mistakes_are_one_line(privfl: Call, tmp_path: Path) -> None:
    table(tmp_path / "patients.csv")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.docx").touch()
    np.savez(tmp_path / "own.npz", x=np.zeros((4, 2)), y=np.arange(4) % 2)
    every = "allowed: age, died, hospital, patient, pressure, sex"
    for typed, wanted in {
        "": "--data: is missing; name a table",
        "--data patients.csv": "--label: is missing; name the column to be learned: patient, hospital,",
        "--data patients.csv --label dead": f"--label: 'dead' is no column of patients.csv; did you mean 'died'? {every}",
        "--data patients.csv --label died --client ward": f"--client: 'ward' is no column of patients.csv; {every}",
        "--data patients.csv --label died --client died": "--client died: is the label",
        "--data patients.csv --label died --client hospital --clients 3": "give one of --client and --clients",
        "--data patients.csv --label died --clients 900": "--clients 900: there are 48 training examples",
        "--data patients.csv --label died --out my.cfg": "--out my.cfg: must end in .toml",
        "--data nowhere.csv --label died": "--data = 'nowhere.csv': there is no such file or folder",
        "--data notes.docx": "--data notes.docx: is none of what can be read: a table (.csv,",
        "--data own.npz --label y": "--label y: is for the columns of a table, and own.npz holds arrays",
        "--data empty": "--data empty: has no image (.png, .jpg, .jpeg) in it",
    }.items():
        code, _, err = privfl("init", *typed.split())
        assert code == 2, typed
        assert wanted in one_line(err), typed
    assert list(tmp_path.glob("*.toml")) == []
