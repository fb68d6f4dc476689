"""What a run writes down, as typed records: the language between those who measure and those who show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from privfl.tables import Frozen

Curve = Annotated[list[float], Field(repr=False)]
"""Hundreds of numbers, which are not printed where a record is shown."""


class Interval(Frozen):
    """An estimate and its two-sided interval at ``level``, from ``n`` observations."""

    value: float
    low: float
    high: float
    n: int
    level: float = 0.95


class Spread(Frozen):
    """How a figure is spread over clients: minimum, 10th, 50th and 90th percentile, maximum."""

    minimum: float
    p10: float
    median: float
    p90: float
    maximum: float


class Evaluation(Frozen):
    """The task's metrics on the central test split, and the first of them spread over clients' hold-outs.

    In a file the metrics stand beside ``clients``, each under its own name. The first is the task's headline; all tasks have
    ``loss``. ``personal`` is the same spread with each client's own model, if the algorithm gives it one.
    """

    metrics: dict[str, Interval]
    clients: Spread | None
    personal: Spread | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, value: object) -> object:
        if not isinstance(value, Mapping) or "metrics" in value:
            return value
        spreads = ("clients", "personal")
        metrics = {key: found for key, found in value.items() if key not in spreads}
        return {"metrics": metrics, **{key: value.get(key) for key in spreads}}

    @model_serializer
    def _to_write(self) -> dict[str, Any]:
        personal = {} if self.personal is None else {"personal": self.personal}
        return {**self.metrics, "clients": self.clients, **personal}

    @property
    def name(self) -> str:
        """The headline's name."""
        return next(iter(self.metrics))

    @property
    def headline(self) -> Interval:
        """The first metric."""
        return self.metrics[self.name]

    @property
    def loss(self) -> Interval:
        """The mean loss."""
        return self.metrics["loss"]


class StageBytes(Frozen):
    """What all clients together sent and were sent in one stage of secure aggregation, and how many answered."""

    stage: str
    bytes_up: int
    bytes_down: int
    answers: int


class SecureRecord(Frozen):
    """What the protocol of secure aggregation did in one round; of several attempts the last, but for ``attempts``, the
    masks and the bytes, which are of all, and the numbers, which are of the last that had a roster.

    Where none had one, ``clients``, ``graph`` and all numbers of a roster are None. ``neighbours`` and ``threshold`` are k
    and t, ``least_survivors`` the smallest number whose sum is revealed, ``quorum`` how many must sign for the same
    survivors (0: nobody signs). ``log2_insecure`` and ``log2_recovery`` are binary logarithms of the certified
    probabilities that the server learns more than the sum, and that the round cannot be finished although no more are lost
    than was allowed for; None stands for a probability of 0. ``lost`` names who fell silent at which stage, ``refused`` who
    left because of a message that was refused.
    """

    attempts: int
    clients: int | None
    graph: str | None
    adversary: str
    bits: int
    neighbours: int | None
    threshold: int | None
    least_survivors: int | None
    quorum: int | None
    log2_insecure: float | None
    log2_recovery: float | None
    lost: dict[str, list[int]]
    refused: dict[str, str]
    masks_clients: int
    masks_server: int
    stages: list[StageBytes]


class RoundRecord(Frozen):
    """What one round did. ``round`` counts from 0.

    ``skipped`` says why the model did not move, where the cohort was too small or too few clients survived; ``stopped`` why the
    run ended with this round, where the aggregator was told to stop the run. ``survivors``
    are the clients whose updates are in the mean, stand-ins for a cohort too small to hide included. ``epsilon`` is the
    largest ε over the clients so far, None where nothing is promised. ``clipped_share`` is the share of per-example
    gradients, or of updates, that were clipped, ``clipped_coordinates`` how many coordinates the secure sum's encoding
    clipped, ``zeroed`` how many gradients or updates were not finite; no server sees any of them. ``validation_loss`` is
    the mean loss on the examples that clients keep for early stopping. ``streams`` is a name of what
    the round drew its batches and noise from: where it is the same in two runs, and the cohort too, they sent the same
    messages, or, without a promise, had the same chance.
    """

    round: int
    streams: str | None = None
    cohort: list[int]
    survivors: list[int]
    skipped: str | None
    stopped: str | None = None
    train_loss: float | None
    clipped_share: float | None
    clipped_coordinates: int
    zeroed: int = 0
    epsilon: float | None
    bytes_up: int
    bytes_down: int
    secure: SecureRecord | None
    validation_loss: Annotated[float | None, Field(exclude_if=lambda loss: loss is None)] = None
    evaluation: Evaluation | None


class StageSeconds(Frozen):
    """Seconds of one stage of secure aggregation: of the mean client that answered, and of the server."""

    stage: str
    client: float
    server: float


class TimingRecord(Frozen):
    """Seconds that one round took: training of the whole cohort, one client's and the server's part of aggregation, and the
    stages of the latter where it has any. ``processes`` is how many had clients to train.
    """

    round: int
    processes: int
    train: float
    aggregate_client: float
    aggregate_server: float
    evaluate: float
    total: float
    stages: list[StageSeconds]


class Environment(Frozen):
    """What a reader needs to reproduce the run beside its configuration."""

    format: int
    privfl: str
    python: str
    platform: str
    processor: str
    device: str
    packages: dict[str, str]


class FileRecord(Frozen):
    """A file of somebody's own that a run's data were read from.

    It may be a folder: ``files`` is how many files of it were read, ``size`` the bytes of all, and ``sha256`` the hash of their
    list, sorted by path, with a line for each as ``sha256sum`` prints it.
    """

    name: str
    size: int
    sha256: str
    files: Annotated[int, Field(exclude_if=lambda files: files == 1)] = 1


class ColumnRecord(Frozen):
    """How a column of a table became numbers, so that the same can be done to a new row.

    A number x becomes (x - ``shift``) / ``scale``, between 0 and 1 if ``clipped``; if it is missing, ``fill`` takes its place
    and a further number is 1. A category becomes a number for each of ``levels``, 1 for its own.
    """

    name: str
    kind: Literal["number", "category"]
    inferred: bool
    shift: Annotated[float, Field(exclude_if=lambda shift: shift == 0.0)] = 0.0
    scale: Annotated[float, Field(exclude_if=lambda scale: scale == 1.0)] = 1.0
    clipped: Annotated[bool, Field(exclude_if=lambda clipped: not clipped)] = False
    fill: Annotated[float | None, Field(exclude_if=lambda fill: fill is None)] = None
    levels: list[str] = Field(default_factory=list, exclude_if=lambda levels: not levels)


class PartitionRecord(Frozen):
    """Who has how much of which class: ``counts`` has a row for each client, a column for each class.

    ``digest`` is the SHA-256 of all the data and of who owns what, ``constants`` that of what the model holds and does not
    train; a run is resumed and attacked with the same only. ``files`` and ``columns`` are those of data of somebody's own.
    ``misbehaving``: the numbers of the clients that depart from the protocol, ascending.
    """

    clients: list[str]
    classes: list[str]
    counts: list[list[int]]
    provenance: str
    digest: str
    constants: str
    files: list[FileRecord] = Field(default_factory=list, exclude_if=lambda files: not files)
    columns: list[ColumnRecord] = Field(default_factory=list, exclude_if=lambda columns: not columns)
    misbehaving: Annotated[tuple[int, ...], Field(strict=False, exclude_if=lambda clients: not clients)] = ()


class Price(Frozen):
    """One ε: the largest over the accounts, by one accountant, under one neighbouring relation."""

    accountant: str
    relation: str
    epsilon: float


class Extrapolated(Frozen):
    """What the run would cost in the federation that it stands for. No page prints it as the run's ε."""

    population: int
    cohort: int
    noise_multiplier: float
    epsilon: float


class PrivacyResult(Frozen):
    """What was promised, priced from the ledger alone.

    ``epsilon`` is the largest over the clients, by the first of ``prices``; it is that of the noise that was executed.
    ``delta`` is held against one over ``units``, the number of examples or clients that are protected.
    ``noise_multiplier`` is relative to ``clip``; ``clip_end`` is where a norm that adapts ended.

    Attacks ask of single examples whether they were trained on. Where the unit is a client, one example in or out makes
    another of the client's update and does not take it away: ``attack_relation`` is ``replace_one``, ``attack_epsilon`` what
    the run costs under it at ``delta``, and ``curve_epsilon`` and ``curve_delta`` the privacy curve under it that holds for
    every client: δ(ε), the largest over the clients at each ε. Where the unit is an example it is the plan's own relation.
    ``zeroed`` counts gradients or updates that were not finite; a simulation's fact, like all that is read from raw data.
    """

    plan: str
    unit: Literal["example", "client"]
    units: int
    relation: str
    sampler: str
    adversaries: list[str]
    delta: float
    randomness: Literal["seeded", "secure"]
    noise_multiplier: float
    clip: float
    clip_end: float | None
    epsilon: float
    prices: list[Price]
    extrapolated: Extrapolated | None
    epsilon_clients: Curve
    budget: float | None
    zeroed: int
    attack_relation: str
    attack_epsilon: float
    curve_epsilon: Curve
    curve_delta: Curve


class Result(Frozen):
    """The figures of a run. ``stopped`` says why it ended before its last round, where it did; ``engine`` which engine
    trained, and why it was chosen. ``train`` is the headline on examples that were trained on, in a file ``train_accuracy``, or
    ``train_`` and the name of another headline.

    ``bytes_plain`` is what the same uploads would have cost in the clear.
    """

    rounds: int
    stopped: str | None
    parameters: int
    engine: str
    evaluation: Evaluation
    train: float
    privacy: PrivacyResult | None
    hides_updates: bool
    bytes_up: int
    bytes_down: int
    bytes_plain: int

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, value: object) -> object:
        train = next((key for key in value if key.startswith("train_")), None) if isinstance(value, Mapping) else None
        if train is None or not isinstance(value, Mapping):
            return value
        found = {key: entry for key, entry in value.items() if key != train} | {"train": value[train]}
        if isinstance(evaluation := found.get("evaluation"), Mapping):
            # The file has sorted keys; which metric is the headline stands in the other's name.
            first = train.removeprefix("train_")
            found["evaluation"] = {key: evaluation[key] for key in sorted(evaluation, key=lambda key: key != first)}
        return found

    @model_serializer(mode="wrap")
    def _to_write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        return {f"train_{self.evaluation.name}" if key == "train" else key: found for key, found in written.items()}
