"""SHELF of federated algorithms. The file's name is its name in a configuration (``algorithm = "fedavg"``, the default).

An algorithm defines the clients' local training, the vectors that they upload, the states that clients and server keep, and the
direction of the server optimizer's step. State is explicit: every method takes it and returns it.

An item is one module with one class that derives from :class:`Algorithm`. Three rules keep each of them private:

- A client's payload is joined into one vector before the plan clips and noises it.
- An algorithm receives :class:`Trained`. Under an example-level plan all of its values have their noise already. Payload and
  state are computed from it, from the previous state and from released values, so they cost no further privacy.
- Uploads come from one local training per round, and :meth:`Algorithm.upload` does not receive the personal model. No release
  contains a personal model, and no promise covers it.

The server receives the mean of the payloads and nothing from a single client, so every algorithm works under secure
aggregation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from privfl.config import AlgorithmConfig, ExperimentConfig
from privfl.federation.client_states import refuse_secret_cohorts
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
    """

    lr: float
    steps: int


@dataclass(frozen=True)
class Trained:
    """The results of a local training that a payload may be computed from.

    Losses and shares of clipped gradients are missing on purpose, because they are computed from the data without noise.

    Args:
        delta_D: y − x, the local model minus the global one.
        gradient_weight: ‖a‖₁ ≥ 1. The update is −η Σ_j a_j g_j, so −delta_D / (η ‖a‖₁) is the mean gradient. For plain SGD it
            is the number of steps.
        terms: the public numbers.
    """

    delta_D: Tensor
    gradient_weight: float
    terms: Terms

    def mean_gradient(self) -> Tensor:
        """The weighted mean of the steps' gradients, shape (D,)."""
        return self.delta_D / (-self.terms.lr * self.gradient_weight)


class Algorithm(AlgorithmConfig, ABC):
    """A federated algorithm; the defaults are those of FedAvg. Vectors have the model's length D unless stated otherwise."""

    remembers: ClassVar[bool] = False
    """Whether a client keeps a state on which its later uploads depend."""

    personal: ClassVar[bool] = False
    """Whether each client has a model of its own beside the global one."""

    weighted: ClassVar[bool] = True
    """Whether clients are weighted by their sizes if the plan allows it; otherwise all have the same weight."""

    of_gradients: ClassVar[bool] = False
    """Whether it computes a client's mean gradient from its update, which must then be linear in the gradients."""

    sums: ClassVar[bool] = False
    """Whether the server's step needs a weighted mean, so that a median, for example, is refused."""

    told: ClassVar[tuple[str, ...]] = ()
    """Names of the parts of the server's state that clients receive."""

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

    def personal_work(self, personal_D: Tensor, global_D: Tensor) -> LocalWork:
        """The settings of a second training, which updates the client's own model; called only if :attr:`personal`.

        It is plain training under every plan, because its result never leaves the client.
        """
        raise NotImplementedError

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
