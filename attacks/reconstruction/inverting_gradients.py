"""Inputs by the direction of their gradient (Geiping et al. 2020, "Inverting gradients: how easy is it to break privacy in
federated learning?", equation 4 and appendix B).
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from attacks.reconstruction._matching import ImageMatching, Problem, total_variation
from attacks.reconstruction._simulation import Loss


class InvertingGradients(ImageMatching):
    """Minimise 1 − cosine + tv · total variation by Adam on the sign of the gradient, in the box of the inputs.

    The length of the gradient does not count, so that clipping does not hinder it.

    Args:
        tv: the weight of the total variation of images. Larger ones blur: the authors' 0.2 leaves chance of images of 28 by 28
            pixels behind a small network.

    Variants:
        ``inputs``: the inputs with the smallest objective.
    """

    threat: ClassVar[str] = "A server that sees updates wants the inputs behind them, whatever the model is."

    needs: ClassVar[str] = "each client's update, or sums; few examples in a batch"

    cost: ClassVar[str] = "two passes forward and backward in each step of the search"

    by_sign: ClassVar[bool] = True

    tv: Annotated[float, Field(ge=0)] = 2e-3

    def objective(self, problem: Problem, x_n: Tensor, loss: Loss) -> Tensor:
        """See the class."""
        return problem.cosine(x_n, loss) + self.tv * total_variation(x_n)
