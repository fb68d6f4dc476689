"""pFedMe: personal models from Moreau envelopes of the clients' losses (Dinh et al. 2020, algorithm 1)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt
from torch import Tensor, lerp

from privfl.config import ExperimentConfig
from privfl.federation.algorithms import Algorithm, Begun, State, Terms
from privfl.federation.local_training import Ended, Training
from privfl.federation.payload import UPDATE, Payload
from privfl.learning.training import LocalWork
from privfl.tables import Size


class PFedMe(Algorithm):
    """For each batch, K steps θ ← θ − a (∇f(θ) + λ (θ − w)), then w ← w − ηλ (w − θ); x ← (1 − β) x + β · mean of the w.

    a is ``training.lr``, K ``inner_steps``, λ ``strength``, η ``outer_lr``, β ``beta``. θ starts at x in each round and goes on
    from batch to batch, as in the authors' code. All clients have the same weight. With K = 1, ηλ = 1 and β = 1 it is
    FedAvg with equal weights.

    The K steps are on one batch. Under an example-level plan each step draws its own, as its price assumes, and the plan's
    local steps are all of them together.

    **Privacy.** The personal model is the last θ, and all steps that it is made of are priced. Under an example-level plan they
    have noise, and it is covered as the update is.
    """

    personal: ClassVar[bool] = True
    counted: ClassVar[bool] = True
    weighted: ClassVar[bool] = False

    strength: Size = 15.0
    inner_steps: PositiveInt = 5
    outer_lr: Size = 0.005
    beta: Annotated[float, Field(gt=0, le=1e30)] = 1.0

    def check(self, config: ExperimentConfig) -> None:
        """Raise also for an optimizer or a schedule that has a state between steps."""
        super().check(config)
        self.check_stepwise(config)

    def work(self, told: State, client: State) -> LocalWork:  # noqa: ARG002
        """Training with the pull; :meth:`training` has the steps of w between."""
        return LocalWork(mu=self.strength)

    def personal_init(self, global_D: Tensor) -> State:
        """``model``: θ."""
        return {"model": global_D}

    def training(self, begun: Begun) -> Training[Ended]:
        """K steps of θ and one of w for each batch."""
        w_D = theta_D = begun.global_D
        for work in self._works(begun):
            moved = yield LocalWork(
                start_D=theta_D, centre_D=w_D, mu=self.strength, steps=work.steps, batches=work.batches, whole=True
            )
            theta_D = moved.whole()
            w_D = lerp(w_D, theta_D, self.outer_lr * self.strength)
        return Ended(w_D - begun.global_D, personal={"model": theta_D})

    def _works(self, begun: Begun) -> list[LocalWork]:
        """The steps of θ between two steps of w."""
        if begun.batches is not None:
            return [LocalWork(batches=(batch,) * self.inner_steps) for batch in begun.batches(begun.steps)]
        starts = range(0, begun.steps, self.inner_steps)
        return [LocalWork(steps=min(self.inner_steps, begun.steps - start)) for start in starts]

    def apply(self, server: State, mean: Payload, share: float, terms: Terms) -> tuple[Tensor, State]:  # noqa: ARG002
        """β times the mean."""
        return self.beta * mean[UPDATE], server
