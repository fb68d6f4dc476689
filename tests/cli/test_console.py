"""The version, the short help, and JSON in place of tables."""

from __future__ import annotations

import json
import math
from importlib import metadata

import pytest
from command_line import calling

from privfl.cli import console


def test_the_version_and_the_short_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    privfl = calling(monkeypatch, capsys)
    assert privfl("--version")[:2] == (0, f"privfl {metadata.version('privfl')}\n")
    for words in (["-h"], ["run", "-h"]):
        code, out, _ = privfl(*words)
        assert code == 0
        assert "Usage:" in out


def test_figures_that_are_not_finite_are_text_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"a": [math.inf, -math.inf, 1.5], "b": (math.nan,)})
    assert json.loads(capsys.readouterr().out) == {"a": ["inf", "-inf", 1.5], "b": ["nan"]}
