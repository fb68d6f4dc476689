"""An adversary's knowledge: everything that it brings to an attack.

Its view of the run is separate (:mod:`privfl.running.views`).

Suffixes: N candidates, P examples of the population, S shadow models, D parameters, C outputs for one example (several
dimensions if the task needs them).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from privfl.config import CanariesConfig, TrainingConfig
from privfl.data.input_store import InputStore
from privfl.errors import ModelError
from privfl.learning import evaluation
from privfl.learning.optimizers import optimizer_of
from privfl.learning.schedules import schedule_of
from privfl.learning.tasks import Task
from privfl.learning.training._directions import Directions
from privfl.running.queries import QuerySignals
from privfl.vectors import Layout, load_vector

LogitArray = NDArray[np.float32]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
LabelArray = NDArray[np.int64] | NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False, repr=False)
class Network:
    """The architecture of the trained model with its constants, which every adversary knows; it holds no trained weights.

    Args:
        module: a module of that architecture whose weights this class overwrites.
        layout: names and shapes of its parameters.
        task: defines the loss of each example and the signal that attacks rank by.
        outputs: the shape of its outputs for one example.
    """

    module: nn.Module
    layout: Layout
    task: Task
    outputs: tuple[int, ...]

    def logits(self, vector_D: Tensor, x: InputStore | Tensor) -> LogitArray:
        """The outputs at these parameters in evaluation mode, of shape (N, C)."""
        outputs: LogitArray = evaluation.logits(self.module, vector_D.to(x.device), x).cpu().numpy()
        return outputs

    def at(self, vector_D: Tensor) -> nn.Module:
        """A copy of the model with these parameters, in evaluation mode."""
        own = copy.deepcopy(self.module).eval()
        load_vector(own, vector_D)
        return own


@dataclass(frozen=True, eq=False, repr=False)
class LabelledExamples:
    """Examples with their labels.

    Args:
        x: N inputs, on the run's device.
        y_N: their labels.
    """

    x: InputStore | Tensor
    y_N: LabelArray

    def __len__(self) -> int:
        return len(self.y_N)


@dataclass(frozen=True, eq=False, repr=False)
class Candidates(LabelledExamples):
    """Candidates: the examples that the attack asks about.

    Args:
        x: N inputs, on the run's device.
        y_N: their labels.
        client_N: the client that owns each example. Either that client trained on it, or nobody did. It is −1 if the attack
            must find the client.
    """

    client_N: IntArray

    def places(self, clients: Sequence[int]) -> IntArray:
        """The place of each candidate's client among some clients, of shape (N,); −1 if it is none of them."""
        same_NK = self.client_N[:, None] == np.array(clients)
        return np.where(same_NK.any(1), same_NK.argmax(1), -1)


@dataclass(frozen=True)
class ModelOutputs:
    """One model's logits on the N candidates and on the P examples of the population."""

    candidates_NC: LogitArray
    population_PC: LogitArray

    def require_finite(self, whose: str) -> Self:
        """Return the same outputs if all of them are finite.

        Raises:
            ModelError: an output is not finite; ``whose`` names the model.
        """
        for logits in (self.candidates_NC, self.population_PC):
            broken = np.count_nonzero(~np.isfinite(logits).reshape(len(logits), -1).all(axis=1))
            if broken:
                raise ModelError(
                    f"{whose}: {broken} of {len(logits)} outputs are not finite; training diverged: lower training.lr"
                )
        return self


@dataclass(frozen=True, eq=False, repr=False)
class Shadows:
    """Shadow models: the adversary trained them by the target's own procedure, each on its own draw of the candidates.

    Args:
        member_SN: the candidates that each model was trained on; S may be 0.
        candidates_SNC: each model's logits on the candidates.
        population_SPC: each model's logits on the population.
    """

    member_SN: BoolArray
    candidates_SNC: LogitArray
    population_SPC: LogitArray

    @classmethod
    def of(cls, member_SN: BoolArray, models: Sequence[ModelOutputs], population: int, outputs: tuple[int, ...]) -> Shadows:
        """Stack the outputs of S models.

        Args:
            member_SN: the candidates that each model was trained on.
            models: the outputs of each model.
            population: P.
            outputs: the shape of a model's outputs for one example.

        Raises:
            ModelError: a model's outputs are not finite.
        """
        sound = [one.require_finite(f"shadow model {index}") for index, one in enumerate(models)]
        if not sound:
            none = np.zeros((0, member_SN.shape[1], *outputs), np.float32)
            return cls(member_SN, none, np.zeros((0, population, *outputs), np.float32))
        return cls(member_SN, np.stack([one.candidates_NC for one in sound]), np.stack([one.population_PC for one in sound]))


@dataclass(frozen=True)
class Protocol:
    """The settings of local training, which the server sends to all clients.

    Args:
        training: the settings.
        rounds: the number of rounds.
        largest: the number of examples of the largest client.
        steps: the number of local steps of the largest client.
    """

    training: TrainingConfig
    rounds: int
    largest: int
    steps: int

    def example_weight(self, round_number: int, weight: float = 1.0) -> float | None:
        """The scale s for which a client's update is about −s Σ_i g_i over its examples.

        It is lr · steps / n for SGD at a constant rate. With momentum or schedules, ‖a‖₁ of FedNova replaces the number of
        steps. The value is exact for one step. It becomes less exact with every further step, because gradients change.

        Args:
            round_number: from 0.
            weight: the client's weight, its size as a share of the largest client's.

        Returns:
            s; None if the optimizer's updates are not linear in the gradients.
        """
        # In an epoch every client sees each of its examples once.
        size = self.largest if self.training.local_epochs is not None else self.largest * weight
        total = self.step_weight(round_number)
        return None if total is None else total / size

    def step_weight(self, round_number: int) -> float | None:
        """About s, if a client's update is −s times the mean gradient of its batches: lr · steps, as above.

        Args:
            round_number: from 0.

        Returns:
            s; None if the optimizer's updates are not linear in the gradients.
        """
        training = self.training
        total = optimizer_of(training).gradient_weight(training, self.rates(round_number), 0.0)
        return None if total is None else training.lr * total

    def rates(self, round_number: int, steps: int | None = None) -> list[float]:
        """The learning rate of each local step of a round, of a client that takes so many; None: the largest client.

        After the last round it stays.
        """
        training, step, steps = self.training, schedule_of(self.training.step_schedule), steps or self.steps
        factor = schedule_of(training.round_schedule).factor(min(round_number, self.rounds - 1), self.rounds)
        return [training.lr * factor * step.factor(taken, steps) for taken in range(steps)]


@dataclass(frozen=True)
class OwnMeasured:
    """One round, measured on N candidates beside the update of each one's own client; NaN if that did not arrive. In float64.

    Args:
        losses_N: the loss at the model that the round began with.
        squares_N: ‖g‖² there, of the example's gradient.
        local_losses_N: the loss at the client's local model, the global one plus its update.
        inner_N: ⟨Δ, g⟩ with Δ minus the client's update.
        norms_N: ‖Δ‖.
    """

    losses_N: FloatArray
    squares_N: FloatArray
    local_losses_N: FloatArray
    inner_N: FloatArray
    norms_N: FloatArray

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        return 5 * self.losses_N.nbytes


@dataclass(frozen=True)
class Measured:
    """One round, measured on N candidates beside K updates; NaN if it was not measured. In float64.

    Args:
        losses_N, squares_N: as for :class:`OwnMeasured`.
        local_losses_KN: the loss of each at the local model of each client.
        inner_KN: ⟨Δ, g⟩ with Δ minus the update of each client.
        norms_K: ‖Δ‖.
    """

    losses_N: FloatArray
    squares_N: FloatArray
    local_losses_KN: FloatArray
    inner_KN: FloatArray
    norms_K: FloatArray

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        return 2 * (self.losses_N.nbytes + self.inner_KN.nbytes)

    def own(self, place_N: IntArray) -> OwnMeasured:
        """The figures of each candidate's own client, whose row is given; −1: its update did not arrive."""
        there_N, columns = place_N >= 0, np.arange(len(place_N))

        def of(values: FloatArray) -> FloatArray:
            return np.where(there_N, values[place_N, columns] if values.ndim == 2 else values[place_N], np.nan)

        return OwnMeasured(self.losses_N, self.squares_N, of(self.local_losses_KN), of(self.inner_KN), of(self.norms_K))


class RoundMeasures(ABC):
    """The measures of each round's updates on the candidates. They are computed once for all attacks of a call.

    A caller gives the round's number, the K clients whose updates arrived, the model that it began with, and the updates.
    """

    @abstractmethod
    def own(self, number: int, clients: list[int], model_D: Tensor, updates_KD: Tensor) -> OwnMeasured:
        """Each candidate beside the update of its own client."""

    @abstractmethod
    def every(self, number: int, clients: list[int], model_D: Tensor, updates_KD: Tensor) -> Measured:
        """Each candidate beside each update: as many times as expensive as there are updates."""


@dataclass(frozen=True, eq=False, repr=False)
class KnownDirections:
    """The directions of the candidates of a run whose canaries are directions.

    Args:
        directions: that of each of the N candidates.
        initial_D: the model before the first round, which is public.
        sign: 1 if a canary moves an update along its direction; −1 if it moves a gradient, which updates go against.
    """

    directions: Directions
    initial_D: Tensor
    sign: float

    def signals(self, updates_TD: Tensor, rows_n: IntArray | None = None) -> NDArray[np.float64]:
        """How far each update goes the way of some candidates, or of all, of shape (T, n)."""
        products = self.directions.products(updates_TD, rows_n)
        return self.sign * products


@dataclass(frozen=True, eq=False, repr=False)
class Knowledge:
    """The adversary's knowledge: candidates, fresh data and its own models. It does not include the truth about the candidates.

    Args:
        network: the architecture.
        candidates: the N examples that the attack asks about, with their labels.
        population: P fresh examples of the same distribution, which no model was trained on.
        shadows: models like the target, possibly none.
        protocol: the settings of local training.
        measures: the products of single updates with the candidates' gradients, and losses, round by round.
        directions: the directions of the candidates, if these are canaries that are directions.
        queries: the answers of all models to several queries of each candidate; None if no attack wants more than one.
    """

    network: Network
    candidates: Candidates
    population: LabelledExamples
    shadows: Shadows
    protocol: Protocol
    measures: RoundMeasures
    directions: KnownDirections | None = None
    queries: QuerySignals | None = None

    def without_owners(self) -> Self:
        """The same knowledge with the candidates' clients hidden: −1 for each."""
        candidates = replace(self.candidates, client_N=np.full(len(self.candidates), -1))
        return replace(self, candidates=candidates)


@dataclass(frozen=True)
class Prospect:
    """The information about an attack's input that is known before the first round of a run.

    Args:
        hides_updates: whether the server sees sums of updates only.
        keeps_rounds: whether the run keeps views of its rounds.
        shadow_member_SN: the candidates that each shadow model will be trained on.
        clients: the number of clients.
        cohorts: the clients that will take part, round by round.
        protocol: the settings of local training.
        network: the architecture.
        canaries: the canaries that will be planted; None: there are none.
        input_shape: the shape of one input.
        personal: whether clients have models of their own.
    """

    hides_updates: bool
    keeps_rounds: bool
    shadow_member_SN: BoolArray
    clients: int
    cohorts: Sequence[Sequence[int]]
    protocol: Protocol
    network: Network
    input_shape: tuple[int, ...]
    canaries: CanariesConfig | None = None
    personal: bool = False
