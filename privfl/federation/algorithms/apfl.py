"""APFL: each client mixes a model of its own with the global one (Deng et al. 2020, algorithm 1)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, lerp

from privfl.config import ExperimentConfig
from privfl.federation.algorithms import Algorithm, Begun, State
from privfl.federation.local_training import Training
from privfl.learning.training import LocalWork


class Apfl(Algorithm):
    """The personal model is α v_k + (1 − α) x; w_k ← w_k − η ∇f(w_k), v_k ← v_k − η α ∇f(α v_k + (1 − α) w_k) at every step.

    The global model is trained by FedAvg, and w_k starts at it in each round. v_k starts at the global model of the first round
    in which the client takes part. With α = 0 the personal model is the global one; with α = 1 it is local training alone.
    If ``adaptive``, the first step of a round moves α by −η (⟨v_k − w_k, ∇f⟩ + 0.02 α), within [0, 1], as in the authors' code.

    **Privacy.** w_k and v_k are trained here without noise under every plan, apart from the training that is uploaded. No
    promise covers the personal model.
    """

    personal: ClassVar[bool] = True

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.75
    adaptive: bool = False

    def check(self, config: ExperimentConfig) -> None:
        """Raise also for an optimizer or a schedule that has a state between steps."""
        super().check(config)
        self.check_stepwise(config)

    def work(self, told: State, client: State) -> LocalWork:  # noqa: ARG002
        """Plain training."""
        return LocalWork()

    def personal_init(self, global_D: Tensor) -> State:
        """``model``: v_k; ``alpha``: α."""
        return {"model": global_D, "alpha": global_D.new_tensor(self.alpha)}

    def personal_training(self, begun: Begun) -> Training[State]:
        """Steps of w_k and v_k in turn, both from the models before."""
        w_D, v_D, alpha = begun.global_D, begun.personal["model"], begun.personal["alpha"]
        assert begun.batches is not None, "personal training is plain"
        for number, batch in enumerate(begun.batches(begun.steps)):
            mixed_D = lerp(w_D, v_D, alpha)
            after_D = (yield LocalWork(start_D=mixed_D, batches=(batch,), whole=True)).whole()
            next_D = (yield LocalWork(start_D=w_D, batches=(batch,), whole=True)).whole()
            step = alpha
            if self.adaptive and number == 0:
                # ⟨v − w, −η ∇f⟩ is the product with the step that was taken.
                slope = (v_D - w_D) @ (after_D - mixed_D)
                alpha = (alpha + slope - begun.terms.lr * 0.02 * alpha).clamp(0.0, 1.0)
            # v + α (after − mixed), with the terms in an order that loses nothing at α = 1.
            v_D, w_D = step * after_D + (v_D - step * mixed_D), next_D
        return {"model": v_D, "alpha": alpha}

    def personalised(self, begun: Begun) -> Training[Tensor | None]:
        """The mixture with the newest global model."""
        if not begun.took_part:
            return None
        return lerp(begun.global_D, begun.personal["model"], begun.personal["alpha"])
        yield
