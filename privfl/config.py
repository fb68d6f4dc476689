"""TOML + overrides -> one frozen, typed, validated :class:`ExperimentConfig`.

The vocabulary of a run. A table with a ``kind`` is a choice: between the variants that this file lists (``cohort``,
``privacy``, ``data.partition``) or between the items of a shelf (``data``, ``model``, ``aggregator``, ``server``,
``attacks.run``), where the kind is the name of the item's file, or a dotted path to a module of your own. Loading a
configuration that names a dotted path imports that module.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from privfl.errors import ConfigError

Fraction = Annotated[float, Field(gt=0, lt=1)]


class Frozen(BaseModel):
    """An immutable table of a configuration; an unknown key is refused, with the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: object) -> object:
        if isinstance(value, Mapping):
            for key in value:
                if key not in cls.model_fields:
                    raise PydanticCustomError(
                        "unknown_key", "{hint}", {"key": key, "hint": "is unknown; " + _nearest(key, list(cls.model_fields))}
                    )
        return value


class Item(Frozen):
    """A choice from a shelf: ``kind`` names the file, the other fields are that item's own settings."""

    kind: str


# --- the parts that are not on shelves ------------------------------------------------------------------------------


class Iid(Frozen):
    """Every example goes to a client drawn uniformly; clients differ in size by at most one."""

    kind: Literal["iid"]


class Dirichlet(Frozen):
    """Each class is split over the clients by proportions from Dirichlet(alpha, ..., alpha) (Hsu 2019, Yurochkin 2019)."""

    kind: Literal["dirichlet"]
    alpha: PositiveFloat


class Shards(Frozen):
    """Examples sorted by class, cut into shards of one size, each client gets this many (McMahan 2017, section 3)."""

    kind: Literal["shards"]
    shards_per_client: PositiveInt = 2


class QuantitySkew(Frozen):
    """Client sizes follow Dirichlet(alpha, ..., alpha); classes are mixed evenly (Li 2022, NIID-Bench)."""

    kind: Literal["quantity"]
    alpha: PositiveFloat


class Natural(Frozen):
    """The clients that the data itself names: hospitals, schools, states."""

    kind: Literal["natural"]


Partition = Annotated[Iid | Dirichlet | Shards | QuantitySkew | Natural, Discriminator("kind")]


class DataConfig(Item):
    """What every data set is told: how many clients, who has what, and how much is held out.

    ``holdout`` is the expected share of the pool that no client trains on. It is the attacks' pool of honest
    non-members, from the same distribution, client by client, as the members.
    """

    clients: PositiveInt | None = None
    partition: Partition = Iid(kind="iid")
    holdout: Annotated[float, Field(gt=0, le=0.5)] = 0.2


class PoissonCohort(Frozen):
    """Every client takes part in a round independently; ``size`` is the expected number."""

    kind: Literal["poisson"]
    size: PositiveInt


class FixedCohort(Frozen):
    """Exactly ``size`` clients, drawn without replacement."""

    kind: Literal["fixed"]
    size: PositiveInt


class AllClients(Frozen):
    """Every client takes part in every round."""

    kind: Literal["all"]


class TrainingConfig(Frozen):
    """Local training: SGD from the global model. Exactly one of ``local_epochs`` and ``local_steps``."""

    engine: str = "auto"
    local_epochs: PositiveInt | None = None
    local_steps: PositiveInt | None = None
    batch_size: PositiveInt
    lr: PositiveFloat
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.local_epochs is None) == (self.local_steps is None):
            raise contradiction(
                "local_epochs",
                self.local_epochs,
                "give exactly one of local_epochs and local_steps (`KEY=` on the command line takes one away)",
            )
        return self


class NoPrivacy(Frozen):
    """Ordinary federated training; nothing is promised."""

    kind: Literal["none"]


class ExampleLevel(Frozen):
    """Example-level DP-SGD at every client (Abadi 2016), add/remove-one, for every adversary, the server included.

    Exactly one of ``noise_multiplier`` and ``target_epsilon``. ``max_epsilon`` is the budget: no round begins that
    would exceed it. It is ``target_epsilon`` unless it is given.
    """

    kind: Literal["example"]
    noise_multiplier: PositiveFloat | None = None
    target_epsilon: PositiveFloat | None = None
    max_epsilon: PositiveFloat | None = None
    delta: Fraction
    max_grad_norm: PositiveFloat

    @model_validator(mode="after")
    def _one_noise(self) -> Self:
        if (self.noise_multiplier is None) == (self.target_epsilon is None):
            raise contradiction(
                "noise_multiplier",
                self.noise_multiplier,
                "give exactly one of noise_multiplier and target_epsilon (`KEY=` on the command line takes one away)",
            )
        return self

    @property
    def budget(self) -> float | None:
        """The ε that no client may exceed; None where none was set."""
        return self.max_epsilon if self.max_epsilon is not None else self.target_epsilon


class EvaluationConfig(Frozen):
    """``every``: evaluate after each round whose number divides by it, and after the last."""

    every: PositiveInt = 1


class RecordsConfig(Frozen):
    """``views``: keep what each adversary saw of every round, or of the final model only."""

    views: Literal["all", "final"] = "all"


# --- shelves --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shelf:
    """A folder of interchangeable items and the class in its ``__init__`` that is their contract."""

    package: str
    contract: str

    def names(self) -> list[str]:
        """The items' names: file names, with the folder before a slash where a shelf has several boards."""
        found: list[str] = []

        def visit(package: str, prefix: str) -> None:
            for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
                if module.name.startswith("_"):
                    continue
                if module.ispkg:
                    visit(f"{package}.{module.name}", f"{prefix}{module.name}/")
                else:
                    found.append(prefix + module.name)

        visit(self.package, "")
        return sorted(found)

    def find(self, kind: str) -> type[Any]:
        """The item of that name, or of that dotted path.

        Raises:
            ConfigError: there is no such item, or the module holds no class, or several, that meet the contract.
        """
        dotted = "." in kind
        if not dotted and kind not in self.names():
            raise ConfigError(f"{_nearest(kind, self.names())}, or the dotted path of a module of your own")
        path = kind if dotted else f"{self.package}.{kind.replace('/', '.')}"
        try:
            module = importlib.import_module(path)
        except Exception as error:  # A module of the user's own may fail in any way.
            why = f"{type(error).__name__}: {error}"
            raise ConfigError(f"cannot be imported ({why}); allowed is a module on the Python path") from error
        contract = getattr(importlib.import_module(self.package), self.contract)
        items = [
            member
            for member in vars(module).values()
            if isinstance(member, type)
            and issubclass(member, contract)
            and member.__module__ == module.__name__
            and not inspect.isabstract(member)
        ]
        if len(items) != 1:
            wanted = f"exactly one class, nothing of it left abstract, that derives from {self.package}.{self.contract}"
            raise ConfigError(f"needs {wanted}; it has {len(items)}")
        return items[0]


SHELVES: typing.Final[Mapping[str, Shelf]] = {
    "data": Shelf("privfl.datasets", "Dataset"),
    "model": Shelf("privfl.models", "Model"),
    "aggregator": Shelf("privfl.aggregators", "Aggregator"),
    "server": Shelf("privfl.servers", "ServerOptimizer"),
    "training.engine": Shelf("privfl.training", "Trainer"),
    "attacks.run": Shelf("attacks", "Attack"),
}


class _InvalidItemError(Exception):
    """A shelf item's own settings are wrong; carries where and why past pydantic, which would flatten it."""

    def __init__(self, at: str, given: object, error: ValidationError | ConfigError) -> None:
        self.at, self.given, self.error = at, given, error

    def key(self, table: Mapping[str, Any]) -> str:
        """The item's key: :attr:`at`, and the item's place where a list of items stands there."""
        value = _value_at(table, self.at)
        return f"{self.at}.{value.index(self.given)}" if isinstance(value, list | tuple) else self.at


def _on_shelf(at: str) -> Any:
    def resolve(value: object) -> object:
        table = {"kind": value} if isinstance(value, str) else value
        if isinstance(table, Item) or not isinstance(table, Mapping) or not isinstance(table.get("kind"), str):
            return table
        try:
            return SHELVES[at].find(table["kind"]).model_validate(table)
        except ValidationError as error:
            raise _InvalidItemError(at, value, error) from None
        except ConfigError as error:
            raise _InvalidItemError(at, value, error) from None

    return BeforeValidator(resolve)


class AttacksConfig(Frozen):
    """Which attacks are run on the finished model, and with how many shadow models."""

    run: Annotated[tuple[Annotated[SerializeAsAny[Item], _on_shelf("attacks.run")], ...], Field(strict=False)] = ()
    shadow_models: NonNegativeInt = 4

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        kinds = [item.kind for item in self.run]
        for place, kind in enumerate(kinds):
            if kind in kinds[:place]:
                raise contradiction(f"run.{place}", kind, "is listed twice; name each attack once")
        return self


class ExperimentConfig(Frozen):
    """One run, whole. Written into the run folder, it re-runs the run."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    seed: int = 0
    rounds: PositiveInt
    device: Literal["auto", "cpu", "cuda"] = "auto"
    data: Annotated[SerializeAsAny[DataConfig], _on_shelf("data")]
    model: Annotated[SerializeAsAny[Item], _on_shelf("model")]
    cohort: Annotated[PoissonCohort | FixedCohort | AllClients, Discriminator("kind")]
    training: TrainingConfig
    privacy: Annotated[NoPrivacy | ExampleLevel, Discriminator("kind")]
    aggregator: Annotated[SerializeAsAny[Item], _on_shelf("aggregator")]
    server: Annotated[SerializeAsAny[Item], _on_shelf("server")]
    evaluation: EvaluationConfig = EvaluationConfig()
    records: RecordsConfig = RecordsConfig()
    attacks: AttacksConfig = AttacksConfig()

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        clients = self.data.clients
        if clients is None and not isinstance(self.data.partition, Natural):
            raise contradiction("data.clients", None, "must be given unless data.partition.kind is 'natural'")
        if clients is not None and isinstance(self.data.partition, Natural):
            raise contradiction(
                "data.clients", clients, "is set by the data where data.partition.kind is 'natural'; take it away"
            )
        if not isinstance(self.cohort, AllClients) and clients is not None and self.cohort.size > clients:
            raise contradiction("cohort.size", self.cohort.size, f"must be at most data.clients = {clients}")
        if self.training.engine != "auto":
            try:
                SHELVES["training.engine"].find(self.training.engine)
            except ConfigError as error:
                raise contradiction("training.engine", self.training.engine, str(error)) from None
        return self


def contradiction(key: str, value: object, allowed: str) -> PydanticCustomError:
    """The error for settings that are each allowed but not together."""
    return PydanticCustomError("contradiction", "{hint}", {"key": key, "value": value, "hint": allowed})


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass
class _Layers:
    """Tables merged so far, and which file or override each dotted key came from.

    A table came from whoever began it or chose its ``kind``; the whole, ``""``, from ``root``.
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
                # Another kind has other settings: of the old kind's, only those stay that the new one knows too.
                known = _fields_of_kind(at.rstrip("."), layer["kind"])
                for key in base.keys() - known:
                    self._drop(kept, at, key)
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
"""The value of an override ``key=``: the setting is as if no file had given it."""


def _fields_of_kind(at: str, kind: object) -> set[str]:
    if not isinstance(kind, str):
        return set()
    if at in SHELVES:
        try:
            return set(SHELVES[at].find(kind).model_fields)
        except ConfigError:
            return set()
    owner: type[BaseModel] = DataConfig if at.startswith("data.") else ExperimentConfig
    info = owner.model_fields.get(at.removeprefix("data."))
    for variant in typing.get_args(info.annotation) if info else ():
        if kind in typing.get_args(variant.model_fields["kind"].annotation):
            return set(variant.model_fields)
    return set()


def load(path: Path | str, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read a TOML file, what it extends, and overrides of the form ``a.b=value``, in that order.

    Args:
        path: the file; ``extends = "other.toml"`` in it is relative to it.
        overrides: values are read as TOML, and as plain text where that fails (``privacy.kind=none``). Text in a table's
            place is its kind (``privacy=none``); no value takes a setting away (``privacy.target_epsilon=``).

    Raises:
        ConfigError: one line that names the file, the key, the value and what is allowed.
    """
    layers = _Layers(str(path))
    _read(Path(path), layers, ())
    for override in overrides:
        layers.add(_parse_override(override), f"override {override!r}")
    return _validated(layers)


def loads(table: Mapping[str, Any], origin: str = "configuration") -> ExperimentConfig:
    """The same from a table that is already in memory."""
    layers = _Layers(origin)
    layers.add(table, origin)
    return _validated(layers)


def load_data(kind: str, overrides: Sequence[str] = ()) -> DataConfig:
    """The ``data`` table alone, for looking at a partition: ten clients unless the overrides say otherwise.

    Args:
        kind: the data set's name or dotted path.
        overrides: keys below ``data``, for example ``partition.alpha=0.1``.

    Raises:
        ConfigError: as :func:`load`.
    """
    layers = _Layers("privfl data show")
    layers.add({**_ANY_RUN, "data": {"kind": kind, "partition": {"kind": "iid"}}}, layers.root)
    for override in overrides:
        layers.add({"data": _parse_override(override)}, f"override {override!r}")
    if _value_at(layers.table, "data.partition.kind") != "natural":
        layers.table["data"].setdefault("clients", 10)
    return _validated(layers).data


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
    """The resolved configuration as TOML, every default written out; :func:`load` gives an equal one back."""
    return tomli_w.dumps(config.model_dump(exclude_none=True))


def _read(path: Path, layers: _Layers, extending: tuple[Path, ...]) -> None:
    named_by = f"{extending[-1]}: extends = {str(path)!r}" if extending else str(path)
    if path.resolve() in (file.resolve() for file in extending):
        raise ConfigError(
            f"{named_by}: extends itself, by way of {' -> '.join(map(str, extending))}; remove one of these lines"
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{named_by}: no such file; paper_configs/ holds examples") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{named_by}: cannot be read ({error}); give a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None
    base = table.pop("extends", None)
    if base is not None:
        if not isinstance(base, str):
            raise ConfigError(f"{path}: extends = {base!r}: must be the name of a TOML file")
        _read(path.parent / base, layers, (*extending, path))
    layers.add(table, str(path))


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


def _validated(layers: _Layers) -> ExperimentConfig:
    try:
        return ExperimentConfig.model_validate(layers.table)
    except _InvalidItemError as invalid:
        at = invalid.key(layers.table)
        if isinstance(invalid.error, ConfigError):
            kind = invalid.given["kind"] if isinstance(invalid.given, Mapping) else invalid.given
            key, value, allowed = f"{at}.kind", kind, str(invalid.error)
        else:
            key, value, allowed = _first(invalid.error, (*at.split("."),))
    except ValidationError as error:
        key, value, allowed = _first(error, ())
    shown = "" if value is None else f" = {_shown(value)}"
    raise ConfigError(f"{layers.origin(key)}: {key}{shown}: {allowed}") from None


def _first(error: ValidationError, prefix: tuple[str, ...]) -> tuple[str, object, str]:
    """Key, value and what is allowed, of the first mistake."""
    detail = error.errors(include_url=False)[0]
    loc = [part for part in detail["loc"] if not _is_tag(part, detail["loc"])]
    key = ".".join((*prefix, *(str(part) for part in loc)))
    context: Mapping[str, Any] = detail.get("ctx", {})
    value: object = detail["input"]
    match detail["type"]:
        case "unknown_key":
            value = value[context["key"]] if isinstance(value, Mapping) else None
            return ".".join(filter(None, (key, context["key"]))), value, detail["msg"]
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
        case "tuple_type":
            return key, value, "must be a list"
        case "string_pattern_mismatch":
            return key, value, f"must match {context['pattern']}"
        case _:
            text = detail["msg"].removeprefix("Input should be ")
            return key, value, "must be " + text if text != detail["msg"] else detail["msg"]


def _is_tag(part: str | int, loc: tuple[str | int, ...]) -> bool:
    """Pydantic puts a union's tag into the path behind the field; a reader's path has no such step."""
    at = loc.index(part)
    return at > 0 and loc[at - 1] in ("partition", "cohort", "privacy") and part != "kind"


def _value_at(table: Mapping[str, Any], key: str) -> object:
    value: Any = table
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else value
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return (f"did you mean {close[0]!r}? " if close else "") + f"allowed: {', '.join(sorted(known))}"
