"""FedNova: each update is divided by its number of steps before averaging (Wang et al. 2020, equations 6 and 9)."""

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
    """Normalised averaging: x ← x + τ · Σ p_k (y_k − x)/‖a_k‖₁ with τ = Σ p_k ‖a_k‖₁. More steps give a client no more weight.

    ‖a_k‖₁ is the number of steps K_k for plain SGD, and larger with momentum. A client uploads (y_k − x) A/‖a_k‖₁ and ‖a_k‖₁/A.
    A is the number of steps of the largest client, which is public. If all clients take the same number of steps, this is
    FedAvg.
    """

    of_gradients: ClassVar[bool] = True
    sums: ClassVar[bool] = True

    def check(self, config: ExperimentConfig) -> None:
        """Raise also under a client-level plan, which hides how many examples, and thus steps, a client has."""
        super().check(config)
        if config.privacy.clips_messages:
            raise contradiction(
                "algorithm.kind",
                self.kind,
                f"uploads each client's number of steps, which would use up the clipping norm of {config.privacy.kind!r}; "
                "set algorithm = 'fedavg' and training.local_steps, so that all clients take the same number",
            )

    def parts(self, layout: Layout) -> dict[str, Layout]:
        """The update and one number."""
        return {UPDATE: layout, _STEPS: Layout(("share",), ((),))}

    def work(self, told: State, client: State) -> LocalWork:  # noqa: ARG002
        """Plain training."""
        return LocalWork()

    def upload(self, told: State, client: State, trained: Trained) -> tuple[Payload, State]:  # noqa: ARG002
        """The scaled update and the share of steps. A client without examples takes no step, and its update is zero."""
        share = trained.gradient_weight / trained.terms.steps
        update_D = trained.delta_D / share if share else trained.delta_D
        return {UPDATE: update_D, _STEPS: trained.delta_D.new_tensor([share])}, client

    def apply(self, server: State, mean: Payload, share: float, terms: Terms) -> tuple[Tensor, State]:  # noqa: ARG002
        """The mean scaled update times the mean share of steps."""
        return mean[UPDATE] * mean[_STEPS], server
