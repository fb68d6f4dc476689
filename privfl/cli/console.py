"""The two consoles of every command: results on standard output, everything else on standard error."""

from __future__ import annotations

from typing import Final

from rich.console import Console

out: Final = Console()
err: Final = Console(stderr=True)
