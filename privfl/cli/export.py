"""``privfl export``: write the trained model as a file that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from privfl.cli.arguments import Run
from privfl.cli.console import out
from privfl.running.run_folder import RunFolder

EXAMPLE: Final = "privfl export runs/quickstart quickstart.onnx"


def export(
    run_dir: Run,
    out_file: Annotated[Path, typer.Argument(metavar="FILE", help="Its suffix is the format: .onnx, .pt2 or .safetensors.")],
) -> None:
    """Write the trained model of a run as a file that other programs read."""
    from privfl.running import trained_model

    written = trained_model.export(RunFolder.open(run_dir), out_file)
    out.print(f"model: {written} ({written.stat().st_size:,} bytes)", soft_wrap=True, highlight=False)
