"""Each script of ``examples/`` runs as its first lines say, and prints the figures of the runs that it made."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import privfl
from attacks import _shadows

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "examples").glob("[a-z]*.py"))
Follow = Callable[[str], list[str]]


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Follow:
    """Run one of them in an empty folder, in this process; returns what it prints, line by line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.setattr(_shadows, "cores", lambda: 1)  # No processes for shadow models; another test begins them.
    for name in [name for name in sys.modules if name.partition(".")[0] == "examples"]:
        monkeypatch.delitem(sys.modules, name)

    def run(name: str) -> list[str]:
        runpy.run_module(f"examples.{name}", run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run


def figures(lines: list[str]) -> list[str]:
    return re.findall(r"\d+\.\d+|inf", "\n".join(lines))


def test_the_pages_list_all_of_them_and_each_is_short() -> None:
    for page in ("README.md", "docs/python.md"):
        listed = re.findall(r"examples/(\w+)\.py\)", (ROOT / page).read_text(encoding="utf-8"))
        assert sorted(listed) == NAMES, page
    for name in NAMES:
        text = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 60, name
        assert f"python -m examples.{name}\n" in text


def test_one_runs_as_it_is_typed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.own_model"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    run, blank = done.stdout.splitlines()
    assert run == repr(privfl.Run(tmp_path / "runs" / "own-model")).replace(f"{tmp_path}/", "")
    assert blank.startswith("a blank page is taken for a ")


def test_attack_a_run(follow: Follow) -> None:
    *found, promise, page = follow("attack_a_run")
    assert {line.partition(" ")[0] for line in found} == {"membership/loss", "membership/rmia"}
    assert promise.startswith("promised ε: inf; measured: at least ")
    assert Path(page).is_file()


def test_audit_a_run(follow: Follow) -> None:
    *found, page = follow("audit_a_run")
    assert len(figures([line for line in found if "ε is at least" in line])) == 4
    # It keeps its promise; 5 % of seeds would say otherwise, for each adversary.
    assert [line.endswith("1.00, not refuted") for line in found if "promised is 1.00" in line] == [True, True]
    assert sum("no bound" in line for line in found) == 1
    assert Path(page).is_file()


def test_client_level_hospitals(follow: Follow) -> None:
    first, second, third, one = (figures([line]) for line in follow("client_level_hospitals"))
    assert float(first[1]) > float(second[1]) > float(third[1])
    assert one == [third[1]]
    assert {run.epsilon.unit for run in map(privfl.Run, sorted(Path("runs").iterdir()))} == {"client"}


def test_compare_runs(follow: Follow) -> None:
    *rows, table, page = follow("compare_runs")
    accuracies = privfl.load_runs("runs/compared*")["accuracy"]
    assert [figures([row])[1] for row in rows] == [f"{100 * value:.1f}" for value in accuracies]
    assert len(Path(table).read_text().splitlines()) == 4
    assert ", 3 runs</h1>" in Path(page).read_text()


def test_export_model(follow: Follow) -> None:
    *files, labels = follow("export_model")
    assert [Path(line.partition(":")[0]).is_file() for line in files] == [True, True]
    assert re.fullmatch(r"\[\d, \d, \d\]", labels)


def test_own_aggregator(follow: Follow) -> None:
    trimmed, mean = follow("own_aggregator")
    assert privfl.Run("runs/own-aggregator").config.aggregator.kind == "examples.own_aggregator"
    # The rule is another one than the mean, and learns.
    assert figures([trimmed]) != figures([mean])
    assert float(figures([trimmed])[0]) > 0.5


def test_own_attack(follow: Follow) -> None:
    lines = follow("own_attack")
    assert {line.partition(":")[0] for line in lines} == {"examples.own_attack", "membership/loss"}


def test_own_data(follow: Follow) -> None:
    _, *hospitals = follow("own_data")
    run = privfl.Run("runs/own-data")
    assert hospitals == [f"{name}: ε = {epsilon:.2f}" for name, epsilon in run.epsilon.clients.items()]
    assert len(hospitals) == 4


def test_price_before_training(follow: Follow) -> None:
    title, *rows, account = follow("price_before_training")
    assert title.split() == ["noise", "rounds", "ε"]
    prices = [float(row.split()[2]) for row in rows]
    # More rounds cost more, and more noise costs less.
    assert prices[0] < prices[1] > prices[3] > prices[5]
    assert 1.9 < float(figures([account])[0]) <= 2
    assert not Path("runs").exists()


def test_sweep_epsilon(follow: Follow) -> None:
    _, *rows = follow("sweep_epsilon")
    table = privfl.load_runs("runs/sweep*")
    assert [row.split()[0] for row in rows] == [f"{value:.2f}" for value in table["epsilon"]]
    assert table["accuracy"][2] > table["accuracy"][0]
