"""Typed records of a run: everything that running and attacking write and reports read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from privfl.tables import Frozen

Curve = Annotated[list[float], Field(repr=False)]
"""A list of hundreds of numbers, which is not printed with its record."""


ByClient = dict[Annotated[int, Field(strict=False)], int]
"""A number for some clients, by the client's number, which a file writes as text."""


class Interval(Frozen):
    """An estimate with its two-sided interval at ``level``, from ``n`` observations."""

    value: float
    low: float
    high: float
    n: int
    level: float = 0.95


class Spread(Frozen):
    """The spread of a figure over clients: minimum, 10th, 50th and 90th percentile, maximum, and mean.

    ``mean`` counts every client once, however many examples it has. Runs of earlier versions have none.
    """

    minimum: float
    p10: float
    median: float
    p90: float
    maximum: float
    mean: Annotated[float | None, Field(exclude_if=lambda mean: mean is None)] = None


class Evaluation(Frozen):
    """The task's metrics on the central test split, and the spread of the first metric over clients' hold-outs.

    In a file the metrics stand beside ``clients``, each under its own name. The first metric is the task's headline, and every
    task has ``loss``. ``personal`` is the same spread with each client's own model, if the algorithm gives it one.
    ``attack_success`` is the share of test inputs with a backdoor's trigger that get its target label.
    """

    metrics: dict[str, Interval]
    clients: Spread | None
    personal: Spread | None = None
    attack_success: Interval | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, value: object) -> object:
        if not isinstance(value, Mapping) or "metrics" in value:
            return value
        others = ("clients", "personal", "attack_success")
        metrics = {key: found for key, found in value.items() if key not in others}
        return {"metrics": metrics, **{key: value.get(key) for key in others}}

    @model_serializer
    def _to_write(self) -> dict[str, Any]:
        some = {"personal": self.personal, "attack_success": self.attack_success}
        return {**self.metrics, "clients": self.clients, **{key: found for key, found in some.items() if found is not None}}

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
    """Bytes that all clients together sent and received in one stage of secure aggregation, and the number of answers."""

    stage: str
    bytes_up: int
    bytes_down: int
    answers: int


class SecureRecord(Frozen):
    """Figures of the secure aggregation protocol in one round.

    If there were several attempts, figures are those of the last one, with two exceptions. ``attempts``, the masks and the
    bytes count all attempts. The figures of the roster are those of the last attempt that had one. If none had one,
    ``clients``, ``graph`` and all figures of a roster are None.

    ``neighbours`` and ``threshold`` are k and t. ``least_survivors`` is the smallest number of clients whose sum is revealed.
    ``quorum`` is the number of clients that must sign for the same survivors (0: nobody signs). ``log2_insecure`` is the binary
    logarithm of the certified probability that the server learns more than the sum. ``log2_recovery`` is that of the
    probability that the round cannot be finished although no more clients are lost than allowed. None stands for a probability
    of 0. ``lost`` lists the clients that fell silent, by stage. ``refused`` lists the clients that left because they refused a
    message, or because their own was refused, with the reason.
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


class ClustersRecord(Frozen):
    """The clusters of one round, if there are several global models.

    ``sizes`` is the number of clients in each cluster's sum. ``wanted`` is the number that would have filled each slot, which
    clients were asked for beforehand; None if nobody was asked. ``closed`` lists the clusters, from 0, that had too few members
    to be summed alone.
    """

    sizes: list[int]
    wanted: list[int] | None
    closed: list[int]


class RoundRecord(Frozen):
    """The record of one round.

    ``round`` counts from 0. ``streams`` is a digest of the streams of the round's batches and noise. If it and the cohort are
    the same in two runs, the runs sent the same messages or, without a promise, drew the same random numbers. ``survivors`` are
    the clients whose updates are in the mean, including stand-ins for a cohort that is too small to hide each client.
    ``skipped`` is the reason why the model did not change: the cohort was too small, or too few clients survived. ``stopped``
    is the reason why the run ended with this round.

    ``clipped_share`` is the share of per-example gradients, or of updates, that were clipped. ``clipped_coordinates`` is the
    number of coordinates that the secure sum's encoding clipped. ``zeroed`` is the number of gradients or updates that were not
    finite. No server sees these three. ``epsilon`` is the largest ε over the clients so far, or None if nothing is promised.
    ``validation_loss`` is the mean loss on the clients' validation examples for early stopping.

    ``late`` lists clients that were asked and were too late to send anything; they are not in ``cohort``. ``cut`` is the
    number of epochs, or of local steps if the settings count these, of each client whose work was cut, and ``staleness``
    the number of rounds by which the model that a client trained from is older. ``ends`` is the end of the round in
    simulated seconds.
    """

    round: int
    streams: str | None = None
    cohort: list[int]
    late: Annotated[list[int], Field(exclude_if=lambda late: not late)] = Field(default_factory=list)
    cut: Annotated[ByClient, Field(exclude_if=lambda cut: not cut)] = Field(default_factory=dict)
    staleness: Annotated[ByClient, Field(exclude_if=lambda staleness: not staleness)] = Field(default_factory=dict)
    ends: Annotated[float | None, Field(exclude_if=lambda ends: ends is None)] = None
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
    clusters: Annotated[ClustersRecord | None, Field(exclude_if=lambda found: found is None)] = None
    evaluation: Evaluation | None


class StageSeconds(Frozen):
    """Seconds of one stage of secure aggregation: for the mean client that answered, and for the server."""

    stage: str
    client: float
    server: float


class TimingRecord(Frozen):
    """Seconds of one round: training of the whole cohort, aggregation, evaluation, and all together.

    ``aggregate_client`` is the time of one client, and ``aggregate_server`` that of the server. ``stages`` has the seconds of
    each stage of secure aggregation. ``processes`` is the number of processes that had clients to train.
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
    """The environment of a run: versions and machine. With the configuration it is enough to reproduce the run."""

    format: int
    privfl: str
    python: str
    platform: str
    processor: str
    device: str
    packages: dict[str, str]


class FileRecord(Frozen):
    """A file of the user's own data that a run read.

    It may be a folder. ``files`` is then the number of its files that were read, and ``size`` their bytes together. ``sha256``
    is the hash of their list, sorted by path, with one line per file as ``sha256sum`` prints it.
    """

    name: str
    size: int
    sha256: str
    files: Annotated[int, Field(exclude_if=lambda files: files == 1)] = 1


class ColumnRecord(Frozen):
    """The conversion of a table's column into numbers, so that new rows can be converted in the same way.

    A number x becomes (x - ``shift``) / ``scale``, limited to [0, 1] if ``clipped``. If it is missing, ``fill`` replaces it and
    a further number is 1. A category becomes one number per entry of ``levels``: 1 for its own and 0 for the others.
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
    """The partition of the data: ``counts`` has a row for each client and a column for each class.

    ``digest`` is the SHA-256 of all data with their owners. ``constants`` is that of the model's values that are not trained. A
    run can be resumed or attacked only if both are unchanged. ``files`` and ``columns`` describe the user's own data.
    ``misbehaving`` lists the numbers of the clients that depart from the protocol, ascending.
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
    """The price of the run in the larger federation that it stands for. No page prints it as the run's ε."""

    population: int
    cohort: int
    noise_multiplier: float
    epsilon: float


class PrivacyResult(Frozen):
    """The promise of a run and its price, computed from the ledger alone.

    ``epsilon`` is the largest over the clients, by the first of ``prices``. It is the ε of the noise that was added in fact.
    ``delta`` must be below one over ``units``, the number of protected examples or clients. ``noise_multiplier`` is relative to
    ``clip``. ``clip_end`` is the last value of a norm that adapts. ``zeroed`` counts gradients or updates that were not finite.
    Only the simulation knows it, since it is read from raw data.

    Attacks ask whether single examples were trained on. If the protected unit is a client, an added or removed example replaces
    the client's update by another and does not remove it. ``attack_relation`` is then ``replace_one``; otherwise it is the
    plan's own relation. ``attack_epsilon`` is the price under this relation at ``delta``. ``curve_epsilon`` and ``curve_delta``
    are the privacy curve under it that holds for every client: δ(ε), the largest over the clients at each ε.
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


class ClusterResult(Frozen):
    """One cluster at the end of a run: the number of its clients, and their mean and worst headline on their own hold-outs.

    The two are None if none of them has a held-out example.
    """

    clients: int
    mean: float | None
    worst: float | None


class PersonalResult(Frozen):
    """The headline of each client's own model, on the client's own held-out examples, beside two other models there.

    ``own`` is the client's own model. ``local`` is the model that it would have alone: trained from the initial model in the
    rounds in which it took part, with the run's local steps and without a promise. Both have None for a client without a
    model or without a held-out example. ``mean`` and ``worst`` are over the ``compared`` clients that have all figures: of
    their own models (``own``), of the global model (``global``) and alone (``local``).
    """

    own: Annotated[tuple[float | None, ...], Field(strict=False, repr=False)]
    local: Annotated[tuple[float | None, ...], Field(strict=False, repr=False)]
    compared: int
    mean: dict[str, float]
    worst: dict[str, float]


class Result(Frozen):
    """The figures of a finished run.

    ``stopped`` is the reason why it ended before its last round, or None. ``engine`` is the engine that trained, with the
    reason for choosing it. ``train`` is the headline metric on examples that were trained on. In a file its key is
    ``train_accuracy``, or ``train_`` and the name of another headline. ``clients`` is the headline of the final model on each
    client's own held-out examples: None for a client without any, and empty if no client has any. ``personal`` has the figures
    of the clients' own models, if the algorithm gives them any. ``groups`` is the headline on each group of the test split that
    the data name, such as a hospital. ``bytes_plain`` is the cost of the same uploads in the clear,
    and ``bytes_uncompressed`` that of whole payloads in the clear; None if nothing was compressed. ``clusters`` describes the
    clusters if there are several global models, and ``cluster_of`` has the cluster of each client, from 0. It is empty if the
    server does not learn who is in which. ``in_group`` is the share of clients in the cluster of their group, if the data have
    groups: the largest share over all ways to give each group a cluster of its own.
    """

    rounds: int
    stopped: str | None
    parameters: int
    engine: str
    evaluation: Evaluation
    clients: Annotated[tuple[float | None, ...], Field(strict=False, repr=False, exclude_if=lambda found: not found)] = ()
    personal: Annotated[PersonalResult | None, Field(exclude_if=lambda found: found is None)] = None
    groups: Annotated[dict[str, Interval], Field(exclude_if=lambda groups: not groups)] = Field(default_factory=dict)
    train: float
    privacy: PrivacyResult | None
    hides_updates: bool
    bytes_up: int
    bytes_down: int
    bytes_plain: int
    bytes_uncompressed: Annotated[int | None, Field(exclude_if=lambda found: found is None)] = None
    clusters: Annotated[tuple[ClusterResult, ...], Field(strict=False, exclude_if=lambda found: not found)] = ()
    cluster_of: Annotated[tuple[int, ...], Field(strict=False, repr=False, exclude_if=lambda found: not found)] = ()
    in_group: Annotated[float | None, Field(exclude_if=lambda share: share is None)] = None

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, value: object) -> object:
        train = next((key for key in value if key.startswith("train_")), None) if isinstance(value, Mapping) else None
        if train is None or not isinstance(value, Mapping):
            return value
        found = {key: entry for key, entry in value.items() if key != train} | {"train": value[train]}
        if isinstance(evaluation := found.get("evaluation"), Mapping):
            # Keys are sorted in the file. The name of the train key tells which metric is the headline.
            first = train.removeprefix("train_")
            found["evaluation"] = {key: evaluation[key] for key in sorted(evaluation, key=lambda key: key != first)}
        return found

    @model_serializer(mode="wrap")
    def _to_write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        return {f"train_{self.evaluation.name}" if key == "train" else key: found for key, found in written.items()}


class PaperCell(Frozen):
    """A figure that a paper claims, as it was measured here: one value a seed, None if a target was not reached.

    ``mean``, ``low`` and ``high`` are the mean over the seeds and its 95 % interval by Student's t; None if a value is missing.
    """

    name: str
    values: list[float | None]
    mean: float | None = None
    low: float | None = None
    high: float | None = None


class PaperResult(Frozen):
    """The result of a row of a paper, over seeds.

    ``digest`` is that of the settings that were run (:class:`privfl.loading.LoadedRow`). ``prices`` has the largest ε over the
    seeds by each accountant, at ``delta``, and ``unit`` is the protected unit; there are none without a promise. ``minutes``
    is the mean time of one seed. ``status`` is the row's status when this was written.
    """

    row: str
    digest: str
    seeds: list[int]
    cells: list[PaperCell]
    prices: dict[str, float]
    delta: float | None
    unit: str | None
    minutes: float
    device: str
    versions: dict[str, str]
    date: str
    status: str = ""
