"""Inputs and labels whose gradient is that of the update, jointly (Zhu, Liu & Han 2019, "Deep leakage from gradients",
algorithm 1).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import cross_entropy

from attacks.reconstruction import Found, Target
from attacks.reconstruction._matching import MatchingAttack, Problem
from privfl.running.knowledge import Knowledge


class Dlg(MatchingAttack):
    """Minimise ‖difference of gradients‖² over inputs and soft labels together, by L-BFGS in float64.

    It needs a model with smooth activations, and works for few examples. ``steps`` counts the inner iterations of L-BFGS.

    Variants:
        ``joint``: the inputs with the smallest distance, and the largest of their soft labels.
    """

    threat: ClassVar[str] = "A server that sees updates wants inputs and labels behind them, and the model is smooth."

    needs: ClassVar[str] = "each client's update, or sums; smooth activations; few examples in a batch"

    cost: ClassVar[str] = "two passes forward and backward in each step of the search"

    steps: PositiveInt = 1200
    lr: PositiveFloat = 1.0

    def reconstruct(self, target: Target, knowledge: Knowledge) -> dict[str, Found]:
        """See :class:`attacks.reconstruction.ReconstructionAttack`."""
        problem = self.problem(target, knowledge, torch.float64)
        classes = knowledge.network.outputs[-1]
        tries = [self.search(problem, generator, classes) for generator in self.beginnings(problem, target)]
        x_R, soft_RC, _ = min(tries, key=lambda one: one[2])
        return {"joint": Found(x_R.to(target.model_D.dtype), soft_RC.argmax(1))}

    def search(self, problem: Problem, generator: torch.Generator, classes: int) -> tuple[Tensor, Tensor, float]:
        """One search: inputs, soft labels before the softmax, and the distance."""
        x_R = problem.noise(generator).requires_grad_()
        soft_RC = torch.randn((problem.size, classes), generator=generator, device=x_R.device).to(x_R.dtype).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [x_R, soft_RC],
            lr=self.lr,
            max_iter=self.steps,
            history_size=100,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )
        best_R, best_RC, least = x_R.detach().clone(), soft_RC.detach().clone(), float("inf")

        def distance() -> Tensor:
            nonlocal best_R, best_RC, least
            optimizer.zero_grad()
            value = problem.squares(x_R, lambda outputs, places_B: cross_entropy(outputs, soft_RC[places_B].softmax(1)))
            x_R.grad, soft_RC.grad = torch.autograd.grad(value, (x_R, soft_RC))
            if (now := float(value.detach())) < least:
                best_R, best_RC, least = x_R.detach().clone(), soft_RC.detach().clone(), now
            return value

        optimizer.step(distance)  # type: ignore[no-untyped-call]
        return best_R, best_RC, least
