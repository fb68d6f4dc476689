"""Base of algorithms that share a part of the model, the body, and keep the rest at each client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from privfl.federation.algorithms import Algorithm, Begun, State, Terms, Trained
from privfl.federation.local_training import Ended, Training
from privfl.federation.payload import UPDATE, Payload
from privfl.learning.training import LocalWork
from privfl.vectors import Layout

_LOCAL = "local"


class PartlyLocal(Algorithm, ABC):
    """A client uploads the change of the body alone, and keeps its own values of all other parameters.

    Bytes, clip and noise are for the entries of the body. Every client's own values start at those of the initial model.
    """

    remembers: ClassVar[bool] = True
    personal: ClassVar[bool] = True
    counted: ClassVar[bool] = True

    @property
    @abstractmethod
    def own_names(self) -> tuple[str, ...]:
        """The parameters that stay at each client, of an algorithm that is resolved."""

    def parts(self, layout: Layout) -> dict[str, Layout]:
        """The body."""
        return {UPDATE: layout.without(self.own_names)}

    def work(self, told: State, client: State) -> LocalWork:  # noqa: ARG002
        """Plain training of body and own values together."""
        return LocalWork()

    def start(self, begun: Begun) -> Tensor:
        """The global body with the client's own values, shape (D,)."""
        return self._filled(begun.global_D, begun.kept, begun.terms.layout)

    def _filled(self, global_D: Tensor, kept: State, layout: Layout) -> Tensor:
        filled_D = global_D.clone()
        if _LOCAL in kept:
            filled_D[layout.places(self.own_names).to(filled_D.device)] = kept[_LOCAL].to(filled_D)
        return filled_D

    def training(self, begun: Begun) -> Training[Ended]:
        """The work from the global body and the client's own values."""
        moved = yield LocalWork(start_D=self.start(begun))
        return Ended(moved.delta_D)

    def upload(self, told: State, client: State, trained: Trained) -> tuple[Payload, State]:  # noqa: ARG002
        """The change of the body; the client keeps its own values."""
        own_D = trained.terms.layout.places(self.own_names).to(trained.delta_D.device)
        after_D = self._filled(trained.global_D, client, trained.terms.layout)[own_D] + trained.delta_D[own_D]
        return {UPDATE: trained.delta_D[~own_D]}, {_LOCAL: after_D}

    def apply(self, server: State, mean: Payload, share: float, terms: Terms) -> tuple[Tensor, State]:  # noqa: ARG002
        """The mean change of the body, and 0 for all other parameters."""
        return self.parts(terms.layout)[UPDATE].spread(mean[UPDATE], terms.layout), server

    def personalised(self, begun: Begun) -> Training[Tensor | None]:
        """The global body with the client's own values."""
        return self.start(begun) if begun.took_part else None
        yield
