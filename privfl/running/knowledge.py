"""What an adversary brings to an attack, apart from what the run showed it (:mod:`privfl.running.views`).

Suffixes: N candidates, P examples of the population, S shadow models, D parameters, C outputs for one example (in more
dimensions than one if a task has more).
"""

from __future__ import annotations

import copy
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
from privfl.vectors import Layout, load_vector

LogitArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
LabelArray = NDArray[np.int64] | NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False, repr=False)
class Network:
    """The architecture that is trained, with its constants, which every adversary knows; it holds no trained weights.

    Args:
        module: scratch space of that architecture. Nobody but this class writes into it.
        layout: names and shapes of its parameters.
        task: what it learns: the loss of each example, and the signal that attacks rank by.
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
    """Labelled examples.

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
    """The examples about which the adversary wants to know something.

    Args:
        x: N inputs, on the run's device.
        y_N: their labels.
        client_N: the client whose example each is. That client trained on it, or nobody did. −1 if the attack is asked for it.
    """

    client_N: IntArray


@dataclass(frozen=True)
class ModelOutputs:
    """One model's logits on the N candidates and on the P examples of the population."""

    candidates_NC: LogitArray
    population_PC: LogitArray

    def require_finite(self, whose: str) -> Self:
        """The same outputs.

        Raises:
            ModelError: one of them is not finite; ``whose`` names the model.
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
    """Models that the adversary trained by the target's own procedure, each on its own draw of the candidates.

    Args:
        member_SN: the candidates that each was trained on; S may be 0.
        candidates_SNC: each one's logits on the candidates.
        population_SPC: each one's logits on the population.
    """

    member_SN: BoolArray
    candidates_SNC: LogitArray
    population_SPC: LogitArray

    @classmethod
    def of(cls, member_SN: BoolArray, models: Sequence[ModelOutputs], population: int, outputs: tuple[int, ...]) -> Shadows:
        """Put the outputs of S models together.

        Args:
            member_SN: the candidates that each was trained on.
            models: the outputs of each.
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
    """The terms of local training, which the server sends to all clients.

    Args:
        training: the settings.
        rounds: the number of rounds.
        largest: the number of examples of the largest client.
        steps: the number of local steps of a client as large as that.
    """

    training: TrainingConfig
    rounds: int
    largest: int
    steps: int

    def example_weight(self, round_number: int, weight: float = 1.0) -> float | None:
        """About s, if a client's update is −s Σ_i g_i over its examples: lr · steps / n, of plain SGD at a constant rate.

        With momentum or schedules ‖a‖₁ of FedNova stands in the place of the number of steps. It is exact for one step and
        worse with every step that moves the gradients.

        Args:
            round_number: from 0.
            weight: the client's weight, its size as a share of the largest client's.

        Returns:
            s; None if the optimizer's updates are not linear in the gradients.
        """
        training, step = self.training, schedule_of(self.training.step_schedule)
        scale = training.lr * schedule_of(training.round_schedule).factor(round_number, self.rounds)
        rates = [scale * step.factor(taken, self.steps) for taken in range(self.steps)]
        total = optimizer_of(training).gradient_weight(training, rates, 0.0)
        # A client of any size sees each of its examples once in an epoch.
        size = self.largest if training.local_epochs is not None else self.largest * weight
        return None if total is None else training.lr * total / size


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
    """What an adversary brings: examples, fresh data, models of its own. The truth about the candidates is no part of it.

    Args:
        network: the architecture.
        candidates: the N examples that are asked about, with their labels.
        population: P fresh examples of the same distribution, which no model was trained on.
        shadows: models like the target; there may be none.
        protocol: the terms of local training.
        directions: those of the candidates, if they are canaries that are directions.
    """

    network: Network
    candidates: Candidates
    population: LabelledExamples
    shadows: Shadows
    protocol: Protocol
    directions: KnownDirections | None = None

    def without_owners(self) -> Self:
        """The same without the clients whose examples the candidates are: −1 for each."""
        candidates = replace(self.candidates, client_N=np.full(len(self.candidates), -1))
        return replace(self, candidates=candidates)


@dataclass(frozen=True)
class Prospect:
    """What an attack will be given, as far as it is known before the first round of a run.

    Args:
        hides_updates: whether the server sees sums of updates only.
        keeps_rounds: whether the run keeps views of its rounds.
        shadow_member_SN: the candidates that each shadow model will be trained on.
        clients: the number of clients.
        cohorts: the clients that will take part, round by round.
        protocol: the terms of local training.
        canaries: what was planted; None: nothing was.
    """

    hides_updates: bool
    keeps_rounds: bool
    shadow_member_SN: BoolArray
    clients: int
    cohorts: Sequence[Sequence[int]]
    protocol: Protocol
    canaries: CanariesConfig | None = None
