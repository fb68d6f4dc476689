"""SHELF of federated algorithms. The file's name is its name in a configuration (``algorithm = "fedavg"``, the default).

An algorithm defines the clients' local training, the vectors that they upload, the states that clients and server keep, and the
direction of the server optimizer's step. State is explicit: every method takes it and returns it.

An item is one module with one class that derives from :class:`Algorithm`. Three rules keep each of them private:

- A client's payload is joined into one vector before the plan clips and noises it.
- An algorithm receives :class:`Trained`. Under an example-level plan all of its values have their noise already. Payload and
  state are computed from it, from the previous state and from released values, so they cost no further privacy.
- Uploads come from :meth:`Algorithm.training`, all of whose steps are in the ledger. Neither it nor :meth:`Algorithm.upload`
  receives the personal state: no release is computed from what :meth:`Algorithm.personal_training` did without noise.

The server receives the mean of the payloads and nothing from a single client, so every algorithm works under secure
aggregation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Self

from torch import Tensor, nn

from privfl.config import AlgorithmConfig, ExperimentConfig
from privfl.federation.client_states import refuse_secret_cohorts
from privfl.federation.local_training import Ended, Training
from privfl.federation.payload import UPDATE, Payload
from privfl.learning.optimizers import optimizer_of
from privfl.learning.training import LocalWork
from privfl.tables import contradiction
from privfl.vectors import Layout

State = dict[str, Tensor]


@dataclass(frozen=True)
class Terms:
    """Public numbers of a run.

    Args:
        lr: η, the local learning rate of the settings.
        steps: the number of local steps of the largest client; a scale that clients and server know.
        layout: names and shapes of the model's parameters.
        norm: the norm that a client-level plan clips a whole payload to; None: there is no such plan.
    """

    lr: float
    steps: int
    layout: Layout
    norm: float | None = None


@dataclass(frozen=True)
class Trained:
    """The results of a local training that a payload may be computed from.

    Losses of training and shares of clipped gradients are missing on purpose, because they are computed from the data without
    noise.

    Args:
        delta_D: y − x, the local model minus the global one.
        gradient_weight: ‖a‖₁ ≥ 1. The update is −η Σ_j a_j g_j, so −delta_D / (η ‖a‖₁) is the mean gradient. For plain SGD it
            is the number of steps.
        terms: the public numbers.
        global_D: x, the global model.
        slot: the place of the payload that the client fills if there are several global models; None: it fills none.
        start_loss: the client's mean training loss at the global model, without noise; None unless the algorithm
            :attr:`Algorithm.needs_loss`.
    """

    delta_D: Tensor
    gradient_weight: float
    terms: Terms
    global_D: Tensor
    slot: int | None = None
    start_loss: float | None = None

    def mean_gradient(self) -> Tensor:
        """The weighted mean of the steps' gradients, shape (D,)."""
        return self.delta_D / (-self.terms.lr * self.gradient_weight)


@dataclass(frozen=True)
class Begun:
    """The beginning of a client's training in a round.

    Args:
        global_D: x, the global model.
        told: the part of the server's state that :attr:`Algorithm.told` names.
        kept: the client's state on which its uploads depend.
        work: the terms that :meth:`Algorithm.work` gave.
        steps: the number of the client's local steps. Under an example-level plan it is the number that the ledger counts.
        terms: the public numbers.
        batches: draws each step's batch, as places among the client's examples, for a number of steps; None under an
            example-level plan, in which every step draws its own.
        personal: the client's personal state; empty in :meth:`Algorithm.training`.
        took_part: whether the client has taken part before.
    """

    global_D: Tensor
    told: State
    kept: State
    work: LocalWork
    steps: int
    terms: Terms
    batches: Callable[[int], tuple[Tensor, ...]] | None
    personal: State = field(default_factory=dict)
    took_part: bool = False


class Algorithm(AlgorithmConfig, ABC):
    """A federated algorithm; the defaults are those of FedAvg. Vectors have the model's length D unless stated otherwise."""

    remembers: ClassVar[bool] = False
    """Whether a client keeps a state on which its later uploads depend."""

    personal: ClassVar[bool] = False
    """Whether each client has a model of its own beside the global one."""

    counted: ClassVar[bool] = False
    """Whether a personal model is computed from :meth:`training` alone, so that an example-level promise covers it as well."""

    weighted: ClassVar[bool] = True
    """Whether clients are weighted by their sizes if the plan allows it; otherwise all have the same weight."""

    of_gradients: ClassVar[bool] = False
    """Whether it computes a client's mean gradient from its update, which must then be linear in the gradients."""

    sums: ClassVar[bool] = False
    """Whether the server's step needs a weighted mean, so that a median, for example, is refused."""

    told: ClassVar[tuple[str, ...]] = ()
    """Names of the parts of the server's state that clients receive."""

    needs_loss: ClassVar[bool] = False
    """Whether a payload is computed from the client's loss at the global model, so that example-level plans refuse it."""

    engine: ClassVar[str | None] = None
    """The only engine that carries out its local work; None: every engine does."""

    starts_apart: ClassVar[bool] = False
    """Whether several global models begin with different random weights; otherwise they begin alike."""

    @property
    def models(self) -> int:
        """M, the number of global models (:mod:`privfl.federation.clusters`). The global vector holds one after another."""
        return 1

    @property
    def one_work(self) -> bool:
        """Whether a client's training is the work of :meth:`work` alone."""
        return type(self).training is Algorithm.training

    def check(self, config: ExperimentConfig) -> None:
        """Raise unless the algorithm works with the other settings.

        Raises:
            PydanticCustomError: names the key, the value, and what is allowed.
        """
        training = config.training
        if self.of_gradients and optimizer_of(training).gradient_weight(training, [training.lr], 0.0) is None:
            raise contradiction(
                "training.optimizer",
                training.optimizer.kind,
                f"algorithm {self.kind!r} needs updates that are linear in the gradients; set 'sgd'",
            )
        if self.sums and not getattr(config.aggregator, "linear", False):
            raise contradiction(
                "aggregator.kind",
                config.aggregator.kind,
                f"algorithm {self.kind!r} needs a weighted mean; set 'mean' or 'secure_sum'",
            )
        if self.remembers:
            refuse_secret_cohorts(config, f"algorithm {self.kind!r}")
        if self.engine is not None and training.engine not in ("auto", self.engine):
            raise contradiction(
                "training.engine",
                training.engine,
                f"algorithm {self.kind!r} needs the features of a model, which only {self.engine!r} gives; set "
                f"training.engine = {self.engine!r}",
            )

    def resolved(self, model: nn.Module) -> Self:  # noqa: ARG002
        """The same algorithm with all settings that depend on the model.

        Raises:
            ConfigError: a setting names something that the model lacks.
        """
        return self

    def check_stepwise(self, config: ExperimentConfig) -> None:
        """Raise unless local steps may be taken one by one: nothing but the weights goes from one to the next.

        Raises:
            PydanticCustomError: as :meth:`check`.
        """
        training = config.training
        why = f"algorithm {self.kind!r} takes its local steps one by one, which carry no state of an optimizer or schedule"
        if optimizer_of(training).slots(training):
            key, value = ("momentum", training.momentum) if training.momentum else ("optimizer", training.optimizer.kind)
            raise contradiction(f"training.{key}", value, f"{why}; set optimizer = 'sgd' and momentum = 0")
        if training.step_schedule.kind != "constant":
            raise contradiction("training.step_schedule", training.step_schedule.kind, f"{why}; set 'constant'")

    def init(self, global_D: Tensor) -> State:  # noqa: ARG002
        """The server's state before the first round."""
        return {}

    def client_init(self, global_D: Tensor) -> State:  # noqa: ARG002
        """The state of a client that takes part for the first time, in a round that begins with ``global_D``."""
        return {}

    def parts(self, layout: Layout) -> dict[str, Layout]:
        """Names and layouts of the payload's parts; the first is ``update``.

        Args:
            layout: the layout of the model.
        """
        return {UPDATE: layout}

    def viewed(self, layout: Layout) -> Layout:
        """The layout in which the server's view shows an update.

        Args:
            layout: the layout of the model.
        """
        return layout

    @abstractmethod
    def work(self, told: State, client: State) -> LocalWork:
        """The settings of a client's local training, which starts at the global model.

        Args:
            told: the part of the server's state that :attr:`told` names.
            client: the client's state.
        """

    def upload(self, told: State, client: State, trained: Trained) -> tuple[Payload, State]:  # noqa: ARG002
        """A client's payload and its state after the round.

        Args:
            told: as for :meth:`work`.
            client: as for :meth:`work`.
            trained: the result of its training.
        """
        return {UPDATE: trained.delta_D}, client

    def training(self, begun: Begun) -> Training[Ended]:
        """A client's training, as a procedure of one or several works; every work is in the ledger.

        The default is the one work of :meth:`work`.
        """
        moved = yield begun.work
        return Ended(moved.delta_D, moved.gradient_weight)

    def personal_init(self, global_D: Tensor) -> State:  # noqa: ARG002
        """The personal state of a client that takes part for the first time."""
        return {}

    def personal_training(self, begun: Begun) -> Training[State]:
        """A further training of a client in a round, and its personal state afterwards; used only if :attr:`personal`.

        It is plain training under every plan, because no upload is computed from it.
        """
        return begun.personal
        yield

    def personalised(self, begun: Begun) -> Training[Tensor | None]:
        """A client's own model after a round, shape (D,), which may take further plain training; used only if :attr:`personal`.

        None: the client has none, because it never took part. The default is the personal state's ``model``.
        """
        return begun.personal.get("model")
        yield

    def apply(self, server: State, mean: Payload, share: float, terms: Terms) -> tuple[Tensor, State]:  # noqa: ARG002
        """The direction of the server optimizer's step, and the server's state after the round.

        Args:
            server: the server's state.
            mean: the released mean of the payloads.
            share: the number of clients in the mean as a share of all clients. If the cohort is secret, it is the plan's fixed
                number.
            terms: the public numbers.
        """
        return mean[UPDATE], server
