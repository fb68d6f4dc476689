"""A table of named columns: its types, and what other libraries read from it."""

from __future__ import annotations

import builtins
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from privfl import Frame
from privfl.errors import ConfigError


@pytest.fixture
def frame() -> Frame:
    return Frame({"round": [0, 1], "accuracy": [None, 0.5], "skipped": ["", None], "done": [True, False], "mixed": ["a", 1]})


def test_each_column_has_one_type(frame: Frame) -> None:
    assert len(frame) == 2
    assert frame.columns == ("round", "accuracy", "skipped", "done", "mixed")
    assert [frame[name].dtype for name in frame.columns] == [np.int64, np.float64, object, np.bool_, object]
    assert math.isnan(frame["accuracy"][0])
    assert frame.rows()[1] == {"round": 1, "accuracy": 0.5, "skipped": "", "done": False, "mixed": "1"}
    assert (len(Frame({})), Frame({}).rows()) == (0, [])


def test_a_column_that_is_not_there_names_those_that_are(frame: Frame) -> None:
    with pytest.raises(KeyError, match="no column 'loss'; the columns are round, accuracy"):
        _ = frame["loss"]


def test_it_is_read_by_the_arrow_interface(frame: Frame) -> None:
    table = pa.table(frame)
    assert table.to_pydict()["round"] == [0, 1]
    assert table.to_pydict()["accuracy"] == [None, 0.5]
    assert table.schema.field("done").type == pa.bool_()
    assert pa.RecordBatchReader.from_stream(frame).read_all() == table


def test_it_is_written_as_text(frame: Frame, tmp_path: Path) -> None:
    assert frame.to_csv(tmp_path / "rounds.csv").read_text().splitlines()[0] == '"round","accuracy","skipped","done","mixed"'
    assert repr(Frame({"a": [1, 10], "b": [None, 0.123456]})) == " a       b\n 1       –\n10  0.1235"
    assert "<th>accuracy</th>" in frame._repr_html_()
    assert "&lt;b&gt;" in Frame({"<b>": ["<b>"]})._repr_html_()
    assert repr(Frame({"a": list(range(100))})).endswith("... and 40 more rows")


def test_pandas_is_asked_for_by_name_if_it_is_missing(frame: Frame, monkeypatch: pytest.MonkeyPatch) -> None:
    here = builtins.__import__

    def without_pandas(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'")
        return here(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    with pytest.raises(ConfigError, match="needs the package pandas: pip install pandas, or use to_arrow"):
        frame.to_pandas()
