"""FedRep: each client fits its own head to the shared body, then takes steps of the body (Collins et al. 2021, algorithm 1)."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field
from torch import nn

from privfl.federation.algorithms import Begun
from privfl.federation.algorithms._layers import parameters_of, require_rest
from privfl.federation.algorithms._local import PartlyLocal
from privfl.federation.local_training import Ended, Training
from privfl.learning.training import LocalWork


class FedRep(PartlyLocal):
    """The first ``head_share`` of the local steps train the head alone, the others the body alone, whose change is averaged.

    ``head`` names the layers that stay at the client; None: the last layer. With an empty head it is FedAvg. The paper's ten
    epochs of the head and one of the body are ``training.local_epochs = 11`` and ``head_share = 10/11``. At least one step is
    the body's.

    **Privacy.** The body's steps are computed from the head, so the plan prices the steps of both, as many as FedAvg's.
    Under an example-level plan all of them have noise, and head and personal model are covered as the update is.
    """

    head: Annotated[tuple[str, ...] | None, Field(strict=False)] = None
    head_share: Annotated[float, Field(ge=0, lt=1)] = 0.5

    @property
    def own_names(self) -> tuple[str, ...]:
        """The parameters of the head."""
        return self.head or ()

    def resolved(self, model: nn.Module) -> Self:
        """With the names of the head's parameters."""
        head = parameters_of(self.head, model, "algorithm.head")
        require_rest(head, model, "algorithm.head")
        return self.model_copy(update={"head": head})

    def training(self, begun: Begun) -> Training[Ended]:
        """Steps of the head, then steps of the body."""
        start_D = self.start(begun)
        head_D = begun.terms.layout.places(self.own_names).to(start_D.device)
        steps = min(round(self.head_share * begun.steps), begun.steps - 1) if self.own_names else 0
        if not steps:
            body = yield LocalWork(start_D=start_D, mask_D=~head_D, steps=begun.steps)
            return Ended(body.delta_D)
        head = yield LocalWork(start_D=start_D, mask_D=head_D, steps=steps, whole=True)
        body = yield LocalWork(start_D=head.whole(), mask_D=~head_D, steps=begun.steps - steps)
        # Either change is 0 for the entries of the other.
        return Ended(head.delta_D + body.delta_D)
