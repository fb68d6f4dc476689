"""``privfl doctor``: list the versions, the device and the data sets of this machine."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from typing import Final

from rich.table import Table

from privfl.cli.arguments import AsJson
from privfl.cli.console import out, print_json

EXAMPLE: Final = "privfl doctor"


def doctor(as_json: AsJson = False) -> None:
    """Show the Python, PyTorch, device, data sets and versions that privfl finds on this machine."""
    import torch

    from privfl.data.datasets import _fetch
    from privfl.running import recording

    cuda = torch.cuda.is_available()
    found = recording.environment(torch.device("cuda" if cuda else "cpu"))
    rows = {
        "Python": f"{found.python} ({sys.executable})",
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "device": f"cuda: {found.device}" if cuda else "cpu (PyTorch finds no GPU)",
        "privfl": found.privfl,
        **found.packages,
    }
    for entry in _fetch.inventory():
        if not entry.own:
            rows[f"data: {entry.name}"] = "present" if entry.present else f"missing; privfl data fetch {entry.name}"
    rows["free disk here"] = f"{shutil.disk_usage('.').free / 1e9:.1f} GB"
    if as_json:
        print_json(rows)
        return
    table = Table(title="privfl doctor", title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table)
