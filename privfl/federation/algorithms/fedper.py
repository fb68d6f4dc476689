"""FedPer: the body of the model is shared, and each client keeps its own last layers (Arivazhagan et al. 2019)."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field
from torch import nn

from privfl.federation.algorithms._layers import parameters_of, require_rest
from privfl.federation.algorithms._local import PartlyLocal


class FedPer(PartlyLocal):
    """Body and head are trained together, and the change of the body is averaged: algorithms 1 and 2.

    ``head`` names the layers that stay at the client; None: the last layer. With an empty head it is FedAvg.

    **Privacy.** The next body is computed from the head, so a head's steps are those that the plan prices. Under an
    example-level plan they have noise, and head and personal model are covered as the update is.
    """

    head: Annotated[tuple[str, ...] | None, Field(strict=False)] = None

    @property
    def own_names(self) -> tuple[str, ...]:
        """The parameters of the head."""
        return self.head or ()

    def resolved(self, model: nn.Module) -> Self:
        """With the names of the head's parameters."""
        head = parameters_of(self.head, model, "algorithm.head")
        require_rest(head, model, "algorithm.head")
        return self.model_copy(update={"head": head})
