"""FedNova: updates are divided by the steps that they took before they are averaged (Wang et al. 2020, equations 6 and 9)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from privfl.config import ExperimentConfig
from privfl.federation.algorithms import Algorithm, State, Terms, Trained
from privfl.federation.payload import UPDATE, Payload
from privfl.learning.training import LocalWork
from privfl.tables import contradiction
from privfl.vectors import Layout

_STEPS = "steps"


class FedNova(Algorithm):
    """x ← x + τ · Σ p_k (y_k − x)/‖a_k‖₁ with τ = Σ p_k ‖a_k‖₁, so that no client counts more for taking more steps.

    ‖a_k‖₁ is the number of steps K_k for plain SGD, and more with momentum. A client uploads (y_k − x) A/‖a_k‖₁ and ‖a_k‖₁/A,
    where A is the number of steps of the largest client, which is public. With equal steps it is FedAvg.
    """

    of_gradients: ClassVar[bool] = True
    sums: ClassVar[bool] = True

    def check(self, config: ExperimentConfig) -> None:
        """A client-level plan hides how many examples a client has, and with them its steps."""
        super().check(config)
        if config.privacy.clips_messages:
            raise contradiction(
                "algorithm.kind",
                self.kind,
                f"sends how many steps each client took, a number that would take up the norm of {config.privacy.kind!r}; "
                "set algorithm = 'fedavg' and training.local_steps, so that all take the same",
            )

    def parts(self, layout: Layout) -> dict[str, Layout]:
        """The update, and one number."""
        return {UPDATE: layout, _STEPS: Layout(("share",), ((),))}

    def work(self, told: State, client: State) -> LocalWork:  # noqa: ARG002
        """Plain training."""
        return LocalWork()

    def upload(self, told: State, client: State, trained: Trained) -> tuple[Payload, State]:  # noqa: ARG002
        """See the class; a client without examples takes no step, and its update is zero."""
        share = trained.gradient_weight / trained.terms.steps
        update_D = trained.delta_D / share if share else trained.delta_D
        return {UPDATE: update_D, _STEPS: trained.delta_D.new_tensor([share])}, client

    def apply(self, server: State, mean: Payload, share: float, terms: Terms) -> tuple[Tensor, State]:  # noqa: ARG002
        """See the class."""
        return mean[UPDATE] * mean[_STEPS], server
