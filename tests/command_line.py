"""The command line, called in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from privfl import cli

Call = Callable[..., tuple[int, str, str]]
"""Called with a command's words, it returns exit code, standard output, standard error."""


def calling(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs commands in this process."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # typer replaces it
    monkeypatch.setattr(sys, "path", [*sys.path])

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["privfl", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        code = ended.value.code
        return code if isinstance(code, int) else 0, printed.out, printed.err

    return call


def one_line(err: str) -> str:
    """The line that says what is wrong, after no more than the line that says what was begun."""
    lines = err.splitlines()
    assert lines[-1].startswith("privfl: "), err
    assert len(lines) <= 2, err
    assert len(lines) == 1 or " rounds of " in lines[0], err
    return lines[-1]
