"""SHELF of local trainers ("engines"). The file's name is its name in a configuration.

Every engine computes the same thing as ``opacus``, the reference, up to rounding, or refuses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from privfl.config import TrainingConfig
from privfl.data.input_store import Inputs
from privfl.learning.tasks import Task
from privfl.learning.tasks.classification import CLASSIFICATION
from privfl.privacy.events import LocalTraining
from privfl.privacy.plans import Plan
from privfl.seeding import Seed


@dataclass(frozen=True)
class LocalTask:
    """What one client of the cohort trains on, and its own streams.

    Args:
        client: its number.
        size: its public size, the number of examples that it owns, of which it trains on n.
        x, y: where its examples are, N inputs and labels: mostly the pool, which all tasks of a run share.
        rows_n: which of them it trains on, shape (n,), int64, on the CPU wherever ``x`` is.
        seed: the root of its streams in this round.
    """

    client: int
    size: int
    x: Inputs
    y: Tensor
    rows_n: Tensor
    seed: Seed

    def examples(self, batch_B: Tensor) -> tuple[Tensor, Tensor]:
        """A batch's inputs and labels; ``batch_B`` are places among the client's n examples, on the CPU."""
        rows_B = self.rows_n[batch_B].to(self.x.device)
        return self.x[rows_B], self.y.index_select(0, rows_B)


@dataclass(frozen=True)
class LocalResult:
    """What came of it: the update (local minus global), the mean training loss, and what was spent.

    ``event`` is what the trainer did, for the ledger, read off what did it; None where the plan promises nothing.
    ``clipped_share`` is the share of per-example gradients that were longer than the clipping norm, ``zeroed`` how many
    were not finite and counted as zeros.
    """

    client: int
    delta_D: Tensor
    loss: float
    clipped_share: float
    event: LocalTraining | None
    zeroed: int = 0


class Trainer(ABC):
    """The contract of this shelf. ``model`` is the trainer's to use as scratch space, ``task`` says which loss it trains."""

    def __init__(self, model: nn.Module, config: TrainingConfig, plan: Plan, task: Task = CLASSIFICATION) -> None:
        self.model, self.config, self.plan, self.task = model, config, plan, task

    @abstractmethod
    def train(self, global_D: Tensor, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        """Train every task from the global model, independently of the others.

        Raises:
            ModelError: the model cannot be trained under this plan.
            PrivacyError: a step would have broken the promise.
        """

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
        """Into how many parts a cohort is cut, each trained by a call of its own, so that processes can share them out.

        A result may depend in its last bits on who is trained together; so this must not depend on how many processes
        there are.

        Args:
            clients: how many the cohort has, at least 1.
            global_D: the global model.
            x: some client's inputs, of which only shape and type count.
        """
        return clients
