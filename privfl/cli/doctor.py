"""``privfl doctor``: list the versions, the device and the data sets of this machine."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from typing import Final

from rich.table import Table

from privfl.cli.console import out

EXAMPLE: Final = "privfl doctor"


def doctor() -> None:
    """Show the Python, PyTorch, device, data sets and versions that privfl finds on this machine."""
    import torch

    from privfl.data.datasets import _fetch
    from privfl.running import recording

    cuda = torch.cuda.is_available()
    found = recording.environment(torch.device("cuda" if cuda else "cpu"))
    table = Table(title="privfl doctor", title_justify="left", show_header=False)
    table.add_row("Python", f"{found.python} ({sys.executable})")
    table.add_row("machine", f"{platform.platform()}, {os.cpu_count()} cores")
    table.add_row("device", f"cuda: {found.device}" if cuda else "cpu (PyTorch finds no GPU)")
    table.add_row("privfl", found.privfl)
    for name, version in found.packages.items():
        table.add_row(name, version)
    for entry in _fetch.inventory():
        if entry.own:
            continue
        table.add_row(f"data: {entry.name}", "present" if entry.present else f"missing; privfl data fetch {entry.name}")
    table.add_row("free disk here", f"{shutil.disk_usage('.').free / 1e9:.1f} GB")
    out.print(table)
