"""Attacks on outputs that the authors of a paper published, as a row of that paper names them."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privfl.auditing.questions.membership import OutsideFinding
from privfl.config import ExperimentConfig
from privfl.data.datasets import Dataset
from privfl.data.datasets._store import find_file
from privfl.errors import DataError
from privfl.loading import load
from privfl.papers import Published
from privfl.running.paper_figures import attack_named
from privfl.running.paper_rows import PaperRow
from privfl.running.predictions import Predictions, read_arrays
from privfl.tables import narrow

Array = NDArray[Any]


def attacked(row: PaperRow) -> OutsideFinding:
    """The finding of the row's attacks on its published outputs.

    Raises:
        DataError: a file or an array is missing, or its rows are not those of the data.
        ConfigError: an unknown attack.
    """
    published = row.paper.published
    assert published is not None
    names = sorted({attack_named(figure.metric)[0] for figure in row.paper.cells})
    predictions = Predictions.of(_arrays(row, published), row.name)
    finding: OutsideFinding = importlib.import_module("attacks._predictions").judged(predictions, names, 0)
    return finding


def _arrays(row: PaperRow, published: Published) -> dict[str, Array]:
    member_N, labels_N = _who(row.config)
    found = {"member": member_N, "labels": labels_N, "logits": _array(published.logits, len(member_N))}
    if published.reference_logits is not None:
        member_R, labels_R = _who(load(row.path, *published.reference))
        found |= {"reference_member": member_R, "reference_labels": labels_R}
        found["reference_logits"] = _array(published.reference_logits, len(member_R))
    return found


def _who(config: ExperimentConfig) -> tuple[Array, Array]:
    """Whether each example of the training part and the test split is in the former, and its label."""
    loaded = narrow(config.data, Dataset).load()
    member_N = np.repeat([1, 0], [len(loaded.train), len(loaded.test)])
    return member_N, np.concatenate([loaded.train.y, loaded.test.y])


def _array(name: str, count: int) -> Array:
    file, _, key = name.partition(":")
    path = find_file(file)
    if path is None:
        raise DataError(f"{file}: is not in $PRIVFL_DATA")
    arrays = read_arrays(path)
    if key not in arrays:
        raise DataError(f"{path}: has no array {key!r}; it has {', '.join(sorted(arrays))}")
    if len(arrays[key]) != count:
        raise DataError(f"{path}: {key!r} has {len(arrays[key])} rows, and the data have {count} examples")
    return arrays[key]
