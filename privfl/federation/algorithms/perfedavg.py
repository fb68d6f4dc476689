"""Per-FedAvg: the global model is trained to be good after one step of each client (Fallah et al. 2020, algorithm 1)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt
from torch import Tensor

from privfl.config import ExperimentConfig
from privfl.federation.algorithms import Algorithm, Begun, State
from privfl.federation.local_training import Ended, Training
from privfl.learning.training import LocalWork


class PerFedAvg(Algorithm):
    """First order: w' = w − α ∇f(w; batch 1), then w ← w − β ∇f(w'; batch 2); a personal model is x after a step of rate α.

    β is ``training.lr``, and α is ``inner_lr``. Each pair of local steps is one such step, and an odd last one is plain. With
    α = 0 it is FedAvg on every second batch. ``adaptation_steps`` is the number of steps of rate α that make a personal model,
    on the client's training examples. Clients that never took part have a personal model too.

    **Privacy.** Both steps of a pair are priced. The steps that make a personal model have no noise under any plan, no upload
    is computed from them, and no promise covers it.
    """

    personal: ClassVar[bool] = True

    inner_lr: Annotated[float, Field(ge=0, le=1e30)] = 0.03
    adaptation_steps: PositiveInt = 1

    def check(self, config: ExperimentConfig) -> None:
        """Raise also for an optimizer or a schedule that has a state between steps."""
        super().check(config)
        self.check_stepwise(config)

    def work(self, told: State, client: State) -> LocalWork:  # noqa: ARG002
        """Plain training; :meth:`training` has the pairs of steps."""
        return LocalWork()

    def training(self, begun: Begun) -> Training[Ended]:
        """Pairs of steps."""
        batches = None if begun.batches is None else begun.batches(begun.steps)
        inner = self.inner_lr / begun.terms.lr

        def step(start_D: Tensor, number: int, rate: float) -> LocalWork:
            one = None if batches is None else (batches[number],)
            return LocalWork(start_D=start_D, steps=1, batches=one, rate=rate, whole=True)

        w_D = begun.global_D
        for number in range(0, begun.steps - 1, 2):
            adapted_D = (yield step(w_D, number, inner)).whole()
            after_D = (yield step(adapted_D, number + 1, 1.0)).whole()
            # w plus the step that was taken from w'; to the last bit the plain step if w' is w.
            w_D = after_D + (w_D - adapted_D)
        if begun.steps % 2:
            w_D = (yield step(w_D, begun.steps - 1, 1.0)).whole()
        return Ended(w_D - begun.global_D)

    def personalised(self, begun: Begun) -> Training[Tensor | None]:
        """The global model after some steps of rate α."""
        moved = yield LocalWork(steps=self.adaptation_steps, rate=self.inner_lr / begun.terms.lr, whole=True)
        return moved.whole()
