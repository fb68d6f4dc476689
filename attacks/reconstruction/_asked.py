"""Reconstruction from the rounds that a malicious server asks for, on a model whose first layer it writes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from attacks._layers import ReluLayer, relu_layers
from attacks._malicious import MaliciousServerAttack
from attacks.reconstruction import Found, Target, claimed
from attacks.reconstruction._layers import require_takes_inputs, trained_layers
from privfl.auditing.questions.reconstruction import Reconstructed, ReconstructionClaim
from privfl.errors import ConfigError, ViewError
from privfl.running.knowledge import Knowledge, Prospect
from privfl.running.orders import Answer, Order
from privfl.running.views import MaliciousServerView, View


class AskedReconstruction(MaliciousServerAttack):
    """A reconstruction by a malicious server that writes the first layer, which is linear with a ReLU behind it.

    All clients are sent the same model. The answer is each client's update, or the sum under secure aggregation.
    """

    question: ClassVar[str] = "reconstruction"

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.Attack`: the first layer can be written, and updates are linear in the gradients."""
        super().require_possible(prospect)
        first, _ = trained_layers(prospect.network.module)[0]
        if relu_layers(prospect.network, self.kind)[0].name != first:
            raise ConfigError(
                f"model: {self.kind!r} writes a first layer that is linear with a ReLU behind it, and {first!r} is none; "
                "set model.kind = 'mlp' and model.activation = 'relu'"
            )
        training = prospect.protocol.training
        if prospect.protocol.step_weight(0) is None:
            raise ConfigError(
                f"training.optimizer = {training.optimizer.kind!r}: {self.kind!r} reads gradients off updates, and these are "
                "not linear in the gradients; set training.optimizer = 'sgd'"
            )

    def ask(self, view: MaliciousServerView, knowledge: Knowledge) -> Sequence[Order]:
        """See :class:`attacks._malicious.MaliciousServerAttack`: one model for everybody, in every round."""
        if view.answers:
            return ()
        model_D, layer = view.final_model(), relu_layers(knowledge.network, self.kind)[0]
        require_takes_inputs(knowledge.network, layer.name, model_D, knowledge.population.x[:2], self.kind)
        # A cohort may be empty.
        together = max(1, *map(len, view.cohorts)) if view.hides_updates else 1
        return [Order(self.written(model_D, layer, knowledge, together * knowledge.protocol.largest))] * self.rounds

    def run(self, view: View, knowledge: Knowledge) -> ReconstructionClaim:
        """See :class:`attacks.Attack`.

        Raises:
            ViewError: nothing came back, or nothing moved.
        """
        assert isinstance(view, MaliciousServerView)
        layer, made = relu_layers(knowledge.network, self.kind)[0], dict[str, list[Reconstructed]]()
        for target in (target for answer in view.answers for target in targets_of(answer)):
            weight_HF, bias_H = layer.weights(target.gradient(knowledge).double())
            shape = knowledge.population.x[:2].shape[1:]
            for variant, inputs_RF in self.read(weight_HF, bias_H).items():
                found = Found(inputs_RF.float().reshape(-1, *shape))
                made.setdefault(variant, []).append(claimed(target, found, knowledge))
        if not made:
            raise nothing_came(self.kind, view)
        return ReconstructionClaim(made)

    @abstractmethod
    def written(self, model_D: Tensor, layer: ReluLayer, knowledge: Knowledge, examples: int) -> Tensor:
        """The model that is sent, of shape (D,).

        Args:
            model_D: the final model.
            layer: its first layer.
            knowledge: the server's.
            examples: the number of examples behind an update, or a sum, at most.
        """

    @abstractmethod
    def read(self, weight_HF: Tensor, bias_H: Tensor) -> Mapping[str, Tensor]:
        """Variant -> inputs of shape (R, F), from the gradients of the layer's weights and biases, up to one factor."""


def targets_of(answer: Answer) -> list[Target]:
    """Each client's update, or the mean by weights of all if the server sees sums; those that moved nothing are left out."""
    if not answer.seen:
        return []
    if answer.shows_updates:
        updates_KD, weights_K = answer.updates()
        rows: list[tuple[tuple[int, ...], Tensor, float]] = [
            ((client,), updates_KD[place], float(weights_K[place])) for place, client in enumerate(answer.survivors)
        ]
    else:
        sum_D, weight = answer.sums()
        rows = [(answer.survivors, (sum_D / weight).float(), weight)]
    return [
        Target(answer.number, clients, answer.order.to(clients[0]), update_D, weight)
        for clients, update_D, weight in rows
        if clients and bool(update_D.isfinite().all()) and bool(update_D.any())
    ]


def nothing_came(attack: str, view: MaliciousServerView) -> ViewError:
    """The error of an attack whose rounds reconstruct nothing."""
    why = next((answer.failed for answer in view.answers if answer.failed), "nothing moved the model")
    return ViewError(f"{attack!r}: nothing came of the {len(view.answers)} rounds that it asked for: {why}")
