"""Inputs by the distance of their gradient, with priors on images (Yin et al. 2021, "See through gradients: image batch
recovery via GradInversion", equations 2 to 7, without the statistics of batch norm and the registration of several seeds).
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from attacks.reconstruction._matching import ImageMatching, Problem, total_variation
from attacks.reconstruction._simulation import Loss


class SeeThrough(ImageMatching):
    """Minimise α ‖difference of gradients‖² + tv · total variation + l2 · ‖x‖² by Adam.

    Batch norm keeps running means, which a federated update does not carry; no model of a run has them.

    Args:
        alpha: the weight of the squared distance.
        tv: the weight of the total variation of images.
        l2: the weight of the squared norm of the inputs.

    Variants:
        ``inputs``: the inputs with the smallest objective.
    """

    threat: ClassVar[str] = "A server that sees updates wants the images behind them, and knows that images are smooth."

    needs: ClassVar[str] = "each client's update, or sums; few examples in a batch"

    cost: ClassVar[str] = "two passes forward and backward in each step of the search"

    alpha: Annotated[float, Field(gt=0)] = 1e-4
    tv: Annotated[float, Field(ge=0)] = 1e-4
    l2: Annotated[float, Field(ge=0)] = 1e-6

    def objective(self, problem: Problem, x_n: Tensor, loss: Loss) -> Tensor:
        """See the class."""
        prior = self.tv * total_variation(x_n) + self.l2 * x_n.square().sum()
        return self.alpha * problem.squares(x_n, loss) + prior
