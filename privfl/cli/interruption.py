"""The end of a command that was interrupted: its exit code, and the command that goes on."""

from __future__ import annotations

import shlex
import shutil
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import Final

EXIT_CODE: Final = 130

way_on: Final = ContextVar("way_on", default="type the same command again to go on")
"""How to go on with the command that runs now."""


def program() -> str:
    """The words that start this program, quoted for a shell: its name alone if that leads to it."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        return shlex.join([sys.executable, "-m", "privfl"])
    found = shutil.which(started.name)
    return shlex.quote(started.name if found and Path(found).resolve() == started.resolve() else str(started))
