"""Inputs from the gradient of a first linear layer and its bias (Phong et al. 2018, "Privacy-preserving deep learning via
additively homomorphic encryption", section III; batches: Boenisch et al. 2023, "When the curious abandon honesty", section 4).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt

from attacks.reconstruction import Found, ReconstructionAttack, Target
from attacks.reconstruction._layers import is_linear, parts, require_takes_inputs, trained_layers
from attacks.reconstruction._quotients import least_squares, quotients
from privfl.errors import ConfigError
from privfl.running.knowledge import Knowledge, Prospect


class FirstLayer(ReconstructionAttack):
    """Divide each row of the first layer's weight gradient by the gradient of its bias.

    With output gradients d_i of row j, the row's quotient is Σ d_ij x_i / Σ d_ij, a mean of the inputs that activate it. It is
    the input itself if only one does, be it over several local steps. A batch of one is always reconstructed; of a larger batch
    those inputs are that have a ReLU for themselves. Rows with nearly equal quotients give one input, by least squares.

    Variants:
        ``quotients``: the distinct quotients, those that most rows agree on first.
        ``one input``: the least squares of all rows, which stands more noise; only if a target has one example.
    """

    threat: ClassVar[str] = "A server that sees updates wants the inputs behind them, and the model begins with a linear layer."

    needs: ClassVar[str] = "each client's update, or sums; a first layer that is linear"

    cost: ClassVar[str] = "a division"

    most: PositiveInt = 10

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.Attack`: the first layer that is trained is linear and has a bias."""
        name, layer = trained_layers(prospect.network.module)[0]
        if not is_linear(layer):
            raise ConfigError(
                f"model: {self.kind!r} needs a first layer that is linear with a bias, and {name or 'this model'} is a "
                f"{type(layer).__name__}; set model.kind = 'mlp' or 'logistic'"
            )
        super().require_possible(prospect)

    def reconstruct(self, target: Target, knowledge: Knowledge) -> dict[str, Found]:
        """See :class:`attacks.reconstruction.ReconstructionAttack`."""
        network, x_n = knowledge.network, knowledge.population.x[:2]
        name, _ = trained_layers(network.module)[0]
        require_takes_inputs(network, name, target.model_D, x_n, self.kind)
        weight_HF, bias_H = parts(network, name, target.gradient(knowledge).double())
        found = {"quotients": quotients(weight_HF, bias_H)}
        if target.size(knowledge) == 1:
            found["one input"] = least_squares(weight_HF, bias_H)[None]
        return {name: Found(rows_RF.to(x_n.dtype).reshape(-1, *x_n.shape[1:])) for name, rows_RF in found.items()}
