"""Many runs at once: as one table, and side by side on one page."""

from __future__ import annotations

import glob
import math
from collections.abc import Iterable
from pathlib import Path

from privfl.api.frame import Frame
from privfl.api.run import Run
from privfl.auditing.evaluation import LOW_FPR
from privfl.auditing.questions.membership import MembershipFinding
from privfl.errors import RunFolderError
from privfl.report import write_report
from privfl.report.differences import differing
from privfl.report.roc import rate_at
from privfl.running.run_folder import RunFolder

Runs = str | Path | Run | Iterable[str | Path | Run]
"""Runs, folders, or patterns of folders such as ``"runs/*"``; one of them or several."""


def load_runs(runs: Runs) -> Frame:
    """Read runs as one table, a row for each.

    The columns are ``run`` (the folder), ``finished``, each setting that is not the same in all runs, ``rounds``, each test
    figure with its interval, ``epsilon`` (infinite without a promise) and ``delta``, ``tpr_at_1pct_fpr`` of the best attack
    with its interval, ``epsilon_measured`` (the lower bound that the attacks show), ``epsilon_measurable`` (the most
    that it could have been), ``bytes_up``, ``bytes_down`` and ``seconds``. A figure that a run
    does not have, or not yet, is NaN.

    Args:
        runs: runs, folders or patterns. Folders that match a pattern and hold no run are left out.

    Raises:
        RunFolderError: a folder holds no run, a pattern matches none, or a record is damaged.
    """
    folders = _folders(runs)
    settings = differing([folder.config for folder in folders])
    figures = [_figures(folder) for folder in folders]
    names = dict.fromkeys(name for one in figures for name in one)
    return Frame(
        {
            "run": [str(folder.path) for folder in folders],
            "finished": [folder.finished for folder in folders],
            **settings,
            **{name: [one.get(name) for one in figures] for name in names if name not in settings},
        }
    )


def compare(runs: Runs, out: Path | str = "comparison.html") -> Path:
    """Write the page that sets finished runs side by side, and return its path.

    Args:
        runs: runs, folders or patterns, in the order of the page.
        out: the page's file.

    Raises:
        RunFolderError: a run has not finished, or ``out`` cannot be written.
    """
    return write_report(_folders(runs), out)


def _folders(runs: Runs) -> list[RunFolder]:
    several = [runs] if isinstance(runs, str | Path | Run) else list(runs)
    return [folder for one in several for folder in _matching(one)]


def _matching(one: str | Path | Run) -> list[RunFolder]:
    if isinstance(one, Run):
        return [RunFolder(one.path)]
    if not glob.has_magic(str(one)) or Path(one).is_dir():
        return [RunFolder.open(one)]
    paths = [Path(path) for path in sorted(glob.glob(str(one), recursive=True))]
    found = [RunFolder.open(path) for path in paths if (path / "config.toml").is_file()]
    if not found:
        raise RunFolderError(f"{one}: matches no run folder; give a pattern of folders that `privfl run` made, such as runs/*")
    return found


def _figures(folder: RunFolder) -> dict[str, float | int | None]:
    """The figures of one run that a table of runs shows; of an unfinished one those that it has."""
    if not folder.finished:
        return {"rounds": len(folder.rounds())}
    run = Run(folder.path)
    result, found = run.result, _found(folder)
    tests = {
        key: value
        for name, figure in run.metrics.items()
        for key, value in ((name, figure.value), (f"{name}_low", figure.low), (f"{name}_high", figure.high))
    }
    return {
        "rounds": result.rounds,
        **tests,
        "epsilon": float(run.epsilon),
        "delta": run.epsilon.delta,
        **found,
        "bytes_up": result.bytes_up,
        "bytes_down": result.bytes_down,
        "seconds": math.fsum(timing.total for timing in folder.timings()),
    }


def _found(folder: RunFolder) -> dict[str, float | None]:
    """The figures of the best membership attack on the final model."""
    final = [one for one in folder.findings if isinstance(one, MembershipFinding) and one.adversary == "external"]
    best = final[0].best if final else None
    at = rate_at(best.rates, LOW_FPR) if best is not None else None
    tpr = at.tpr if at is not None else None
    return {
        "tpr_at_1pct_fpr": tpr.value if tpr else None,
        "tpr_at_1pct_fpr_low": tpr.low if tpr else None,
        "tpr_at_1pct_fpr_high": tpr.high if tpr else None,
        "epsilon_measured": best.epsilon_lower if best else None,
        "epsilon_measurable": best.epsilon_ceiling if best else None,
    }
