"""TOML + overrides -> one frozen, typed, validated :class:`ExperimentConfig`.

The vocabulary of a run. A table with a ``kind`` is a choice between the items of a shelf: the kind is the name of the item's
file, or a dotted path to a module of your own. Loading a configuration that names a dotted path imports that module.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializeAsAny,
    model_validator,
)

from privfl.errors import ConfigError
from privfl.shelves import SHELVES
from privfl.tables import Frozen, Item, Size, contradiction, on_shelf

Fraction = Annotated[float, Field(gt=0, lt=1)]


# --- what a configuration asks of the items of its shelves --------------------------------------------------------------


class PartitionConfig(Item):
    """A way to deal the examples to the clients; the contract of its shelf is :class:`privfl.data.partitions.Partition`."""

    names_clients: ClassVar[bool] = False
    """Whether the data themselves say who the clients are, and how many."""

    by_class: ClassVar[bool] = False
    """Whether examples are dealt by their classes, which not all labels are."""


class DataConfig(Item):
    """What every data set is told: how many clients, who has what, and how much is held out.

    ``holdout`` is the expected share of the pool that no client trains on. It is the attacks' pool of honest
    non-members, from the same distribution, client by client, as the members. With 0 everybody trains on all that they own, and
    no attack can be run.
    """

    clients: PositiveInt | None = None
    partition: Annotated[SerializeAsAny[PartitionConfig], on_shelf("data.partition")] = Field("iid", validate_default=True)
    holdout: Annotated[float, Field(ge=0, le=0.5)] = 0.2

    def check_settings(self, config: ExperimentConfig) -> None:
        """Raise unless these data, as their settings describe them, suit the other settings.

        Raises:
            PydanticCustomError: names the key, the value, and what is allowed.
        """


class CohortConfig(Item):
    """A way to draw who takes part; the contract of its shelf is :class:`privfl.privacy.cohorts.CohortSampler`."""

    draws: ClassVar[bool] = True
    """Whether anything is left to chance."""

    def expected(self, clients: int) -> int:
        """How many of so many clients take part in a round: on average, if it is not the same number every time."""
        raise NotImplementedError

    def largest(self, clients: int) -> int:
        """The most clients that a round may have."""
        return self.expected(clients)

    def check(self, clients: int) -> None:
        """Raise unless such cohorts can be drawn from so many clients.

        Raises:
            PydanticCustomError: names the key, the value, and what is allowed.
        """
        if (size := self.expected(clients)) > clients:
            raise contradiction("cohort.size", size, f"must be at most data.clients = {clients}")


class PlanConfig(Item):
    """A plan's settings; the contract of its shelf is :class:`privfl.privacy.plans.PlanSettings`."""

    promises: ClassVar[bool] = True
    """Whether there is an ε at all."""

    secret_cohorts: ClassVar[bool] = False
    """Whether the price counts on nobody's knowing who took part. Such a round is never skipped, be its cohort empty."""

    noises_messages: ClassVar[bool] = False
    """Whether each message has its noise before it is aggregated, so that nothing done to it later is a secret."""

    clips_messages: ClassVar[bool] = False
    """Whether all that a client sends in a round is clipped to one norm."""

    unnamed: ClassVar[frozenset[str]] = frozenset()
    """Settings that move no message but by way of the plan that is made of them (:mod:`privfl.federation.noise_domain`)."""

    def check(self, config: ExperimentConfig) -> None:
        """Raise unless the plan can be kept with these other settings.

        Raises:
            PydanticCustomError: names the key, the value, and what is allowed.
        """

    def check_clients(self, config: ExperimentConfig, clients: int) -> None:
        """Raise unless the plan can be kept with so many clients.

        Raises:
            PydanticCustomError: as :meth:`check`.
        """

    def check_data(self, clients: int, examples: int) -> None:
        """Raise unless the plan can be kept on data of so many clients and examples.

        Raises:
            ConfigError: one line.
        """


class AlgorithmConfig(Item):
    """A federated algorithm's settings; the contract of its shelf is :class:`privfl.federation.algorithms.Algorithm`."""

    def check(self, config: ExperimentConfig) -> None:
        """Raise unless the algorithm can be carried out with these other settings.

        Raises:
            PydanticCustomError: names the key, the value, and what is allowed.
        """


class CanariesConfig(Item):
    """What is planted into a run for an audit; the contract of its shelf is :class:`privfl.federation.canaries.Canaries`.

    ``count`` is M, how many canaries there are; about half of them are trained on.
    """

    count: Annotated[int, Field(ge=10)] = 1000

    def check(self, config: ExperimentConfig) -> None:
        """Raise unless such canaries can be planted into such a run.

        Raises:
            PydanticCustomError: names the key, the value, and what is allowed.
        """


def _default(at: str, kind: str) -> Any:
    """A field for an item of a shelf that is written only if it is another than the item of that name with its defaults."""

    def made() -> Item:
        item: Item = SHELVES[at].find(kind)(kind=kind)
        return item

    return Field(default_factory=made, exclude_if=lambda item: item == made())


class EarlyStopping(Frozen):
    """End the run after ``patience`` rounds without a validation loss that is better by more than ``tolerance``.

    ``validation`` is the share of its examples that each client keeps for validation and never trains on: of those whose
    membership is not drawn, so that attacks are not disturbed.
    """

    patience: PositiveInt = 5
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    validation: Annotated[float, Field(gt=0, le=0.5)] = 0.1


class TrainingConfig(Frozen):
    """Local training from the global model. Exactly one of ``local_epochs`` and ``local_steps``.

    ``engine`` is "auto", or an engine's name. ``momentum`` belongs to the optimizer "sgd". The learning rate of a step is
    ``lr`` times the factors of ``round_schedule`` and ``step_schedule``. ``max_grad_norm`` is the L2 norm that each batch's
    gradient is scaled down to if it is longer; it promises nothing. ``early_stopping`` is for runs without a promise.
    ``memory_budget`` is in MiB, for the fused engine, and ``parts`` says into how many parts it cuts a cohort, each a
    program of its own, which several processes share out; it chooses for itself where none is given. ``precision`` is that of
    the fused engine's matrix products; norms, sums and weights are float32 always.
    """

    engine: str = "auto"
    local_epochs: PositiveInt | None = None
    local_steps: PositiveInt | None = None
    batch_size: PositiveInt
    lr: Size
    optimizer: Annotated[SerializeAsAny[Item], on_shelf("training.optimizer", "sgd")] = _default("training.optimizer", "sgd")
    round_schedule: Annotated[SerializeAsAny[Item], on_shelf("training.round_schedule", "constant")] = _default(
        "training.round_schedule", "constant"
    )
    step_schedule: Annotated[SerializeAsAny[Item], on_shelf("training.step_schedule", "constant")] = _default(
        "training.step_schedule", "constant"
    )
    max_grad_norm: Annotated[Size | None, Field(exclude_if=lambda norm: norm is None)] = None
    early_stopping: Annotated[EarlyStopping | None, Field(exclude_if=lambda rule: rule is None)] = None
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0, le=1e30)] = 0.0
    memory_budget: PositiveInt | None = None
    parts: PositiveInt | None = None
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.local_epochs is None) == (self.local_steps is None):
            raise contradiction(
                "local_epochs",
                self.local_epochs,
                "give exactly one of local_epochs and local_steps (`KEY=` on the command line takes one away)",
            )
        return self

    @model_validator(mode="after")
    def _momentum_of_sgd(self) -> Self:
        if self.momentum and self.optimizer.kind != "sgd":
            kind = self.optimizer.kind
            raise contradiction(
                "momentum",
                self.momentum,
                f"belongs to training.optimizer = 'sgd', and the optimizer is {kind!r}; take it away, or set optimizer = 'sgd'",
            )
        return self


class EvaluationConfig(Frozen):
    """``every``: evaluate after each round whose number divides by it, and after the last."""

    every: PositiveInt = 1


class RecordsConfig(Frozen):
    """What is kept of what each adversary saw.

    ``views``: ``all`` of every round, under secure aggregation with every masked vector (four bytes a parameter, client and
    round); all but the masked vectors and what belongs to them (``sums``); or the ``final`` model only.
    """

    views: Literal["all", "sums", "final"] = "all"


# --- the whole -----------------------------------------------------------------------------------------------------------


class AttacksConfig(Frozen):
    """Which attacks are run on the finished model, and with how many shadow models."""

    run: Annotated[tuple[Annotated[SerializeAsAny[Item], on_shelf("attacks.run")], ...], Field(strict=False)] = ()
    shadow_models: NonNegativeInt = 4

    @model_validator(mode="after")
    def _each_once_and_possible(self) -> Self:
        kinds = [item.kind for item in self.run]
        for place, kind in enumerate(kinds):
            if kind in kinds[:place]:
                raise contradiction(f"run.{place}", kind, "is listed twice; name each attack once")
        for item in self.run:
            least = int(getattr(item, "least_shadows", 0))
            if self.shadow_models < least:
                raise contradiction("shadow_models", self.shadow_models, f"{item.kind!r} needs at least {least}; raise it")
        return self


class ExperimentConfig(Frozen):
    """One run, whole. Written into the run folder, it re-runs the run.

    ``task``, ``algorithm`` and ``behaviour`` are written only if they are others than plain classification, FedAvg and honesty:
    they are in the name of a run's noise in that case. ``canaries`` are for an audit; usually there are none.
    """

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    seed: int = 0
    rounds: PositiveInt
    device: Literal["auto", "cpu", "cuda"] = "auto"
    data: Annotated[SerializeAsAny[DataConfig], on_shelf("data")]
    task: Annotated[SerializeAsAny[Item], on_shelf("task", "classification")] = _default("task", "classification")
    model: Annotated[SerializeAsAny[Item], on_shelf("model")]
    cohort: Annotated[SerializeAsAny[CohortConfig], on_shelf("cohort")]
    training: TrainingConfig
    algorithm: Annotated[SerializeAsAny[AlgorithmConfig], on_shelf("algorithm")] = _default("algorithm", "fedavg")
    behaviour: Annotated[SerializeAsAny[Item], on_shelf("behaviour")] = _default("behaviour", "honest")
    privacy: Annotated[SerializeAsAny[PlanConfig], on_shelf("privacy")]
    aggregator: Annotated[SerializeAsAny[Item], on_shelf("aggregator")]
    server: Annotated[SerializeAsAny[Item], on_shelf("server")]
    evaluation: EvaluationConfig = EvaluationConfig()
    records: RecordsConfig = RecordsConfig()
    attacks: AttacksConfig = AttacksConfig()
    canaries: Annotated[
        SerializeAsAny[CanariesConfig] | None, on_shelf("canaries"), Field(exclude_if=lambda item: item is None)
    ] = None

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        clients = self.data.clients
        partition = self.data.partition
        if clients is None and not partition.names_clients:
            raise contradiction("data.clients", None, "must be given unless data.partition.kind is 'natural'")
        if clients is not None and partition.names_clients:
            raise contradiction(
                "data.clients", clients, f"is set by the data if data.partition.kind is {partition.kind!r}; take it away"
            )
        if clients is not None:
            require_clients(self, clients)
        if self.canaries is not None:
            self.canaries.check(self)
        elif self.data.holdout == 0 and self.attacks.run:
            raise contradiction(
                "attacks.run",
                [item.kind for item in self.attacks.run],
                "cannot be run with data.holdout = 0, which holds out nothing to compare with; raise it, or set attacks.run=[]",
            )
        if self.training.early_stopping is not None and self.privacy.promises:
            raise contradiction(
                "training.early_stopping",
                self.training.early_stopping.model_dump(),
                "the round at which a run ends would depend on the clients' examples, which no ε covers; "
                "take it away and set rounds, or set privacy.kind = 'none'",
            )
        self.data.check_settings(self)
        self.privacy.check(self)
        self.algorithm.check(self)
        if self.training.engine != "auto":
            try:
                SHELVES["training.engine"].find(self.training.engine)
            except ConfigError as error:
                raise contradiction("training.engine", self.training.engine, str(error)) from None
        return self


def require_clients(config: ExperimentConfig, clients: int) -> None:
    """Raise unless cohort and δ suit so many clients: known at once, or, where the data name them, when they are read.

    Raises:
        PydanticCustomError: names the key, the value, and what is allowed.
    """
    config.cohort.check(clients)
    largest = clients if config.privacy.secret_cohorts else config.cohort.largest(clients)
    if largest < (least := int(getattr(config.aggregator, "minimum_clients", 1))):
        way_out = (
            "raise cohort.size" if clients >= least else "set aggregator.kind = 'mean', or divide the data among more clients"
        )
        allowed = f"needs cohorts of at least {least} clients, and the largest has {largest}; {way_out}"
        raise contradiction("aggregator.kind", config.aggregator.kind, allowed)
    config.privacy.check_clients(config, clients)
