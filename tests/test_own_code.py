"""Mistakes in the user's own modules: one line with the file, the place and the exception."""

from __future__ import annotations

import itertools
import sys
import textwrap
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from command_line import Call, calling, one_line
from small_runs import small

from attacks._shadows import _how
from privfl import cli, own_code
from privfl.auditing.questions.membership import MembershipClaim
from privfl.errors import ItemError
from privfl.loading import dump, load, load_data

PLAIN: dict[str, Any] = {"privacy": {"kind": "none"}, "aggregator": {"kind": "mean"}, "server": {"kind": "fedavg"}}
NUMBERS = itertools.count()

TABLE = """
    import csv
    from pathlib import Path
    from typing import ClassVar

    import numpy as np

    from privfl.data.datasets import About, Dataset
    from privfl.data.federated import Examples, LoadedData


    class Table(Dataset):
        about: ClassVar[About] = About(title="a table", train=4, test=2, classes=2, licence="mine", homepage="mine")
        place: Path

        def read(self):
            rows = list(csv.reader(self.place.read_text().splitlines()))
            x = np.array([[float(cell) for cell in row[:-1]] for row in rows], dtype=np.float32)
            y = np.array([int(row[-1]) for row in rows])
            return LoadedData(Examples(x[:4], y[:4]), Examples(x[4:], y[4:]), ("no", "yes"), "a table")
"""
ROWS = "1.5,0\n2.5,1\n3.5,0\n4.5,1\n5.5,0\n6.5,1\n"


@pytest.fixture
def privfl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return calling(monkeypatch, capsys)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; the modules of others are not found."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lab(here: Path, code: str) -> str:
    """A module of one's own below the current folder: its dotted path, which was never used before."""
    name = f"lab_{next(NUMBERS)}"
    (here / name).mkdir()
    (here / name / "own.py").write_text(textwrap.dedent(code))
    return f"{name}.own"


def line_of(code: str, words: str) -> int:
    return next(number for number, line in enumerate(textwrap.dedent(code).splitlines(), start=1) if words in line)


# --- a module of the user's own raises --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "rows", "said"),
    [
        (("", ""), None, "line 17, in read: FileNotFoundError: [Errno 2] No such file or directory: 'rows.csv'"),
        (("", ""), ROWS.replace("3.5", "three"), "line 18: ValueError: could not convert string to float: 'three'"),
        (("(row[-1])", "(row[7])"), ROWS, "line 19: IndexError: list index out of range"),
        (("return LoadedData", "LoadedData"), ROWS, "own: read() returned a NoneType; it must return a privfl.data.federated."),
        (("about: ClassVar[About] =", "info: ClassVar[object] ="), ROWS, "own': its class Table has no about: set it in"),
        (("import numpy as np", "import nunpy as np"), ROWS, "line 6: ModuleNotFoundError: No module named 'nunpy'"),
        (("class Table(", "class Table("[:-1] + "[") , ROWS, "line 12: SyntaxError: "),
    ],
)  # fmt: skip
def test_a_data_set(change: tuple[str, str], rows: str | None, said: str, here: Path, privfl: Call) -> None:
    if rows is not None:
        (here / "rows.csv").write_text(rows)
    module = lab(here, TABLE.replace(*change))
    code, out, err = privfl("data", "show", module, "place=rows.csv", "clients=2")
    assert (code, out) == (2, "")
    assert said in one_line(err)
    if said.startswith("line"):
        # The file is named as one would type it here.
        assert f"{module.replace('.', '/')}.py, {said[:7]}" in err


def test_a_path_is_text_in_a_file_and_comes_back_from_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(here)
    (here / "rows.csv").write_text(ROWS)
    data = load_data(lab(here, TABLE), ["place=rows.csv", "clients=2"]).data
    assert data.place == Path("rows.csv")  # type: ignore[attr-defined]
    config = small(data=data.model_dump() | {"partition": {"kind": "iid"}}, cohort={"kind": "all"}, **PLAIN)
    (here / "again.toml").write_text(dump(config))
    assert load(here / "again.toml") == config


MODEL = """
    from torch import nn
    from privfl.learning.models import Model

    class Net(nn.Module):
        def __init__(self, wide):
            super().__init__()
            self.out = nn.Linear(64, wide)

        def forward(self, x):
            return self.out(x.flatten(1)){broken}

    class Own(Model):
        def build(self, input_shape, classes):
            return Net(classes){unbuilt}
"""


@pytest.mark.parametrize(
    ("broken", "unbuilt", "private", "said"),
    [
        (
            "",
            ".no_such",
            False,
            "build() failed (AttributeError: 'Net' object has no attribute 'no_such') (in {place}15, in build)",
        ),
        ("[{}['key']]", "", False, "(KeyError: 'key') (in {place}11, in forward)"),
        # What looks at the model says what it makes of it; the place is said all the same.
        ("[{}['key']]", "", True, " (in {place}11, in forward)"),
    ],
)
def test_a_model(broken: str, unbuilt: str, private: bool, said: str, here: Path, privfl: Call) -> None:
    module = lab(here, MODEL.replace("{broken}", broken).replace("{unbuilt}", unbuilt))
    (here / "own.toml").write_text(dump(small() if private else small(**PLAIN)))
    code, out, err = privfl("run", "own.toml", f"model={module}", "--out", "run")
    assert (code, out) == (2, ""), err
    assert said.format(place=f"{module.replace('.', '/')}.py, line ") in one_line(err)


def test_an_aggregator(here: Path, privfl: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
        from privfl.federation.aggregators import Aggregator

        class Median(Aggregator):
            hides_updates = False

            def aggregate(self, updates, context):
                return updates.median
    """
    module = lab(here, code)
    (here / "own.toml").write_text(dump(small(**PLAIN)))
    place = f"privfl: {module.replace('.', '/')}.py, line {line_of(code, 'median')}, in aggregate: "
    said = f"{place}AttributeError: 'list' object has no attribute 'median' (mend it there; PRIVFL_DEBUG=1 shows the traceback)"
    ended, _, err = privfl("run", "own.toml", f"aggregator={module}", "--out", "run")
    assert (ended, one_line(err)) == (2, said)
    monkeypatch.setenv("PRIVFL_DEBUG", "1")
    ended, _, err = privfl("run", "own.toml", f"aggregator={module}", "--out", "again")
    assert (ended, err.splitlines()[-1]) == (2, said)
    assert "Traceback (most recent call last)" in err
    assert "return updates.median" in err


GIVES = """
    from privfl.federation.{shelf} import {contract}

    class Own({contract}):
        hides_updates = False

        def {method}(self, *given):
            return {returned}
"""


@pytest.mark.parametrize(
    ("kind", "shelf", "contract", "method", "returned", "said"),
    [
        (
            "aggregator",
            "aggregators",
            "Aggregator",
            "aggregate",
            "None",
            "returned a NoneType; it must return an Aggregate of privfl.federation.aggreg",
        ),
        ("aggregator", "aggregators", "Aggregator", "aggregate", "given[0][0].delta_D", "returned a Tensor; it must return a"),
        (
            "server",
            "servers",
            "ServerOptimizer",
            "step",
            "given[0]",
            "step() must return (global_D, state): the new ",
        ),
        ("server", "servers", "ServerOptimizer", "step", "given[0][:3], {}", "of shape (650,) and torch.float32 like the old"),
        ("server", "servers", "ServerOptimizer", "step", "given[0].double(), {}", "it returned a tuple of something else"),
    ],
)
def test_what_an_item_gives(
    kind: str, shelf: str, contract: str, method: str, returned: str, said: str, here: Path, privfl: Call
) -> None:
    code = GIVES.format(shelf=shelf, contract=contract, method=method, returned=returned)
    if kind == "server":
        code = code.replace("hides_updates = False", "def init(self, global_D):\n            return {}")
    (here / "own.toml").write_text(dump(small(rounds=1, **PLAIN)))
    ended, _, err = privfl("run", "own.toml", f"{kind}={lab(here, code)}", "--out", "run")
    assert ended == 2, err
    assert said in one_line(err)


def test_an_error_of_privfl_s_own_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privfl.running.recording._PACKAGES", ("",))
    monkeypatch.setattr(sys, "argv", ["privfl", "doctor"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(ValueError, match="name"):
        cli.main()


def test_what_a_process_tells_another_is_one_line() -> None:
    def theirs() -> None:
        raise KeyError("x")

    with pytest.raises(ItemError, match=r"test_own_code\.py, line \d+, in theirs: KeyError: 'x' \(mend"), own_code.telling():
        theirs()


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ([-15, 3], "exit code 3"),
        ([-15, -9, 0], "signal 9, SIGKILL"),
        ([0, -15, -15], "signal 15, SIGTERM"),
        ([-100], "signal 100"),
        ([0], "how is not known"),
    ],
)
def test_how_a_process_died_is_what_was_found(codes: list[int | None], said: str) -> None:
    """The pool ends those that are left by SIGTERM."""
    processes = [cast("BaseProcess", SimpleNamespace(exitcode=code)) for code in codes]
    assert _how(processes) == said


# --- an attack of the user's own returns something else ---------------------------------------------------------------


@pytest.mark.parametrize("given", [[0, 1, 1], np.array([False, True, True]), (0.0, 1.0, 1.0), np.array([0, 1, 1], dtype="u1")])
def test_decisions_and_lists_are_scores(given: object) -> None:
    scores = MembershipClaim(cast("Any", {"top": given})).checked("lab.own", 3).scores["top"]
    assert scores.dtype == np.float64
    np.testing.assert_array_equal(scores, [0, 1, 1])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros(3), "gave a ndarray without a name; scores must be {name: scores}"),
        ([0.0, 1.0, 1.0], "gave a list without a name"),
        (None, "gave a NoneType without a name"),
        ({}, "gave no scores"),
        ({"top": np.zeros((3, 1))}, "'top': its scores have the shape (3, 1), must be (3,)"),
        ({"top": 1.0}, "'top': its scores have the shape (), must be (3,)"),
        ({"top": ["a", "b", "c"]}, "'top': its scores are no numbers"),
        ({"top": [[1], [1, 2], 3]}, "'top': its scores are no numbers"),
        ({"top": [0.0, float("nan"), 1.0]}, "'top': 1 of its scores are NaN"),
    ],
    ids=repr,
)
def test_what_are_no_scores_is_said(given: object, said: str) -> None:
    with pytest.raises(ItemError) as caught:
        MembershipClaim(cast("Any", given)).checked("lab.own", 3)
    assert "attack 'lab.own'" in str(caught.value)
    assert said in str(caught.value)
    assert '{name: scores}, for example {"my score": scores}' in str(caught.value)
