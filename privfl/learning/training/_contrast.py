"""MOON's contrastive term: features of an example near those of one model and far from those of another (Li et al. 2021).

The features of an example are the input of the model's last linear layer, flattened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from privfl.errors import ModelError
from privfl.learning.tasks import Task
from privfl.learning.training import Contrast
from privfl.vectors import Layout, trained


class ContrastiveLoss:
    """The loss ℓ + μ · −log(e^{s(z, z₁)/τ} / (e^{s(z, z₁)/τ} + e^{s(z, z₂)/τ})) of each example; equation 3 of the paper.

    s is the cosine similarity, z the features under the weights that are trained, z₁ and z₂ those under two fixed models.
    Each example's loss depends on that example alone, so it may be clipped for itself.

    Args:
        model: the module whose weights are trained.
        task: the loss ℓ.
        contrast: the fixed models and the strengths.
        global_D: the round's global model.

    Raises:
        ModelError: the model has no features that depend on its weights.
    """

    def __init__(self, model: nn.Module, task: Task, contrast: Contrast, global_D: Tensor) -> None:
        self._model, self._task, self._contrast, self._head = model, task, contrast, head_of(model)
        layout, near_D = Layout.of(model), global_D if contrast.near_D is None else contrast.near_D
        self._fixed = [layout.unflatten(vector_D.to(global_D)) for vector_D in (near_D, contrast.far_D)]

    def __call__(self, call: Callable[[Tensor], Tensor], x_B: Tensor, y_B: Tensor) -> Tensor:
        """The losses of a batch, shape (B,).

        Args:
            call: the module, or a wrapper around it, that is trained.
            x_B: inputs.
            y_B: labels.
        """
        with self._listening() as heard:
            outputs = call(x_B)
        near_B, far_B = (self._similarities(heard[0], weights, x_B) for weights in self._fixed)
        # −log of a softmax of two numbers.
        term_B = nn.functional.softplus((far_B - near_B) / self._contrast.temperature)
        return self._task.loss(outputs, y_B) + self._contrast.mu * term_B

    def _similarities(self, features_B: Tensor, weights: dict[str, Tensor], x_B: Tensor) -> Tensor:
        """The cosines between the features and those under fixed weights, shape (B,)."""
        training = self._model.training
        with torch.no_grad(), self._listening() as heard:
            self._model.eval()
            torch.func.functional_call(self._model, weights, (x_B,))
            self._model.train(training)
        return nn.functional.cosine_similarity(features_B.flatten(1), heard[0].flatten(1))

    @contextmanager
    def _listening(self) -> Iterator[list[Tensor]]:
        heard: list[Tensor] = []
        handle = self._head.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
        try:
            yield heard
        finally:
            handle.remove()


def head_of(model: nn.Module) -> nn.Linear:
    """The last linear layer of a model.

    Raises:
        ModelError: there is none, or no weight that is trained comes before it.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    own = {id(parameter) for parameter in layers[-1].parameters()} if layers else set()
    if not layers or all(id(parameter) in own for parameter in trained(model).values()):
        raise ModelError(
            "algorithm 'moon' compares features, the input of the last linear layer, and this model trains no layer before "
            "one; set model.kind = 'mlp' or 'cnn', or algorithm = 'fedprox'"
        )
    return layers[-1]
