"""Conversion of one client's model into a model for a whole cohort, with a rule in the place of each layer."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from privfl.errors import ModelError
from privfl.learning.tasks import Task
from privfl.learning.tasks.classification import CLASSIFICATION
from privfl.learning.training._rules import CohortLayer, Pass
from privfl.learning.training._rules.attention import CohortAttention
from privfl.learning.training._rules.by_vmap import CohortByVmap
from privfl.learning.training._rules.convolution import CohortConvolution
from privfl.learning.training._rules.dropout import CohortDropout, rate_of
from privfl.learning.training._rules.embedding import CohortEmbedding
from privfl.learning.training._rules.embedding_bag import CohortEmbeddingBag
from privfl.learning.training._rules.linear import CohortLinear
from privfl.learning.training._rules.normalisation import CohortNormalisation
from privfl.learning.training._rules.recurrent import CohortRecurrent
from privfl.learning.training._rules.tanh import CohortTanh

RULES: tuple[type[CohortLayer], ...] = (
    CohortLinear,
    CohortConvolution,
    CohortNormalisation,
    CohortEmbedding,
    CohortEmbeddingBag,
    CohortDropout,
    CohortTanh,
    CohortRecurrent,
    CohortAttention,
)


@dataclass(frozen=True)
class CohortModel:
    """A model for a flat batch of a cohort's examples.

    Args:
        module: from (N, ...) to outputs (N, ..., O).
        shared: the state that its layers share; set before each pass.
        by_vmap: names and types of the layers for which there is no rule, and which torch.func runs.
        drawing: the layers that draw from a client's stream, by their names in the model.
        task: defines the loss of an output.
    """

    module: nn.Module
    shared: Pass
    by_vmap: tuple[str, ...]
    drawing: dict[str, nn.Module]
    task: Task

    @property
    def draws(self) -> bool:
        """Whether some layer draws random numbers."""
        return bool(self.drawing)


def convert(model: nn.Module, task: Task = CLASSIFICATION) -> CohortModel:
    """Put a rule in the place of each layer that has one or has parameters; the model is left as it is.

    A layer that neither trains nor draws anything is the same for all clients, and stays.

    Raises:
        ModelError: a parameter is used by two layers.
    """
    _require_simple(model)
    shared, by_vmap, drawing = Pass(), list[str](), dict[str, nn.Module]()

    def visit(module: nn.Module, prefix: str) -> nn.Module:
        trained, draws = any(value.requires_grad for value in module.parameters()), bool(rate_of(module))
        for rule in RULES:
            if rule.takes(module) and (trained or draws or not module._parameters):
                layer = rule(module, prefix, shared)
                if draws:
                    drawing[prefix] = layer
                return layer
        if trained and _has_own(module):
            by_vmap.append(f"{prefix or 'the model'} ({type(module).__name__})")
            vmapped = CohortByVmap(module, prefix, shared)
            within = vmapped.within()
            drawing.update({".".join(filter(None, (prefix, name))): layer for name, layer in within.items()})
            return vmapped
        if getattr(module, "inplace", False):
            # The output of a rule is kept for its backward pass, and must not be overwritten.
            module.inplace = False  # type: ignore[assignment]
        # Not named_children(), which leaves out a layer that it met before: a layer may be used twice.
        for name, child in list(module._modules.items()):
            if child is not None:
                setattr(module, name, visit(child, f"{prefix}.{name}" if prefix else name))
        return module

    module = visit(copy.deepcopy(model), "").train()
    return CohortModel(module, shared, tuple(by_vmap), drawing, task)


def _has_own(module: nn.Module) -> bool:
    """Whether a module uses trained parameters itself: its own, some in a list that is no layer, or a function of some."""
    lists = [child for child in module.children() if isinstance(child, nn.ParameterList | nn.ParameterDict)]
    own = [*module.parameters(recurse=False), *(value for one in lists for value in one.parameters())]
    return any(value.requires_grad for value in own) or is_parametrized(module)


def _require_simple(model: nn.Module) -> None:
    once, every = dict(model.named_parameters()), dict(model.named_parameters(remove_duplicate=False))
    for name in sorted(name for name in every.keys() - once.keys() if every[name].requires_grad):
        raise ModelError(f"{name} is a parameter that another layer has too; give each layer its own")
