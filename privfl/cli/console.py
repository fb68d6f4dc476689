"""The consoles of every command: results on standard output; errors, notes and progress on standard error too."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console

out: Final = Console()
err: Final = Console(stderr=True)
notes: Final = Console(stderr=True)
"""Progress, warnings and the like, which ``--quiet`` leaves out."""


def hush(quiet: bool) -> None:
    """Leave out notes from here on, or print them again."""
    notes.quiet = quiet


def print_json(content: Any) -> None:
    """Print one JSON object to standard output, without colours or wrapping. A figure that is not finite is text."""
    sys.stdout.write(json.dumps(_finite(content), ensure_ascii=False, indent=2) + "\n")


def _finite(content: Any) -> Any:
    """The same with "inf", "-inf" and "nan" for such floats, which JSON has no numbers for."""
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content
