"""A last layer that magnifies the gradient of one class (Wen et al. 2022, "Fishing for User Data in Large-Batch Federated
Learning via Gradient Magnification", ICML, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

import torch
from pydantic import PositiveInt
from torch import Tensor

from attacks._malicious import MaliciousServerAttack
from attacks.reconstruction import Found, Target, claimed
from attacks.reconstruction._asked import nothing_came, targets_of
from attacks.reconstruction._labels import require_classes
from attacks.reconstruction._layers import is_linear, parts, require_takes_inputs, trained_layers
from attacks.reconstruction._quotients import quotients
from privfl.auditing.questions.reconstruction import Reconstructed, ReconstructionClaim
from privfl.errors import ConfigError
from privfl.running.knowledge import Knowledge, Network, Prospect
from privfl.running.orders import Order
from privfl.running.views import MaliciousServerView, View

_UNLIKELY: Final = 20.0
"""The distance of the output of the class below all others: its probability is 2e-9."""


class Fishing(MaliciousServerAttack):
    """Send a model of which only examples of one class have a gradient, another class in each round, and read the example off.

    The last layer is zero but for the row of that class, whose bias makes it most unlikely. An example of another class moves
    the layers before by the probability of this one, which is about 0; an example of the class moves them by its full
    gradient. If a client has one example of the class and takes one local step, its update is the gradient of that example, and
    the first layer gives it away as in ``reconstruction/first_layer``, whatever its activation is. Several examples of the
    class give a mixture. With each further step the last layer's other rows move, and the other classes come back. The authors
    invert the gradients of other models by a search.

    Variants:
        ``quotients``: for each update or sum, and class, the input that most rows of the first layer agree on, with its label.
    """

    question: ClassVar[str] = "reconstruction"

    threat: ClassVar[str] = "A server silences all classes but one in the model that it sends, and reads off who is left."

    needs: ClassVar[str] = "rounds that it asks for; classes; a first and a last layer that are linear"

    cost: ClassVar[str] = "a division"

    rounds: PositiveInt = 10
    """How many rounds, one for each class from the first on, and then from the first on again."""

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.Attack`: there are classes, and both ends of the model are linear with a bias."""
        require_classes(prospect.network, self.kind)
        layers = trained_layers(prospect.network.module)
        for (name, layer), which in ((layers[0], "first"), (layers[-1], "last")):
            if not is_linear(layer) or len(layers) < 2:
                raise ConfigError(
                    f"model: {self.kind!r} needs a {which} layer that is linear with a bias, and another layer behind it, and "
                    f"{name or 'this model'} is a {type(layer).__name__}; set model.kind = 'mlp'"
                )
        training = prospect.protocol.training
        if prospect.protocol.step_weight(0) is None:
            raise ConfigError(
                f"training.optimizer = {training.optimizer.kind!r}: {self.kind!r} reads gradients off updates, and these are "
                "not linear in the gradients; set training.optimizer = 'sgd'"
            )
        super().require_possible(prospect)

    def ask(self, view: MaliciousServerView, knowledge: Knowledge) -> Sequence[Order]:
        """See :class:`attacks._malicious.MaliciousServerAttack`: one class in each round."""
        if view.answers:
            return ()
        network, model_D = knowledge.network, view.final_model()
        name, _ = trained_layers(network.module)[0]
        require_takes_inputs(network, name, model_D, knowledge.population.x[:2], self.kind)
        return [Order(_magnified(network, model_D, self._label(network, place))) for place in range(self.rounds)]

    def run(self, view: View, knowledge: Knowledge) -> ReconstructionClaim:
        """See :class:`attacks.Attack`.

        Raises:
            ViewError: nothing came back, or nothing moved.
        """
        assert isinstance(view, MaliciousServerView)
        network, made = knowledge.network, dict[tuple[int, ...], list[tuple[Target, Tensor, int]]]()
        name, _ = trained_layers(network.module)[0]
        for place, answer in enumerate(view.answers):
            label = self._label(network, place)
            for target in targets_of(answer):
                gradient_D = target.gradient(knowledge).double()
                _, last_C = parts(network, trained_layers(network.module)[-1][0], gradient_D)
                # Minus the share of the class: without one there is nothing but rounding.
                found_RF = quotients(*parts(network, name, gradient_D))
                if last_C[label] < 0 and len(found_RF):
                    made.setdefault(target.clients, []).append((target, found_RF[0], label))
        if not made:
            raise nothing_came(self.kind, view)
        return ReconstructionClaim({"quotients": [_together(rows, knowledge) for rows in made.values()]})

    def _label(self, network: Network, place: int) -> int:
        """The class that a round is about."""
        return place % network.outputs[0]


def _magnified(network: Network, model_D: Tensor, label: int) -> Tensor:
    """The model whose last layer has a row for that class alone, of shape (D,)."""
    own_D = model_D.clone()
    name, _ = trained_layers(network.module)[-1]
    weight_CH, bias_C = parts(network, name, own_D)
    row_H = weight_CH[label].clone()
    weight_CH.zero_()
    weight_CH[label] = row_H
    bias_C.zero_()
    bias_C[label] = -_UNLIKELY
    return own_D


def _together(rows: Sequence[tuple[Target, Tensor, int]], knowledge: Knowledge) -> Reconstructed:
    """One claim about some clients, of the inputs from all rounds."""
    shape = knowledge.population.x[:2].shape[1:]
    inputs_R = torch.stack([input_F for _, input_F, _ in rows]).float().reshape(-1, *shape)
    return claimed(rows[0][0], Found(inputs_R, torch.tensor([label for _, _, label in rows])), knowledge)
