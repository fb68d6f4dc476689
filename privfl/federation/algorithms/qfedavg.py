"""q-FedAvg: clients with a larger loss weigh more (Li, Sanjabi, Beirami & Smith 2020, algorithm 2)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from privfl.config import ExperimentConfig
from privfl.federation.algorithms import Algorithm, State, Terms, Trained
from privfl.federation.payload import UPDATE, Payload
from privfl.learning.training import LocalWork
from privfl.tables import Size, contradiction
from privfl.vectors import Layout

_CURVATURE = "curvature"


class QFedAvg(Algorithm):
    """Fair averaging: x ← x + Σ F_k^q Δ_k / Σ h_k with h_k = F_k^q + q F_k^(q−1) ‖Δ_k‖²/η, the paper's step with L = 1/η.

    F_k is the client's mean loss at the global model, clipped to ``max_loss``. A client uploads both terms with F_k divided by
    ``max_loss``, which leaves the step as it is. ``q`` = 0 is FedAvg with equal weights.

    **Privacy.** The loss is computed from the data without noise, so example-level plans are refused. Under a client-level plan
    one clip covers both terms; h_k is sent in units of the clipping norm, so that neither term drowns the other. A mean h that
    noise has made smaller than ``floor`` counts as ``floor``.
    """

    weighted: ClassVar[bool] = False
    sums: ClassVar[bool] = True
    needs_loss: ClassVar[bool] = True

    q: Annotated[float, Field(ge=0, le=100)] = 1.0
    max_loss: Size = 10.0
    floor: Size = 0.01

    def check(self, config: ExperimentConfig) -> None:
        """Raise also under an example-level plan, which noises gradients and no losses."""
        super().check(config)
        if config.privacy.promises and not config.privacy.clips_messages:
            raise contradiction(
                "algorithm.kind",
                self.kind,
                f"uploads a function of the client's loss, which {config.privacy.kind!r} does not noise; "
                "set privacy.kind = 'client_central' or 'client_local', or algorithm = 'fedavg'",
            )

    def parts(self, layout: Layout) -> dict[str, Layout]:
        """The update and one number."""
        return {UPDATE: layout, _CURVATURE: Layout(("curvature",), ((),))}

    def work(self, told: State, client: State) -> LocalWork:  # noqa: ARG002
        """Plain training."""
        return LocalWork()

    def upload(self, told: State, client: State, trained: Trained) -> tuple[Payload, State]:  # noqa: ARG002
        """F^q Δ and h, in units of the clipping norm if there is one."""
        assert trained.start_loss is not None, "a round gives it to an algorithm that needs_loss"
        # A loss of 0 would have no negative power. The authors add as little.
        loss = max(min(trained.start_loss / self.max_loss, 1.0), 1e-10)
        square = float(trained.delta_D.double().square().sum())
        curvature = loss**self.q + self.q * loss ** (self.q - 1) * square / (trained.terms.lr * self.max_loss)
        sent = trained.delta_D.new_tensor([curvature * _unit(trained.terms)])
        return {UPDATE: trained.delta_D * loss**self.q, _CURVATURE: sent}, client

    def apply(self, server: State, mean: Payload, share: float, terms: Terms) -> tuple[Tensor, State]:  # noqa: ARG002
        """The quotient of the means."""
        curvature = mean[_CURVATURE] / _unit(terms)
        # Without noise it is positive, however small the losses are.
        return mean[UPDATE] / (curvature if terms.norm is None else curvature.clamp_min(self.floor)), server


def _unit(terms: Terms) -> float:
    return 1.0 if terms.norm is None else terms.norm
