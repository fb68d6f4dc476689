"""SHELF of local trainers ("engines"). The file's name is its name in a configuration.

Every engine computes the same thing as ``opacus``, the reference, up to rounding, or refuses.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from privfl.config import TrainingConfig
from privfl.data.input_store import InputStore
from privfl.errors import PrivacyError
from privfl.learning.optimizers import optimizer_of
from privfl.learning.schedules import schedule_of
from privfl.learning.tasks import Task
from privfl.learning.tasks.classification import CLASSIFICATION
from privfl.learning.training._directions import PlantedGradients
from privfl.privacy.events import LocalTraining
from privfl.privacy.plans import DpSgdPlan, Plan
from privfl.privacy.sampling import shuffled_batches
from privfl.seeding import Seed


@dataclass(frozen=True, eq=False)
class Contrast:
    """A contrastive term in each example's loss (:mod:`privfl.learning.training._contrast`).

    Args:
        far_D: the model whose features an example's are pushed off, shape (D,).
        mu: μ, the strength of the term.
        temperature: τ.
        near_D: the model whose features an example's are pulled to, shape (D,); None: the round's global model.
    """

    far_D: Tensor
    mu: float
    temperature: float
    near_D: Tensor | None = None


@dataclass(frozen=True, eq=False)
class LocalWork:
    """One run of local training beyond the settings: its start, its length, and terms that need no data.

    Each step is w ← w − η · u(g + drift + μ (w − centre)): g is the batch's gradient, clipped and noised if the plan is
    example-level, and u the local optimizer with its weight decay. Drift and pull are added after the noise and are never
    clipped, so they must be functions of released values and of the client's own noised values only. If ``mask_D`` is given,
    the entries in which it is false keep the start's values. They still count in each example's norm.

    The default is plain local training from the global model. FedProx (Li et al. 2020, equation 2) is ``LocalWork(mu=μ)``;
    SCAFFOLD's drift is c − c_k (Karimireddy et al. 2020, algorithm 1).

    Args:
        start_D: the weights before the first step; None: the round's global model.
        drift_D: a constant that is added to every step's gradient; None: nothing.
        centre_D: the weights that the pull is towards; None: the round's global model.
        mu: μ ≥ 0, the strength of the pull.
        mask_D: the entries that move, bool; None: all.
        steps: the number of steps, at least 1; None: that of the plan or the settings.
        batches: each step's batch, as places among the client's examples; None: they are drawn, as they must be under an
            example-level plan, by the sampler that is priced.
        rate: a factor of the learning rate, at least 0.
        whole: whether the result has the final weights beside the update, to which no sum of start and update is equal to the
            last bit.
        contrast: a term of each example's loss, clipped and noised with it; None: nothing.

    All vectors have the shape (D,).

    Raises:
        ValueError: ``mu`` or ``rate`` is negative or not finite, or there are fewer steps than 1.
    """

    start_D: Tensor | None = None
    drift_D: Tensor | None = None
    centre_D: Tensor | None = None
    mu: float = 0.0
    mask_D: Tensor | None = None
    steps: int | None = None
    batches: tuple[Tensor, ...] | None = None
    rate: float = 1.0
    whole: bool = False
    contrast: Contrast | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.mu < math.inf:
            raise ValueError(f"mu = {self.mu!r}: the strength of the pull must be finite and at least 0")
        if not 0 <= self.rate < math.inf:
            raise ValueError(f"rate = {self.rate!r}: the factor of the learning rate must be finite and at least 0")
        if self.batches is not None and len(self.batches) < 1:
            raise ValueError("batches = (): local training takes at least 1 step")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps = {self.steps!r}: local training takes at least 1 step")

    @property
    def vectors(self) -> dict[str, Tensor]:
        """The vectors that are given, by the field's name."""
        named = {name: getattr(self, name) for name in ("start_D", "drift_D", "centre_D", "mask_D")}
        return {name: vector_D for name, vector_D in named.items() if vector_D is not None}


@dataclass(frozen=True)
class LocalTask:
    """The data of one client of the cohort, its streams, and its work.

    Args:
        client: its number.
        size: its public size, the number of examples that it owns, of which it trains on n.
        x, y: N inputs and labels that hold its examples: mostly the pool, which all tasks of a run share.
        rows_n: the indices of those that it trains on, shape (n,), int64, on the CPU wherever ``x`` is.
        seed: the root of its streams in this round. Two tasks of one client need roots of their own: two gradients under one
            noise would differ by nothing but the data.
        work: the terms beyond the settings.
        lr_scale: the round's factor of the learning rate.
        planted: gradients in the place of those of some of its examples, for an audit of DP-SGD.
    """

    client: int
    size: int
    x: InputStore
    y: Tensor
    rows_n: Tensor
    seed: Seed
    work: LocalWork = LocalWork()
    lr_scale: float = 1.0
    planted: PlantedGradients | None = None

    def examples(self, batch_B: Tensor) -> tuple[Tensor, Tensor]:
        """A batch's inputs and labels; ``batch_B`` are places among the client's n examples, on the CPU."""
        rows_B = self.rows_n[batch_B].to(self.x.device)
        return self.x[rows_B], self.y.index_select(0, rows_B)


@dataclass(frozen=True)
class LocalResult:
    """The outcome of one task: the update, the mean training loss, and the privacy event.

    Args:
        client: its number.
        delta_D: the update: final weights minus the weights that the task started from (the global model, unless its
            work has a start of its own). An algorithm that keeps the final weights adds the start again.
        loss: the mean training loss.
        clipped_share: the share of per-example gradients that were longer than the clipping norm.
        event: the privacy event, read off the objects that clipped and drew; None if the plan promises nothing.
        zeroed: how many per-example gradients were not finite, and counted as zeros.
        steps: τ, the number of local steps that were taken.
        gradient_weight: ‖a‖₁ of FedNova (Wang et al. 2020, section 4.1): the update is −η Σ_j a_j g_j, η being ``training.lr``.
            It is ``steps`` for plain SGD at a constant rate; None if the optimizer is not linear in the gradients.
        weights_D: the final weights, if the work asks for them.
    """

    client: int
    delta_D: Tensor
    loss: float
    clipped_share: float
    event: LocalTraining | None
    zeroed: int = 0
    steps: int = 0
    gradient_weight: float | None = None
    weights_D: Tensor | None = None


class Trainer(ABC):
    """Local trainer: the contract of this shelf. ``model`` is its scratch space, ``task`` defines the loss that it trains."""

    def __init__(self, model: nn.Module, config: TrainingConfig, plan: Plan, task: Task = CLASSIFICATION) -> None:
        self.model, self.config, self.plan, self.task = model, config, plan, task
        self.optimizer = optimizer_of(config)

    @abstractmethod
    def train(self, global_D: Tensor, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        """Train every task from the global model, independently of the others.

        Raises:
            ModelError: the model cannot be trained under this plan.
            PrivacyError: a step would have broken the promise.
        """

    def rates(self, task: LocalTask, steps: int) -> list[float]:
        """The learning rate of each of a client's steps."""
        schedule = schedule_of(self.config.step_schedule)
        scale = self.config.lr * task.lr_scale * task.work.rate
        return [scale * schedule.factor(step, steps) for step in range(steps)]

    def plain_batches(self, task: LocalTask) -> list[Tensor]:
        """Each step's batch without example-level privacy, as places among the client's examples."""
        if task.work.batches is not None:
            return list(task.work.batches)
        stream = (task.seed / "batches").torch()
        return list(shuffled_batches(len(task.rows_n), self.config.batch_size, self.plain_steps(task), stream))

    def private_training(self, plan: DpSgdPlan, task: LocalTask) -> LocalTraining:
        """The event of a task under a plan of DP-SGD.

        Raises:
            PrivacyError: the work names its batches, so that they would not be those that are priced.
        """
        if task.work.batches is not None:
            raise PrivacyError(
                f"client {task.client}: an algorithm names batches under DP-SGD, whose price is that of batches drawn by the "
                "plan's sampler, so nothing was trained; leave LocalWork.batches out"
            )
        todo = plan.planned(task.size)
        return todo if task.work.steps is None else todo.model_copy(update={"steps": task.work.steps})

    def plain_steps(self, task: LocalTask) -> int:
        """The number of local steps without example-level privacy."""
        if task.work.batches is not None:
            return len(task.work.batches)
        if task.work.steps is not None:
            return task.work.steps
        epochs = -(-len(task.rows_n) // self.config.batch_size)
        return self.config.local_steps or (self.config.local_epochs or 0) * epochs

    def prepare(self, global_D: Tensor, x: Tensor) -> None:  # noqa: B027
        """Make sure, before any data are looked at, that this engine trains the model.

        Args:
            global_D: the model to begin with.
            x: inputs, shape (n, ...), to make probes like; see :func:`privfl.learning.training._probes.probe_for`.

        Raises:
            ModelError: it does not; says why, and nothing of other engines.
        """

    def how(self) -> str:
        """The way in which the model is trained, if a run should say something about it; else empty."""
        return ""

    def parts(self, clients: int, global_D: Tensor, x: Tensor) -> int:  # noqa: ARG002
        """The number of parts of a cohort, each trained by a call of its own, so that processes can share them out.

        The last bits of a result may depend on which clients are trained together. So the number of parts must not depend
        on the number of processes.

        Args:
            clients: how many the cohort has, at least 1.
            global_D: the global model.
            x: some client's inputs, of which only shape and type count.
        """
        return clients

    def runs_at_once(self, clients: int, global_D: Tensor, x: Tensor) -> int:  # noqa: ARG002
        """How many runs, with cohorts of so many clients, are trained faster by one call of :meth:`train` for all cohorts.

        Each task then has its own run's global model as the start of its work. The answer does not depend on the number of
        processes, for the reason given at :meth:`parts`.

        Args:
            clients: how many each cohort has.
            global_D: the global model of some run.
            x: some client's inputs, of which only shape and type count.

        Returns:
            1 if there is nothing to gain, or if a result would be another than that of its run alone.
        """
        return 1
