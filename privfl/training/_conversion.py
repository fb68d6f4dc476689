"""Makes of a model for one client a model for a whole cohort, by putting a rule in the place of each layer."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from privfl.errors import ModelError
from privfl.training._guards import require_trained
from privfl.training._rules import CohortLayer, Pass
from privfl.training._rules.attention import CohortAttention
from privfl.training._rules.by_vmap import CohortByVmap
from privfl.training._rules.convolution import CohortConvolution
from privfl.training._rules.dropout import CohortDropout
from privfl.training._rules.embedding import CohortEmbedding
from privfl.training._rules.embedding_bag import CohortEmbeddingBag
from privfl.training._rules.linear import CohortLinear
from privfl.training._rules.normalisation import CohortNormalisation
from privfl.training._rules.recurrent import CohortLSTM
from privfl.training._rules.tanh import CohortTanh

RULES: tuple[type[CohortLayer], ...] = (
    CohortLinear,
    CohortConvolution,
    CohortNormalisation,
    CohortEmbedding,
    CohortEmbeddingBag,
    CohortDropout,
    CohortTanh,
    CohortLSTM,
    CohortAttention,
)


@dataclass(frozen=True)
class CohortModel:
    """A model for a flat batch of a cohort's examples.

    Args:
        module: from (N, ...) to logits (N, classes).
        shared: what its layers share; set before each pass.
        by_vmap: names and types of the layers for which there is no rule, and which torch.func runs.
        draws: whether some layer draws random numbers.
    """

    module: nn.Module
    shared: Pass
    by_vmap: tuple[str, ...]
    draws: bool


def convert(model: nn.Module) -> CohortModel:
    """Put a rule in the place of each layer that has one or has parameters; the model is left as it is.

    Raises:
        ModelError: a parameter is frozen, or used by two layers.
    """
    _require_simple(model)
    shared, by_vmap = Pass(), list[str]()

    def visit(module: nn.Module, prefix: str) -> nn.Module:
        for rule in RULES:
            if rule.takes(module):
                return rule(module, prefix, shared)
        if module._parameters:
            by_vmap.append(f"{prefix or 'the model'} ({type(module).__name__})")
            return CohortByVmap(module, prefix, shared)
        if getattr(module, "inplace", False):
            # What a rule returns is kept for its backward pass, and must not be written over.
            module.inplace = False  # type: ignore[assignment]
        # Not named_children(), which leaves out what was there before: a layer may be used twice.
        for name, child in list(module._modules.items()):
            if child is not None:
                setattr(module, name, visit(child, f"{prefix}.{name}" if prefix else name))
        return module

    module = visit(copy.deepcopy(model), "").train()
    draws = any(isinstance(layer, CohortDropout) for layer in module.modules())
    return CohortModel(module, shared, tuple(by_vmap), draws)


def _require_simple(model: nn.Module) -> None:
    require_trained(model)
    once, every = dict(model.named_parameters()), dict(model.named_parameters(remove_duplicate=False))
    for name in sorted(every.keys() - once.keys()):
        raise ModelError(f"{name} is a parameter that another layer has too; give each layer its own")
