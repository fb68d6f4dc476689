"""TOML + overrides -> one frozen, typed, validated :class:`ExperimentConfig`.

The vocabulary of a run. A table with a ``kind`` is a choice: between the variants that this file lists (``cohort``,
``privacy``, ``data.partition``) or between the items of a shelf (``data``, ``model``, ``aggregator``, ``server``,
``attacks.run``), where the kind is the name of the item's file, or a dotted path to a module of your own. Loading a
configuration that names a dotted path imports that module.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    model_validator,
)

from privfl.errors import ConfigError
from privfl.shelves import SHELVES
from privfl.tables import Delta, Frozen, Item, Size, contradiction, on_shelf

Fraction = Annotated[float, Field(gt=0, lt=1)]


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
    non-members, from the same distribution, client by client, as the members. With 0 everybody trains on all that they own, and
    no attack can be run.
    """

    clients: PositiveInt | None = None
    partition: Partition = Iid(kind="iid")
    holdout: Annotated[float, Field(ge=0, le=0.5)] = 0.2


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


class SeparatedCohort(Frozen):
    """Exactly ``size`` clients, none of them twice within ``separation`` rounds in a row (Choquette-Choo 2023).

    Whoever took part in none of the last ``separation`` − 1 rounds may be drawn, without replacement.
    """

    kind: Literal["separated"]
    size: PositiveInt
    separation: PositiveInt


Cohort = PoissonCohort | FixedCohort | AllClients | SeparatedCohort


class TrainingConfig(Frozen):
    """Local training: SGD from the global model. Exactly one of ``local_epochs`` and ``local_steps``.

    ``engine`` is "auto", or an engine's name. ``proximal`` is FedProx's μ: each step is also pulled to the global model.
    ``memory_budget`` is in MiB, for the fused engine, and ``parts`` says into how many parts it cuts a cohort, each a
    program of its own, which several processes share out; it chooses for itself where none is given. ``precision`` is that of
    the fused engine's matrix products; norms, sums and weights are float32 always.
    """

    engine: str = "auto"
    local_epochs: PositiveInt | None = None
    local_steps: PositiveInt | None = None
    batch_size: PositiveInt
    lr: Size
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0, le=1e30)] = 0.0
    proximal: Annotated[float, Field(ge=0, le=1e30)] = 0.0
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


class NoPrivacy(Frozen):
    """Ordinary federated training; nothing is promised."""

    kind: Literal["none"]


class Promise(Frozen):
    """What every plan that promises something is told.

    Exactly one of ``noise_multiplier`` and ``target_epsilon``. ``max_epsilon`` is the budget: no round begins that
    would exceed it. It is ``target_epsilon`` unless it is given. ``randomness``: from the run's seed, so that the run
    can be repeated, or from the operating system.
    """

    kind: str
    noise_multiplier: Size | None = None
    target_epsilon: PositiveFloat | None = None
    max_epsilon: PositiveFloat | None = None
    delta: Delta
    randomness: Literal["seeded", "secure"] = "seeded"

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


class FlatClipping(Frozen):
    """The whole gradient or update is scaled to an L2 norm of at most C (Abadi 2016, McMahan 2018)."""

    kind: Literal["flat"]


class PerLayerClipping(Frozen):
    """Each of L parts is scaled to at most C/√L, so that the whole is within C (McMahan 2018, section 2.1).

    Of an example's gradient the parts are layers, of a client's update the parameter tensors.
    """

    kind: Literal["per_layer"]


def _kind_alone(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


FixedClipping = Annotated[Annotated[FlatClipping | PerLayerClipping, Discriminator("kind")], BeforeValidator(_kind_alone)]


class ExampleLevel(Promise):
    """Example-level DP-SGD at every client (Abadi 2016), add/remove-one, for every adversary, the server included.

    ``sampler``: ``poisson`` batches earn amplification by sampling; ``shuffle`` is reported without any. ``clipping``: the
    whole gradient at once, or layer by layer.
    """

    kind: Literal["example"]
    max_grad_norm: Size
    sampler: Literal["poisson", "shuffle"] = "poisson"
    clipping: FixedClipping = FlatClipping(kind="flat")


class AdaptiveClipping(Frozen):
    """C follows a quantile of the updates' norms, counted under the same ε (Andrew 2021).

    ``quantile``: the share of updates that C is to leave as they are. ``lr``: of the geometric step. The count's noise
    is a twentieth of the cohort.
    """

    kind: Literal["adaptive"]
    quantile: Fraction = 0.5
    lr: PositiveFloat = 0.2


Clipping = Annotated[
    Annotated[FlatClipping | PerLayerClipping | AdaptiveClipping, Discriminator("kind")], BeforeValidator(_kind_alone)
]


class ImaginedPopulation(Frozen):
    """A larger federation that this run stands for: ``cohort`` of ``population`` clients a round.

    The noise is that of the imagined sum, scaled down to the executed cohort: its ε holds for nobody in the run.
    """

    population: PositiveInt
    cohort: PositiveInt

    @model_validator(mode="after")
    def _cohort_within(self) -> Self:
        if self.cohort > self.population:
            raise contradiction("cohort", self.cohort, f"must be at most imagined.population = {self.population}")
        return self


class ClientPromise(Promise):
    """What every client-level plan is told: the whole update is clipped to ``max_update_norm`` in L2."""

    max_update_norm: Size
    clipping: Clipping = FlatClipping(kind="flat")


class ClientCentral(ClientPromise):
    """DP-FedAvg (McMahan 2018): clipped updates, Gaussian noise on their sum by a trusted server, a fixed denominator."""

    kind: Literal["client_central"]
    imagined: ImaginedPopulation | None = None

    @property
    def budget(self) -> float | None:
        """The executed ε that may not be exceeded; a target speaks of the imagined one where there is one."""
        return self.max_epsilon if self.imagined is not None else super().budget


class ClientLocal(ClientPromise):
    """Each client adds Gaussian noise to its own clipped update: protected from the server too, and the costliest."""

    kind: Literal["client_local"]


class ClientDpftrl(ClientPromise):
    """DP-FTRL: noise on the server's sums that is correlated over rounds (Kairouz 2021, Choquette-Choo 2023).

    ``factorization``: ``tree`` of Honaker, or ``banded`` Toeplitz with ``bands`` diagonals.
    """

    kind: Literal["client_dpftrl"]
    factorization: Literal["tree", "banded"] = "banded"
    bands: PositiveInt | None = None


class ClientDistributed(ClientPromise):
    """Each client adds a share of integer noise inside secure aggregation (Kairouz 2021, Agarwal 2021).

    ``survivors``: the honest clients whose noise is in a sum for certain; the noise is sized for them. ``bits``: of a
    word on the wire.
    """

    kind: Literal["client_distributed"]
    mechanism: Literal["skellam", "discrete_gaussian"] = "skellam"
    bits: Literal[16, 20, 24, 32] = 16
    survivors: PositiveInt


Privacy = NoPrivacy | ExampleLevel | ClientCentral | ClientLocal | ClientDpftrl | ClientDistributed


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


def _classification() -> Item:
    """The task of a configuration that names none."""
    item: Item = SHELVES["task"].find("classification")(kind="classification")
    return item


class ExperimentConfig(Frozen):
    """One run, whole. Written into the run folder, it re-runs the run.

    ``task`` is written only if it is another than plain classification: it is in the name of a run's noise in that case.
    """

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    seed: int = 0
    rounds: PositiveInt
    device: Literal["auto", "cpu", "cuda"] = "auto"
    data: Annotated[SerializeAsAny[DataConfig], on_shelf("data")]
    task: Annotated[SerializeAsAny[Item], on_shelf("task")] = Field(
        default_factory=_classification, exclude_if=lambda task: task == _classification()
    )
    model: Annotated[SerializeAsAny[Item], on_shelf("model")]
    cohort: Annotated[Cohort, Discriminator("kind")]
    training: TrainingConfig
    privacy: Annotated[Privacy, Discriminator("kind")]
    aggregator: Annotated[SerializeAsAny[Item], on_shelf("aggregator")]
    server: Annotated[SerializeAsAny[Item], on_shelf("server")]
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
        if clients is not None:
            require_clients(self, clients)
        if self.data.holdout == 0 and self.attacks.run:
            raise contradiction(
                "attacks.run",
                [item.kind for item in self.attacks.run],
                "cannot be run with data.holdout = 0, which holds out nothing to compare with; raise it, or set attacks.run=[]",
            )
        _require_possible_plan(self)
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
    cohort, privacy = config.cohort, config.privacy
    size = clients if isinstance(cohort, AllClients) else cohort.size
    if size > clients:
        raise contradiction("cohort.size", size, f"must be at most data.clients = {clients}")
    if isinstance(cohort, SeparatedCohort) and cohort.size * cohort.separation > clients:
        raise contradiction(
            "cohort.separation",
            cohort.separation,
            f"cohorts of {cohort.size} that share nobody for {cohort.separation} rounds need {cohort.size * cohort.separation} "
            f"clients, data.clients = {clients}; lower cohort.size or cohort.separation",
        )
    largest = clients if isinstance(cohort, PoissonCohort) or isinstance(privacy, ClientCentral) else size
    if largest < (least := int(getattr(config.aggregator, "minimum_clients", 1))):
        way_out = (
            "raise cohort.size" if clients >= least else "set aggregator.kind = 'mean', or divide the data among more clients"
        )
        allowed = f"needs cohorts of at least {least} clients, and the largest has {largest}; {way_out}"
        raise contradiction("aggregator.kind", config.aggregator.kind, allowed)
    if isinstance(privacy, ClientDistributed):
        corrupt, lost = getattr(config.aggregator, "allowed", lambda _: (0, 0))(size)
        if (needed := privacy.survivors + corrupt) > size - lost:
            allowed = (
                f"with {corrupt} corrupt clients needs {needed} in the sum, but of a cohort of {size} aggregator.max_dropout "
            )
            allowed += f"lets {lost} be lost; lower it or privacy.survivors, or enlarge the cohort"
            raise contradiction("privacy.survivors", privacy.survivors, allowed)
    if isinstance(privacy, ClientPromise) and privacy.delta >= 1 / clients:
        raise contradiction("privacy.delta", privacy.delta, f"must be below 1/N = 1/{clients}, one over the number of clients")
    if isinstance(privacy, ClientCentral) and privacy.imagined and privacy.delta >= 1 / privacy.imagined.population:
        wide = privacy.imagined.population
        raise contradiction("privacy.delta", privacy.delta, f"must be below 1/{wide}, one over privacy.imagined.population")


def _require_possible_plan(config: ExperimentConfig) -> None:
    """Raise where parts that are each allowed make a plan that nothing can keep."""
    cohort, privacy = config.cohort, config.privacy
    adaptive = isinstance(privacy, ClientPromise) and isinstance(privacy.clipping, AdaptiveClipping)
    if adaptive and not isinstance(privacy, ClientCentral):
        raise contradiction(
            "privacy.clipping.kind",
            "adaptive",
            f"the noise of {privacy.kind!r} is scaled to one norm for the whole run; "
            "set privacy.clipping = 'flat', or privacy.kind = 'client_central'",
        )
    if isinstance(privacy, ClientDistributed) and not getattr(config.aggregator, "hides_updates", False):
        raise contradiction(
            "aggregator.kind",
            config.aggregator.kind,
            "a share of the noise protects inside a sum only; set aggregator.kind = 'secure_sum', "
            "or privacy.kind = 'client_local'",
        )
    of_a_sum = isinstance(privacy, ClientCentral | ClientDpftrl | ClientDistributed)
    if of_a_sum and not getattr(config.aggregator, "linear", False):
        raise contradiction(
            "aggregator.kind",
            config.aggregator.kind,
            f"the ε of {privacy.kind!r} is that of a noised sum of clipped updates, and this aggregator gives no weighted sum: "
            "set 'mean' or 'secure_sum', or privacy.kind = 'client_local'; "
            "an aggregator of your own that gives one declares linear = True",
        )
    if isinstance(privacy, ClientCentral):
        if isinstance(cohort, SeparatedCohort):
            raise contradiction(
                "cohort.kind", cohort.kind, "cohorts of 'client_central' are drawn in secret: set 'poisson', 'fixed' or 'all'"
            )
        if privacy.imagined is not None and not (isinstance(cohort, PoissonCohort) and cohort.size <= privacy.imagined.cohort):
            raise contradiction(
                "privacy.imagined.cohort",
                privacy.imagined.cohort,
                "an imagined cohort stands for a smaller 'poisson' one; set cohort.kind and cohort.size so",
            )
    if isinstance(privacy, ClientDpftrl):
        if not isinstance(cohort, SeparatedCohort):
            raise contradiction(
                "cohort.kind", cohort.kind, "'client_dpftrl' needs a minimum separation: set cohort.kind = 'separated'"
            )
        if privacy.randomness == "secure":
            allowed = "correlated noise lies on no grid; set 'seeded', or take 'client_central'"
            raise contradiction("privacy.randomness", "secure", allowed)
        if privacy.bands is not None and (privacy.factorization == "tree" or privacy.bands > cohort.separation):
            raise contradiction(
                "privacy.bands",
                privacy.bands,
                f"must be at most cohort.separation = {cohort.separation}, and absent with factorization = 'tree'",
            )
