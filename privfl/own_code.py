"""The user's own code: which line of it raised, so that its mistakes too are told in one line.

An item of a shelf may be a module of the user's own, which may raise anything. The file of a call says
whose it is: Python's library, installed packages and privfl itself are not the user's; a module with an item in it is.
"""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from privfl.errors import ItemError, PrivflError, first_line

DEBUG = "PRIVFL_DEBUG"
"""The variable of the environment that asks for tracebacks."""

_PACKAGES = ("privfl", "attacks")
_OURS = tuple(str(Path(__file__).resolve().parents[1] / name) + os.sep for name in _PACKAGES)
_PYTHON = tuple({str(Path(sysconfig.get_path(name)).resolve()) + os.sep for name in ("stdlib", "platstdlib")})
_INSTALLED = {"site-packages", "dist-packages"}


def debugging() -> bool:
    """Whether tracebacks were asked for."""
    return os.environ.get(DEBUG, "") not in ("", "0")


def place(error: BaseException) -> str | None:
    """File, line and function of the innermost call of the user's own code; None if it has no part in the error.

    For example ``my_lab/table.py, line 14, in read``.
    """
    if isinstance(error, SyntaxError) and error.filename and _is_theirs(error.filename, {}):
        return f"{_shown(error.filename)}, line {error.lineno}"
    calls = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if _is_the_user_s(frame)]
    if not calls:
        return None
    frame, line = calls[-1]
    return f"{_shown(frame.f_code.co_filename)}, line {line}{_function(frame.f_code)}"


def told(error: Exception) -> ItemError | None:
    """The error of the user's own code, in one line; None if it has no part in the error, or the line says it already."""
    found = None if isinstance(error, PrivflError) else place(error)
    if found is None:
        return None
    return ItemError(f"{found}: {what(error)} (mend it there; {DEBUG}=1 shows the traceback)")


def what(error: BaseException) -> str:
    """The exception and the first line of its message: ``ValueError: no such column``."""
    kind, said = type(error).__name__, error.msg if isinstance(error, SyntaxError) else first_line(error)
    return kind if said == kind else f"{kind}: {said}"


@contextmanager
def telling() -> Iterator[None]:
    """Raise an error of the user's own code as one line, for a process that is told of it without a traceback.

    Raises:
        ItemError: the user's own code raised.
    """
    try:
        yield
    except Exception as error:
        own = told(error)
        if own is None:
            raise
        raise own from error


def _is_the_user_s(frame: FrameType) -> bool:
    return _is_theirs(frame.f_code.co_filename, frame.f_globals)


def _is_theirs(file: str, module: dict[str, Any]) -> bool:
    path = Path(file).resolve()
    if not path.exists() or str(path).startswith(_OURS):
        return False
    installed = str(path).startswith(_PYTHON) or not _INSTALLED.isdisjoint(path.parts)
    return not installed or _holds_an_item(module)


def _holds_an_item(module: dict[str, Any]) -> bool:
    name = module.get("__name__")
    return any(
        isinstance(member, type)
        and member.__module__ == name
        and any(base.__module__.partition(".")[0] in _PACKAGES for base in member.__mro__)
        for member in list(module.values())
    )


def _function(code: CodeType) -> str:
    return "" if code.co_name.startswith("<") else f", in {code.co_name}"


def _shown(file: str) -> str:
    """The file as one would type it here."""
    path = Path(file).resolve()
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
