"""SHELF of federated algorithms. The file's name is its name in a configuration (``algorithm = "fedavg"``, the default).

An algorithm says how a client's local training departs from plain training, which vectors a client uploads, which state clients
and the server keep, and the direction that the server optimizer takes. State is explicit: it goes in and comes out.

An item is one module with one class that derives from :class:`Algorithm`. Three rules keep each of them private:

- A client's payload is joined into one vector before the plan clips and noises it.
- An algorithm is given :class:`Trained`, in which every value is noised already if the plan is example-level. Payload and state
  are made of it, of the state before and of released values, so they cost nothing more.
- Uploads are made of one local training a round, and :meth:`Algorithm.upload` is not given the personal model. A personal model
  is thus in no release, and in no promise either.

The server is given the mean of the payloads and nothing of a single client, so every algorithm works under secure aggregation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from privfl.config import AlgorithmConfig, ExperimentConfig
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
        steps: the number of local steps of a client as large as the largest; a scale that both ends know.
    """

    lr: float
    steps: int


@dataclass(frozen=True)
class Trained:
    """The values of a local training that a payload may be made of.

    Losses and shares of clipped gradients are left out on purpose: they are made of the data without noise.

    Args:
        delta_D: y − x, the local model minus the global one.
        gradient_weight: ‖a‖₁ ≥ 1: the update is −η Σ_j a_j g_j, so −delta_D / (η ‖a‖₁) is the mean gradient. It is the
            number of steps for plain SGD.
        terms: the public numbers.
    """

    delta_D: Tensor
    gradient_weight: float
    terms: Terms

    def mean_gradient(self) -> Tensor:
        """The weighted mean of the steps' gradients."""
        return self.delta_D / (-self.terms.lr * self.gradient_weight)


class Algorithm(AlgorithmConfig, ABC):
    """The contract of this shelf; the defaults are those of FedAvg. Vectors have the model's length D unless said."""

    remembers: ClassVar[bool] = False
    """Whether later uploads of a client depend on a state that it keeps."""

    personal: ClassVar[bool] = False
    """Whether each client has a model of its own beside the global one."""

    weighted: ClassVar[bool] = True
    """Whether clients count by their sizes in the mean if the plan allows it; else all count alike."""

    of_gradients: ClassVar[bool] = False
    """Whether it takes a client's mean gradient from its update, which must be linear in the gradients."""

    sums: ClassVar[bool] = False
    """Whether the server's step is right for a weighted mean alone, and not for a median, say."""

    told: ClassVar[tuple[str, ...]] = ()
    """The names in the server's state that clients are sent."""

    def check(self, config: ExperimentConfig) -> None:
        """Raise unless the algorithm can be carried out with these other settings.

        Raises:
            PydanticCustomError: names the key, the value, and what is allowed.
        """
        training = config.training
        if self.of_gradients and optimizer_of(training).gradient_weight(training, [training.lr], 0.0) is None:
            raise contradiction(
                "training.optimizer",
                training.optimizer.kind,
                f"algorithm {self.kind!r} takes mean gradients from updates, which must be linear in them; set 'sgd'",
            )
        if self.sums and not getattr(config.aggregator, "linear", False):
            raise contradiction(
                "aggregator.kind",
                config.aggregator.kind,
                f"algorithm {self.kind!r} needs a weighted mean; set 'mean' or 'secure_sum'",
            )
        cohort = config.cohort
        if self.remembers and config.privacy.secret_cohorts and getattr(cohort, "accounted", None) == "fixed":
            raise contradiction(
                "cohort.kind",
                cohort.kind,
                f"algorithm {self.kind!r} keeps state at clients, whose later uploads tell who took part, and the price of "
                "cohorts of a fixed size counts on nobody's knowing; set 'poisson' or 'all'",
            )

    def init(self, global_D: Tensor) -> State:  # noqa: ARG002
        """The server's state before the first round."""
        return {}

    def client_init(self, global_D: Tensor) -> State:  # noqa: ARG002
        """The state of a client that takes part for the first time, in a round that begins with ``global_D``."""
        return {}

    def parts(self, layout: Layout) -> dict[str, Layout]:
        """Names and layouts of the payload's parts; the first is ``update``.

        Args:
            layout: that of the model.
        """
        return {UPDATE: layout}

    @abstractmethod
    def work(self, told: State, client: State) -> LocalWork:
        """The terms of a client's local training, from the global model.

        Args:
            told: the part of the server's state that is named in :attr:`told`.
            client: the client's state.
        """

    def upload(self, told: State, client: State, trained: Trained) -> tuple[Payload, State]:  # noqa: ARG002
        """A client's payload, and its state after the round.

        Args:
            told: as :meth:`work`.
            client: as :meth:`work`.
            trained: the outcome of its training.
        """
        return {UPDATE: trained.delta_D}, client

    def personal_work(self, personal_D: Tensor, global_D: Tensor) -> LocalWork:
        """The terms of a second training, from and for the client's own model; called if :attr:`personal`.

        It is plain training under every plan, because its result never leaves the client.
        """
        raise NotImplementedError

    def apply(self, server: State, mean: Payload, share: float, terms: Terms) -> tuple[Tensor, State]:  # noqa: ARG002
        """The direction that the server optimizer takes, and the server's state after the round.

        Args:
            server: the server's state.
            mean: the released mean of the payloads.
            share: how many clients the mean is over, as a share of all; the plan's fixed number if who came is a secret.
            terms: the public numbers.
        """
        return mean[UPDATE], server
