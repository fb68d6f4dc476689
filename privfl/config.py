"""TOML + overrides -> one frozen, typed, validated :class:`ExperimentConfig`.

The vocabulary of a run. A table with a ``kind`` is a choice: between the variants that this file lists (``cohort``,
``privacy``, ``data.partition``) or between the items of a shelf (``data``, ``model``, ``aggregator``, ``server``,
``attacks.run``), where the kind is the name of the item's file, or a dotted path to a module of your own. Loading a
configuration that names a dotted path imports that module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

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
from privfl.shelves import SHELVES, nearest

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
                        "unknown_key", "{hint}", {"key": key, "hint": "is unknown; " + nearest(key, list(cls.model_fields))}
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


# --- items of shelves -------------------------------------------------------------------------------------------------


class InvalidItemError(Exception):
    """A shelf item's own settings are wrong; carries where and why past pydantic, which would flatten it."""

    def __init__(self, at: str, given: object, error: ValidationError | ConfigError) -> None:
        self.at, self.given, self.error = at, given, error

    def key(self, table: Mapping[str, Any]) -> str:
        """The item's key: :attr:`at`, and the item's place where a list of items stands there."""
        value = value_at(table, self.at)
        return f"{self.at}.{value.index(self.given)}" if isinstance(value, list | tuple) else self.at


def _on_shelf(at: str) -> Any:
    def resolve(value: object) -> object:
        table = {"kind": value} if isinstance(value, str) else value
        if isinstance(table, Item) or not isinstance(table, Mapping) or not isinstance(table.get("kind"), str):
            return table
        try:
            return SHELVES[at].find(table["kind"]).model_validate(table)
        except ValidationError as error:
            raise InvalidItemError(at, value, error) from None
        except ConfigError as error:
            raise InvalidItemError(at, value, error) from None

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


def value_at(table: Mapping[str, Any], key: str) -> object:
    """What stands at a dotted key of nested tables."""
    value: Any = table
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else value
    return value
