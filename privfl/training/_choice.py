"""Which engine "auto" is: the fused one for every model of which it can be sure, the reference otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from privfl.errors import first_line
from privfl.training._conversion import convert
from privfl.training._guards import probe_for
from privfl.training._passes import require_same_gradients


@dataclass(frozen=True)
class Choice:
    """An engine's name, and why it was taken."""

    engine: str
    why: str

    def __str__(self) -> str:
        return f"{self.engine}: {self.why}"


def choose(asked: str, model: nn.Module, x: Tensor) -> Choice:
    """The engine that a configuration asks for; "auto" takes "fused" where each layer has a rule that gives true gradients.

    Args:
        asked: ``training.engine``.
        model: what is to be trained, with any weights.
        x: inputs of the right shape and type; their values are not looked at.
    """
    if asked != "auto":
        return Choice(asked, "as configured" + _caveat(asked, model))
    try:
        cohort = convert(model)
        if cohort.by_vmap:
            return Choice("opacus", f"the fused engine has no rule for {', '.join(cohort.by_vmap)}")
        require_same_gradients(model, cohort, probe_for(model, x, 4))
    except torch.OutOfMemoryError:
        # That says nothing about the model; the reference would not fare better.
        raise
    except Exception as error:
        # A model of the user's own may do anything to a batch; the reference will say what is wrong with it, if anything is.
        return Choice("opacus", f"the fused engine cannot be used, {first_line(error)}")
    return Choice("fused", "each layer has a rule")


def _caveat(asked: str, model: nn.Module) -> str:
    by_vmap = convert(model).by_vmap if asked == "fused" else ()
    return f"; torch.func runs {', '.join(by_vmap)}, for which there is no rule" if by_vmap else ""
