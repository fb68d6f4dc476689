"""The configuration of a run as frozen, typed and validated classes; :class:`ExperimentConfig` is the whole.

A table with a ``kind`` chooses an item of a shelf: the kind is the name of the item's file, or a dotted path to a module of
your own. Loading a configuration that names a dotted path imports that module.
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


# --- contracts of the shelves' items that a configuration needs ---------------------------------------------------------


class PartitionConfig(Item):
    """Settings of a partition of examples among clients; the shelf's contract is :class:`privfl.data.partitions.Partition`."""

    names_clients: ClassVar[bool] = False
    """Whether the data say who the clients are, and how many."""

    by_class: ClassVar[bool] = False
    """Whether examples are distributed by their classes, which only some labels are."""


class TransformConfig(Item):
    """Settings of a transform of a model's inputs; the shelf's contract is :class:`privfl.data.transforms.Transform`."""

    reads_pool: ClassVar[bool] = False
    """Whether an example's result depends on other examples of the pool. If so, a promise must pay for it."""

    keeps_images: ClassVar[bool] = False
    """Whether images stay images, which can be turned."""

    def check(self, config: ExperimentConfig) -> None:
        """Raise if the transform reads the pool and the promise cannot pay for it, or leaves no images to turn.

        Raises:
            PydanticCustomError: names the key, the value, and the allowed values.
        """
        if config.data.rotations and not self.keeps_images:
            raise contradiction("data.transforms", self.kind, "leaves no images that data.rotations could turn; take one out")
        if not (self.reads_pool and config.privacy.promises):
            return
        if not config.privacy.prices_statistics:
            hint = "reads the clients' examples, which this plan cannot price; take it out, or set privacy.kind = 'example'"
            raise contradiction("data.transforms", self.kind, hint)
        if getattr(self, "noise_multiplier", None) is None:
            raise contradiction("data.transforms", self.kind, "reads the clients' examples; give it a noise_multiplier")
        if config.data.clients != 1 or config.data.holdout > 0 or config.canaries is not None:
            hint = (
                "reads the examples of the whole pool, which nobody but a single owner of all of them has; "
                "set data.clients = 1 and data.holdout = 0, without canaries, or take it out"
            )
            raise contradiction("data.transforms", self.kind, hint)


class DataConfig(Item):
    """Settings of every data set: the number of clients, the partition, the share of held-out examples, and transforms.

    ``holdout`` is the expected share of the pool that no client trains on. Attacks use these examples as non-members. For each
    client they come from the same distribution as the members. With 0 every client trains on all of its examples, and no attack
    can be run. ``transforms`` change the model's inputs, in that order, before anything else is done with them. ``rotations``
    divides the clients, by ascending number, into groups of nearly equal size. The images of a group are turned by its angle,
    counterclockwise. The test split is divided among the groups likewise.
    """

    clients: PositiveInt | None = None
    partition: Annotated[SerializeAsAny[PartitionConfig], on_shelf("data.partition")] = Field("iid", validate_default=True)
    holdout: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    transforms: Annotated[
        tuple[Annotated[SerializeAsAny[TransformConfig], on_shelf("data.transforms")], ...],
        Field(strict=False, exclude_if=lambda items: not items),
    ] = ()
    rotations: Annotated[tuple[Literal[0, 90, 180, 270], ...], Field(strict=False, exclude_if=lambda angles: not angles)] = ()

    def check_settings(self, config: ExperimentConfig) -> None:
        """Raise unless the data, as their settings describe them, fit the other settings.

        Raises:
            PydanticCustomError: names the key, the value, and the allowed values.
        """


class CohortConfig(Item):
    """Settings of a cohort sampler; the shelf's contract is :class:`privfl.privacy.cohorts.CohortSampler`."""

    draws: ClassVar[bool] = True
    """Whether the cohorts are random."""

    def expected(self, clients: int) -> int:
        """The expected number of clients in a round, out of that many clients."""
        raise NotImplementedError

    def largest(self, clients: int) -> int:
        """The largest number of clients that a round may have."""
        return self.expected(clients)

    def check(self, clients: int) -> None:
        """Raise unless such cohorts can be drawn from that many clients.

        Raises:
            PydanticCustomError: names the key, the value, and the allowed values.
        """
        if (size := self.expected(clients)) > clients:
            raise contradiction("cohort.size", size, f"must be at most data.clients = {clients}")


class PlanConfig(Item):
    """Settings of a privacy plan; the shelf's contract is :class:`privfl.privacy.plans.PlanSettings`."""

    promises: ClassVar[bool] = True
    """Whether the plan promises an ε."""

    secret_cohorts: ClassVar[bool] = False
    """Whether the price assumes that nobody knows who took part. If so, no round is skipped, even with an empty cohort."""

    noises_messages: ClassVar[bool] = False
    """Whether each message has its noise before it is aggregated, so that later steps need no secrecy."""

    clips_messages: ClassVar[bool] = False
    """Whether everything that a client sends in a round is clipped to one norm."""

    prices_statistics: ClassVar[bool] = False
    """Whether its price can include noised statistics of a single client's examples, from which inputs are computed."""

    unnamed: ClassVar[frozenset[str]] = frozenset()
    """Settings that affect messages only through the plan, so that the noise domain leaves them out."""

    def check(self, config: ExperimentConfig) -> None:
        """Raise unless the plan can be kept with the other settings.

        Raises:
            PydanticCustomError: names the key, the value, and the allowed values.
        """

    def check_clients(self, config: ExperimentConfig, clients: int) -> None:
        """Raise unless the plan can be kept with that many clients.

        Raises:
            PydanticCustomError: as :meth:`check`.
        """

    def check_data(self, clients: int, examples: int) -> None:
        """Raise unless the plan can be kept on data with that many clients and examples.

        Raises:
            ConfigError: names the setting and the allowed values.
        """


class AlgorithmConfig(Item):
    """Settings of a federated algorithm; the shelf's contract is :class:`privfl.federation.algorithms.Algorithm`."""

    from_older: ClassVar[bool] = False
    """Whether a client may train from an older global model than the round's own."""

    def check(self, config: ExperimentConfig) -> None:
        """Raise unless the algorithm works with the other settings.

        Raises:
            PydanticCustomError: names the key, the value, and the allowed values.
        """


class UploadTransformConfig(Item):
    """Settings of a transform of uploads; the shelf's contract is :class:`privfl.federation.transforms.Transform`."""

    def check(self, config: ExperimentConfig) -> None:
        """Raise unless the transform works with the other settings.

        Raises:
            PydanticCustomError: names the key, the value, and what is allowed.
        """


class ClockConfig(Item):
    """Settings of a client clock; the shelf's contract is :class:`privfl.federation.clocks.Clock`."""

    ticks: ClassVar[bool] = True
    """Whether it has durations."""


class PaceConfig(Item):
    """Settings of a pace; the shelf's contract is :class:`privfl.federation.paces.Pace`."""

    def check(self, config: ExperimentConfig) -> None:
        """Raise unless rounds can be paced so with the other settings.

        Raises:
            PydanticCustomError: names the key, the value, and the allowed values.
        """

    def check_clients(self, cohort: int) -> None:
        """Raise unless rounds can be paced so with cohorts that are expected to have so many clients.

        Raises:
            PydanticCustomError: as :meth:`check`.
        """

    def asked(self, cohort: int) -> int:
        """The number of clients in one sum if nobody is late, and a cohort has so many."""
        return cohort

    def largest(self, cohort: int) -> int:
        """The largest number of clients whose updates are in one sum, if a cohort has at most so many."""
        return self.asked(cohort)


class CanariesConfig(Item):
    """Canaries, planted into a run for an audit; the contract of their shelf is :class:`privfl.federation.canaries.Canaries`.

    ``count`` is M, how many canaries there are; about half of them are trained on.
    """

    count: Annotated[int, Field(ge=10)] = 1000

    def check(self, config: ExperimentConfig) -> None:
        """Raise unless such canaries can be planted into such a run.

        Raises:
            PydanticCustomError: names the key, the value, and what is allowed.
        """


def _default(at: str, kind: str) -> Any:
    """A field for an item of a shelf that is written to TOML only if it differs from the default item."""

    def made() -> Item:
        item: Item = SHELVES[at].find(kind)(kind=kind)
        return item

    return Field(default_factory=made, exclude_if=lambda item: item == made())


class EarlyStopping(Frozen):
    """Early stopping: a run ends after ``patience`` rounds without a validation loss that is better by more than ``tolerance``.

    ``validation`` is the share of its examples that each client keeps for validation and never trains on. They are taken from
    examples whose membership is not drawn, so attacks are not affected.
    """

    patience: PositiveInt = 5
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    validation: Annotated[float, Field(gt=0, le=0.5)] = 0.1


class TrainingConfig(Frozen):
    """Settings of local training from the global model. Exactly one of ``local_epochs`` and ``local_steps`` is given.

    ``engine`` is "auto" or an engine's name. ``momentum`` belongs to the optimizer "sgd". The learning rate of a step is ``lr``
    times the factors of ``round_schedule`` and ``step_schedule``. ``max_grad_norm`` is the L2 norm to which each batch's
    gradient is scaled down if it is longer; it promises no privacy. ``early_stopping`` is for runs without a promise.
    ``memory_budget`` (in MiB), ``parts`` and ``precision`` belong to the fused engine. ``parts`` is the number of parts into
    which it divides a cohort; each part is trained as one program, and several processes share the parts. If it is not given,
    the engine chooses it. ``precision`` is that of its matrix products. Norms, sums and weights are always float32.
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
                "give exactly one of local_epochs and local_steps (`KEY=` on the command line removes one)",
            )
        return self

    @model_validator(mode="after")
    def _momentum_of_sgd(self) -> Self:
        if self.momentum and self.optimizer.kind != "sgd":
            kind = self.optimizer.kind
            raise contradiction(
                "momentum",
                self.momentum,
                f"belongs to training.optimizer = 'sgd', and the optimizer is {kind!r}; remove it, or set optimizer = 'sgd'",
            )
        return self


class Target(Frozen):
    """A value of a metric of the task on the test part, at which a run ends: at least it, or at most if less is better."""

    metric: str = "accuracy"
    value: Annotated[float, Field(allow_inf_nan=False)]


class EvaluationConfig(Frozen):
    """Settings of evaluation. ``every``: evaluate after each round whose number is divisible by it, and after the last.

    ``until`` ends the run after the first evaluation that reaches a target. It is for runs without a promise, and without
    examples that are held out.
    """

    every: PositiveInt = 1
    until: Annotated[Target | None, Field(exclude_if=lambda target: target is None)] = None

    def check(self, config: ExperimentConfig) -> None:
        """Raise unless a run of this configuration may end at its target.

        Raises:
            PydanticCustomError: names the key, the value, and the allowed values.
        """
        if self.until is None:
            return
        known = list(getattr(config.task, "figures", {}))
        if self.until.metric not in known:
            raise contradiction("evaluation.until.metric", self.until.metric, f"allowed: {', '.join(known)}")
        if config.privacy.promises:
            raise contradiction(
                "evaluation.until",
                self.until.model_dump(),
                "the round at which a run ends would depend on the clients' examples, which no ε covers; "
                "remove it and set rounds, or set privacy.kind = 'none'",
            )
        if config.data.holdout or config.canaries is not None:
            raise contradiction(
                "evaluation.until",
                self.until.model_dump(),
                "shadow models are not evaluated and would go on; set data.holdout = 0, or remove it",
            )


class RecordsConfig(Frozen):
    """Settings of the records: the parts of each adversary's view that are kept.

    ``views`` is ``all``, ``sums`` or ``final``. ``sums`` keeps every round without the transcripts of secure aggregation, which
    is enough for every attack of the shelves. ``all`` includes the transcripts: every masked vector, with four bytes per
    parameter, client and round. ``final`` keeps the final model only, which is enough for attacks of the final model.
    """

    views: Literal["all", "sums", "final"] = "sums"


# --- the whole configuration --------------------------------------------------------------------------------------------


class AttacksConfig(Frozen):
    """Settings of attacks: the attacks to run on the finished model, the number of shadow models, and what is listed.

    ``exposed`` is the number of members that a finding about membership lists, those that the best attack ranks highest. They
    are training examples, shown as pictures if they are images; 0 lists none.
    """

    run: Annotated[tuple[Annotated[SerializeAsAny[Item], on_shelf("attacks.run")], ...], Field(strict=False)] = ()
    shadow_models: NonNegativeInt = 4
    exposed: NonNegativeInt = 12

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
    """The whole configuration of one run. Its copy in the run folder runs it again.

    ``task``, ``algorithm``, ``behaviour``, ``transform``, ``clock`` and ``pace`` are written only if they differ from
    classification, FedAvg, honesty, whole uploads, no time, and synchronous rounds. Only then does the noise domain depend on
    them. ``canaries`` are for an audit, and usually there are none.
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
    transform: Annotated[SerializeAsAny[UploadTransformConfig], on_shelf("transform")] = _default("transform", "identity")
    clock: Annotated[SerializeAsAny[ClockConfig], on_shelf("clock")] = _default("clock", "untimed")
    pace: Annotated[SerializeAsAny[PaceConfig], on_shelf("pace")] = _default("pace", "synchronous")
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
                "data.clients", clients, f"is set by the data if data.partition.kind is {partition.kind!r}; remove it"
            )
        self.pace.check(self)
        if clients is not None:
            require_clients(self, clients)
        if self.canaries is not None:
            self.canaries.check(self)
        elif self.data.holdout == 0 and self.attacks.run:
            raise contradiction(
                "attacks.run",
                [item.kind for item in self.attacks.run],
                "cannot be run with data.holdout = 0, since attacks need held-out examples; raise it, or set attacks.run=[]",
            )
        if self.training.early_stopping is not None and self.privacy.promises:
            raise contradiction(
                "training.early_stopping",
                self.training.early_stopping.model_dump(),
                "the round at which a run ends would depend on the clients' examples, which no ε covers; "
                "remove it and set rounds, or set privacy.kind = 'none'",
            )
        self.evaluation.check(self)
        self.data.check_settings(self)
        for transform in self.data.transforms:
            transform.check(self)
        self.privacy.check(self)
        self.algorithm.check(self)
        self.transform.check(self)
        if self.training.engine != "auto":
            try:
                SHELVES["training.engine"].find(self.training.engine)
            except ConfigError as error:
                raise contradiction("training.engine", self.training.engine, str(error)) from None
        return self


def require_clients(config: ExperimentConfig, clients: int) -> None:
    """Raise unless cohort and plan fit that number of clients. If the data name the clients, it is called once they are read.

    Raises:
        PydanticCustomError: names the key, the value, and the allowed values.
    """
    config.cohort.check(clients)
    config.pace.check_clients(config.cohort.expected(clients))
    largest = clients if config.privacy.secret_cohorts else config.pace.largest(config.cohort.largest(clients))
    if largest < (least := int(getattr(config.aggregator, "minimum_clients", 1))):
        way_out = (
            "raise cohort.size" if clients >= least else "set aggregator.kind = 'mean', or divide the data among more clients"
        )
        allowed = f"needs cohorts of at least {least} clients, and the largest has {largest}; {way_out}"
        raise contradiction("aggregator.kind", config.aggregator.kind, allowed)
    config.privacy.check_clients(config, clients)
