"""The membership attacks and all statistics for a model that was trained elsewhere."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from privfl.errors import DataError
from privfl.running.predictions import Predictions, Scores, read_arrays
from privfl.storage import write_json

if TYPE_CHECKING:
    from privfl.auditing.questions.membership import OutsideFinding

Kind = Literal["scores", "predictions"]


def audit(
    given: Mapping[str, NDArray[Any]] | Path | str,
    *names: str,
    kind: Kind | None = None,
    out: Path | str | None = None,
    seed: int = 0,
) -> OutsideFinding:
    """Attack a model that was trained elsewhere, by its predictions; or judge scores that somebody else computed.

    Args:
        given: arrays by name (:mod:`privfl.running.predictions`), or an ``.npz`` or Parquet file of them.
        names: attacks on predictions, for example ``"membership/lira"``; none: all that the arrays allow.
        kind: what the arrays are; None: predictions if there are ``logits`` or ``confidence`` among them, else scores.
        out: a folder for the page, its figures and ``summary.json``; None: nothing is written.
        seed: draws the half of the candidates that the best attack is chosen on.

    Returns:
        what was found: AUC, true-positive rates at low false-positive rates, with intervals, and a lower bound on ε.

    Raises:
        DataError: an array is missing, unknown, or has a wrong shape or value.
        ConfigError: an unknown attack, or one that needs more arrays.
        RunFolderError: ``out`` cannot be written.
    """
    where = "the arrays" if isinstance(given, Mapping) else Path(given).name
    arrays = {name: np.asarray(one) for name, one in given.items()} if isinstance(given, Mapping) else read_arrays(Path(given))
    if kind is None:
        kind = "predictions" if {"logits", "confidence"} & set(arrays) else "scores"
    if kind == "scores" and {"logits", "confidence"} & set(arrays):
        raise DataError(f"{where}: has outputs of a model, which are no scores; give it as predictions: --predictions")
    checked = Scores.of(arrays, where) if kind == "scores" else Predictions.of(arrays, where)
    finding: OutsideFinding = importlib.import_module("attacks._predictions").judged(checked, names, seed)
    if out is not None:
        from privfl.report import write_outside

        write_json(Path(out) / "summary.json", {"findings": [finding.model_dump()]})
        write_outside(finding, Path(out))
    return finding
