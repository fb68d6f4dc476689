"""The first configuration for one's own data: a commented TOML file that runs as it is."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import tomli_w

from privfl.data.datasets import Dataset, _guess
from privfl.data.federated import LoadedData
from privfl.errors import ConfigError
from privfl.loading import load
from privfl.shelves import SHELVES
from privfl.storage import write_atomic

CLIENTS: Final = 10
"""How many clients there are if neither the data nor the user say so."""

_FEW_CLIENTS, _COHORT, _MOST_BATCH = 20, 10, 32
_MANY_FEATURES, _CNN_SIDE = 64, 16
_FEW_EXAMPLES = 2_000


def write(path: Path, settings: Mapping[str, Any], clients: int | None, *, name: str) -> None:
    """Read the data and write a configuration for them, which is checked to be valid first.

    Args:
        path: the TOML file.
        settings: those of ``data``, as :mod:`privfl.data.datasets._guess` makes them.
        clients: among how many clients the examples are dealt; None: the clients that the data name, or else ten.
        name: the name of its runs.

    Raises:
        ConfigError: so many clients cannot be.
        DataError: the data cannot be read.
        StorageError: the file cannot be written.
    """
    item: Dataset = SHELVES["data"].find(settings["kind"])(**settings, clients=1)
    loaded = item.load()
    named = clients is None and bool(loaded.natural_names)
    count = len(loaded.natural_names) if named else clients or min(CLIENTS, max(1, len(loaded.train) // 2))
    if count > len(loaded.train):
        raise ConfigError(f"--clients {count}: there are {len(loaded.train):,} training examples; give each client one or more")
    text = _text(name, settings, loaded, count, named)
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / path.name
        draft.write_text(text, encoding="utf-8")
        load(draft)
    write_atomic(path, text.encode())


def require_free(path: Path, overwrite: bool) -> None:
    """Raise unless the file may be written.

    Raises:
        ConfigError: it is there, and is not to be replaced; or it is no TOML file.
    """
    if path.suffix != ".toml":
        raise ConfigError(f"--out {path}: must end in .toml")
    if path.exists() and not overwrite:
        raise ConfigError(f"--out {path}: is there already; give another name, or --overwrite to replace it")


def columns(path: Path) -> list[str] | None:
    """The names of a table's columns; None if the data are no table.

    Raises:
        DataError: the data cannot be read.
    """
    return list(_guess.table(path).columns) if _guess.kind_of(path) == "table" else None


def settings_for(path: Path, label: str | None, client: str | None) -> dict[str, Any]:
    """Settings of ``data`` for the user's own file or folder.

    Raises:
        ConfigError: a label or client is named though the data are no table, or no label is named for a table.
        DataError: the data cannot be read, or a column is missing.
    """
    kind = _guess.kind_of(path)
    if kind == "table":
        table = _guess.table(path)
        if label is None:
            raise ConfigError(f"--label: is missing; name the column to be learned: {', '.join(table.columns)}")
        return _guess.table_settings(path, table, label, client)
    for option, value in (("--label", label), ("--client", client)):
        if value is not None:
            raise ConfigError(f"{option} {value}: is for the columns of a table, and {path} holds {kind}; leave it out")
    return _guess.image_settings(path) if kind == "images" else {"kind": "arrays", "file": str(path)}


def name_for(path: Path) -> str:
    """A name for the runs on that file or folder."""
    return re.sub(r"^[^\w]+|[^\w.-]+", "_", path.expanduser().resolve().stem)


def _text(name: str, settings: Mapping[str, Any], loaded: LoadedData, count: int, named: bool) -> str:
    examples, task = len(loaded.train), _task(settings, loaded)
    sizes = np.bincount(loaded.natural_N) if named and loaded.natural_N is not None else np.array([examples // count])
    batch = min(_MOST_BATCH, 2 ** max(0, int(np.log2(max(1.0, float(np.median(sizes)) / 4)))))
    dealt = (
        'partition = "natural"           # the clients that the data name'
        if named
        else (
            f"clients = {count}\n"
            f'partition = "iid"               # at random; or, with their settings, {_names("data.partition", "iid")}'
        )
    )
    cohort = (
        f'kind = "all"                    # every client in every round; or {_names("cohort", "all")}'
        if count <= _FEW_CLIENTS
        else f'kind = "poisson"                # drawn anew for each round; or {_names("cohort", "poisson")}\n'
        f"size = {_COHORT:<26}# expected number of clients in a round"
    )
    attacks = '["membership/loss", "membership/rmia"]' if task == "classification" else '["membership/loss"]'
    fields = {
        "name": _toml(name),
        "task": _toml(task),
        "data": "\n".join(f"{key} = {_toml(value)}" for key, value in settings.items()),
        "dealt": dealt,
        "model": _model(loaded),
        "cohort": cohort,
        # An attack needs about 100 non-members in the half of them on which it is measured.
        "holdout": 0.5 if examples < _FEW_EXAMPLES else 0.2,
        "batch": batch,
        "delta": f"1e-{len(str(examples))}",
        "aggregator": "secure_sum" if count >= SHELVES["aggregator"].find("secure_sum").minimum_clients else "mean",
        "attacks": attacks,
        "about": f"{examples:,} training and {len(loaded.test):,} test examples, {count} clients",
        "tasks": _names("task"),
        "models": _names("model"),
        "plans": _names("privacy"),
        "servers": _names("server"),
    }
    return _TEMPLATE.format(**fields)


def _task(settings: Mapping[str, Any], loaded: LoadedData) -> str:
    """The task that suits the labels.

    Raises:
        ConfigError: none that such a file begins with.
    """
    y = loaded.train.y
    if settings.get("target") == "number" or y.dtype.kind == "f":
        return "regression"
    if y.ndim == 1:
        return "classification"
    if y.ndim == 2 and int(y.max()) <= 1:
        return "multilabel"
    raise ConfigError(f"--data: its labels have shape {y.shape}, as of task = 'next_token', which docs/tasks.md explains")


def _model(loaded: LoadedData) -> str:
    shape = loaded.train.x.shape[1:]
    if len(shape) == 3 and min(shape[1:]) >= _CNN_SIDE:
        return "cnn"
    return "mlp" if int(np.prod(shape)) > _MANY_FEATURES else "logistic"


def _names(shelf: str, chosen: str | None = None) -> str:
    return ", ".join(name for name in SHELVES[shelf].names() if name != chosen)


def _toml(value: Any) -> str:
    return (
        tomli_w.dumps({"value": value})
        .partition(" = ")[2]
        .strip()
        .replace("[\n    ", "[")
        .replace(",\n]", "]")
        .replace("\n   ", "")
    )


_TEMPLATE: Final = """\
# {about}.
#
#   privfl account THIS.toml                  its price in ε, before anything is trained
#   privfl run THIS.toml                      trains, attacks the trained model, and writes a page
#   privfl run THIS.toml privacy=none         the same without protection, to compare it with
#
# docs/configuration.md has all settings. Choosing among them by looking at the results is covered by no ε.
name = {name}
seed = 0
rounds = 20
task = {task}
# Tasks: {tasks}.

# Who has which example. Relative paths begin at the folder in which you type privfl.
[data]
{data}
{dealt}
holdout = {holdout}                   # the share that nobody trains on, so that attacks can be tried; 0 without attacks

# The model: {models}, or a PyTorch module of your own (CONTRIBUTING.md).
[model]
kind = "{model}"

# Who takes part in a round.
[cohort]
{cohort}

# What a client does in a round. Try several learning rates: it matters most.
[training]
local_epochs = 1
batch_size = {batch}
lr = 0.5

# What is promised, and to whom: {plans}.
# "example" protects each example; the kinds that begin with "client" protect a client as a whole (docs/privacy.md).
[privacy]
kind = "example"
target_epsilon = 8.0            # the promise; smaller is stronger and costs accuracy
delta = {delta}                    # below 1 over the number of training examples
max_grad_norm = 1.0             # each example's gradient is clipped to this norm

# What the server sees: "secure_sum", sums alone (from 3 clients on); "mean", every client's update.
[aggregator]
kind = "{aggregator}"

# How the server uses the mean update: {servers}.
[server]
kind = "fedavg"

# The attacks on the trained model; `privfl attack --list` has more. More shadow models are stronger, and take longer.
[attacks]
run = {attacks}
shadow_models = 4
"""
