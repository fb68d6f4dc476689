"""Loading: TOML files and overrides become one :class:`privfl.config.ExperimentConfig`, or one line that names the mistake."""

from __future__ import annotations

import hashlib
import json
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import tomli_w
from pydantic import BaseModel, ValidationError

from privfl.config import ExperimentConfig
from privfl.errors import ConfigError
from privfl.papers import Paper
from privfl.shelves import SHELVES
from privfl.tables import InvalidItemError, value_at


@dataclass
class _Layers:
    """Configuration tables merged so far, and the file or override that each dotted key came from.

    A table's origin is the file or override that began it or chose its ``kind``. The whole, ``""``, has the origin ``root``.
    """

    root: str
    table: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def add(self, layer: Mapping[str, Any], origin: str) -> None:
        self.table = self._merged(self.table, layer, origin, "")

    def _merged(self, base: dict[str, Any], layer: Mapping[str, Any], origin: str, at: str) -> dict[str, Any]:
        kept = dict(base)
        if "kind" in layer and layer["kind"] != base.get("kind"):
            self.origins[at.rstrip(".")] = origin
            if "kind" in base:
                # Another kind has other settings. Settings of the old kind stay only if the new kind has them too.
                known = _fields_of_kind(at.rstrip("."), layer["kind"])
                for key in base.keys() - known:
                    self._drop(kept, at, key)
        if at == "data." and "clients" not in layer and _names_clients(layer.get("partition")):
            # The data say how many clients there are.
            self._drop(kept, at, "clients")
        for key, value in layer.items():
            below = kept.get(key)
            if isinstance(below, dict) and isinstance(value, str):
                value = {"kind": value}
            if isinstance(below, dict) and isinstance(value, Mapping):
                kept[key] = self._merged(below, value, origin, f"{at}{key}.")
                continue
            self._drop(kept, at, key)
            if value is _TAKEN_AWAY:
                continue
            self.origins[at + key] = origin
            kept[key] = self._merged({}, value, origin, f"{at}{key}.") if isinstance(value, Mapping) else value
        return kept

    def _drop(self, table: dict[str, Any], at: str, key: str) -> None:
        table.pop(key, None)
        self.origins = {
            path: origin for path, origin in self.origins.items() if path != at + key and not path.startswith(f"{at}{key}.")
        }

    def origin(self, key: str) -> str:
        """The file or override that last set ``key``, or the nearest table above it."""
        parts = key.split(".")
        for end in range(len(parts), 0, -1):
            found = self.origins.get(".".join(parts[:end]))
            if found:
                return found
        return self.root


_TAKEN_AWAY: typing.Final = object()
"""The value of an override ``key=``: the setting is removed, as if no file had given it."""


def _fields_of_kind(at: str, kind: object) -> set[str]:
    if not isinstance(kind, str) or at not in SHELVES:
        return set()
    try:
        return set(SHELVES[at].find(kind).model_fields)
    except ConfigError:
        return set()


def load(path: Path | str, *overrides: str) -> ExperimentConfig:
    """Load a configuration from a TOML file and overrides of the form ``a.b=value``.

    Overrides replace settings of the file, which replace settings of a file that it extends.

    Args:
        path: the file. A line ``extends = "other.toml"`` in it is relative to it.
        overrides: values are read as TOML, and as plain text if that fails (``privacy.kind=none``). Text in place of a table is
            its kind (``privacy=none``). An empty value removes the setting (``privacy.target_epsilon=``).

    Raises:
        ConfigError: one line that names the file, the key, the value and the allowed values.
    """
    return load_row(path, *overrides).config


@dataclass(frozen=True)
class LoadedRow:
    """A configuration with its ``[paper]`` table.

    Args:
        config: the configuration, which does not contain the table.
        paper: the table; None if there is none.
        digest: SHA-256 of the settings that the files give, without the seed and the table, of which only ``published`` counts.
            It does not change if a new setting with a default joins.
    """

    config: ExperimentConfig
    paper: Paper | None
    digest: str


def load_row(path: Path | str, *overrides: str) -> LoadedRow:
    """Load a configuration as :func:`load` does, with its ``[paper]`` table.

    Raises:
        ConfigError: as :func:`load`.
    """
    layers = _Layers(str(path))
    _read(Path(path), layers, ())
    _override(layers, overrides)
    paper = _paper(layers)
    settings = {key: value for key, value in layers.table.items() if key != "seed"}
    if paper is not None and paper.published is not None:
        settings["paper.published"] = paper.published.model_dump()
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
    return LoadedRow(_validated(layers), paper, digest)


def loads(table: Mapping[str, Any], *overrides: str) -> ExperimentConfig:
    """Load a configuration from a dictionary and overrides of the form ``a.b=value``.

    Args:
        table: nested like the tables of a TOML file: ``{"training": {"lr": 0.1}, ...}``.
        overrides: as for :func:`load`.

    Raises:
        ConfigError: one line that names the key, the value and the allowed values.
    """
    layers = _Layers("configuration")
    layers.add(table, layers.root)
    _override(layers, overrides)
    _paper(layers)
    return _validated(layers)


def _names_clients(partition: object) -> bool:
    """Whether the data say who the clients are."""
    kind = partition.get("kind") if isinstance(partition, Mapping) else partition
    try:
        return isinstance(kind, str) and bool(SHELVES["data.partition"].find(kind).names_clients)
    except ConfigError:
        return False


def load_data(kind: str, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """A configuration for looking at a data set's partition: seed 0 and ten clients unless overridden.

    Args:
        kind: the data set's name or dotted path.
        overrides: ``seed``, and keys below ``data`` such as ``partition.alpha=0.1``, with or without the prefix ``data.``.

    Raises:
        ConfigError: as :func:`load`.
    """
    layers = _Layers("privfl data show")
    layers.add({**_ANY_RUN, "data": {"kind": kind, "partition": {"kind": "iid"}}}, layers.root)
    for override in overrides:
        of_run = override.partition("=")[0].strip() == "seed"
        layer = _parse_override(override if of_run else f"data.{override.removeprefix('data.')}")
        layers.add(layer, f"override {override!r}")
    if not _names_clients(value_at(layers.table, "data.partition.kind")):
        layers.table["data"].setdefault("clients", 10)
    return _validated(layers)


_ANY_RUN: typing.Final[Mapping[str, Any]] = {
    "name": "show",
    "rounds": 1,
    "model": {"kind": "logistic"},
    "cohort": {"kind": "all"},
    "training": {"local_epochs": 1, "batch_size": 1, "lr": 1.0},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
}


def dump(config: ExperimentConfig) -> str:
    """The resolved configuration as TOML with all defaults. :func:`load` reads an equal configuration from it."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def _read(path: Path, layers: _Layers, extending: tuple[Path, ...]) -> None:
    named_by = f"{extending[-1]}: extends = {str(path)!r}" if extending else str(path)
    if path.resolve() in (file.resolve() for file in extending):
        raise ConfigError(f"{named_by}: extends itself through {' -> '.join(map(str, extending))}; remove one of these lines")
    try:
        # Windows editors may begin UTF-8 with a byte order mark.
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        way_out = "give the path from this file to the other" if extending else "paper_configs/ of a clone holds examples"
        raise ConfigError(f"{named_by}: no such file; {way_out}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{named_by}: cannot be read ({error}); give a TOML file, in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from None
    base = table.pop("extends", None)
    if base is not None:
        if not isinstance(base, str):
            raise ConfigError(f"{path}: extends = {base!r}: must be the name of a TOML file")
        _read(path.parent / base, layers, (*extending, path))
    layers.add(table, str(path))


def _override(layers: _Layers, overrides: Sequence[str]) -> None:
    for override in overrides:
        if not isinstance(override, str):
            raise ConfigError(f"override {override!r}: must be text; give each as an argument of its own: 'training.lr=0.1'")
        layers.add(_parse_override(override), f"override {override!r}")


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"override {override!r}: must have the form key=value, for example training.lr=0.1")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"] if text.strip() else _TAKEN_AWAY
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for part in reversed(parts):
        value = {part: value}
    return typing.cast("dict[str, Any]", value)


def _paper(layers: _Layers) -> Paper | None:
    """Take the ``[paper]`` table out, since it describes the configuration and is no part of it."""
    table = layers.table.pop("paper", None)
    if table is None:
        return None
    try:
        return Paper.model_validate(table)
    except ValidationError as error:
        key, value, allowed = _first(error, ("paper",))
    if not (isinstance(table, Mapping) and "cells" in table):
        key = key.replace("cells.0.", "")
    raise _mistake(layers, key, value, allowed)


def _validated(layers: _Layers) -> ExperimentConfig:
    try:
        return ExperimentConfig.model_validate(layers.table)
    except InvalidItemError as invalid:
        at = invalid.key(layers.table)
        if isinstance(invalid.error, ConfigError):
            kind = invalid.given["kind"] if isinstance(invalid.given, Mapping) else invalid.given
            key, value, allowed = f"{at}.kind", kind, str(invalid.error)
        else:
            key, value, allowed = _first(invalid.error, (*at.split("."),))
    except ValidationError as error:
        key, value, allowed = _first(error, ())
    raise _mistake(layers, key, value, allowed) from None


def _mistake(layers: _Layers, key: str, value: object, allowed: str) -> ConfigError:
    shown = "" if value is None else f" = {_shown(value)}"
    shelf = SHELVES.get(key.removesuffix(".kind"))
    if allowed == "is missing" and shelf is not None:
        allowed += f"; give one of {', '.join(shelf.names())}"
    return ConfigError(f"{layers.origin(key)}: {key}{shown}: {allowed}")


def _first(error: ValidationError, prefix: tuple[str, ...]) -> tuple[str, object, str]:
    """Key, value and allowed values of the first mistake."""
    detail = error.errors(include_url=False)[0]
    loc = [part for part in detail["loc"] if not _is_tag(part, detail["loc"])]
    key = ".".join((*prefix, *(str(part) for part in loc)))
    context: Mapping[str, Any] = detail.get("ctx", {})
    value: object = detail["input"]
    match detail["type"]:
        case "unknown_key":
            value = value[context["key"]] if isinstance(value, Mapping) else None
            hint = "" if key else _of_a_table(context["key"])
            return ".".join(filter(None, (key, context["key"]))), value, hint or detail["msg"]
        case "contradiction":
            return ".".join(filter(None, (key, context["key"]))), context["value"], detail["msg"]
        case "missing":
            return key, None, "is missing"
        case "union_tag_not_found":
            return f"{key}.kind", None, "is missing"
        case "union_tag_invalid":
            return f"{key}.kind", context["tag"], f"must be one of {context['expected_tags']}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return key, value, "must be a table"
        case "tuple_type" | "list_type":
            unquoted = isinstance(value, str) and value.startswith("[")
            quoting = f", with its words in quotes that the shell keeps: '{key}=[\"...\"]'" if unquoted else ""
            return key, value, f"must be a list{quoting}"
        case "int_type" | "int_parsing" if isinstance(value, str) and (".." in value or "," in value):
            return key, value, "must be one integer; `privfl sweep` takes a range"
        case "is_instance_of":
            return key, value, f"must be text that names a {context['class']}"
        case "string_pattern_mismatch":
            return key, value, f"must match {context['pattern']}"
        case _:
            text = detail["msg"].removeprefix("Input should be ")
            return key, value, "must be " + text if text != detail["msg"] else detail["msg"]


def _of_a_table(word: str) -> str:
    """The hint that a key belongs into a table; empty if no table has such a key, or if the key is near a table's name."""
    if get_close_matches(word, list(ExperimentConfig.model_fields), n=1):
        return ""
    below: dict[str, str] = {}
    for table, info in ExperimentConfig.model_fields.items():
        for part in (info.annotation, *get_args(info.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                below |= {name: f"{table}.{name}" for name in part.model_fields if name not in below}
    near = get_close_matches(word, list(below), n=1, cutoff=0.8)
    return f"is unknown; did you mean {below[near[0]]!r}?" if near else ""


def _is_tag(part: str | int, loc: tuple[str | int, ...]) -> bool:
    """Whether a part of the path is a union's tag, which Pydantic adds after the field and a user's key does not contain."""
    at = loc.index(part)
    return at > 0 and loc[at - 1] == "clipping" and part != "kind"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
