"""Fine-tuning: every client trains the global model further on its own examples (Wang et al. 2019, section 3)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from privfl.federation.algorithms import Algorithm, Begun, State
from privfl.federation.algorithms._layers import parameters_of
from privfl.federation.local_training import Training
from privfl.learning.training import LocalWork


class FineTuning(Algorithm):
    """FedAvg; a personal model is the global one after further local training, ``rounds`` times as long as that of a round.

    ``layers`` names the layers that are trained further; None: all. It needs no state, so clients that never took part have a
    personal model too.

    **Privacy.** The further steps have no noise under any plan. No upload is computed from them, and no promise covers the
    personal model.
    """

    personal: ClassVar[bool] = True

    rounds: PositiveInt = 1
    layers: Annotated[tuple[str, ...] | None, Field(strict=False)] = None

    def resolved(self, model: nn.Module) -> Self:
        """With the names of the parameters that are trained further."""
        if self.layers is None:
            return self
        return self.model_copy(update={"layers": parameters_of(self.layers, model, "algorithm.layers")})

    def work(self, told: State, client: State) -> LocalWork:  # noqa: ARG002
        """Plain training."""
        return LocalWork()

    def personalised(self, begun: Begun) -> Training[Tensor | None]:
        """The global model after further training."""
        mask_D = None if self.layers is None else begun.terms.layout.places(self.layers).to(begun.global_D.device)
        moved = yield LocalWork(mask_D=mask_D, steps=self.rounds * begun.steps, whole=True)
        return moved.whole()
