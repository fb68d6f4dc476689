"""Choice of the engine that trains a model: the one that was asked for, or the first that can."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from privfl.config import TrainingConfig
from privfl.data.input_store import Inputs
from privfl.errors import ConfigError, ModelError, UserError
from privfl.learning.tasks import Task
from privfl.learning.tasks.classification import CLASSIFICATION
from privfl.learning.training import Trainer
from privfl.learning.training._guards import runnable
from privfl.privacy.plans import Plan
from privfl.shelves import SHELVES
from privfl.vectors import to_vector

_ENGINES = ("fused", "opacus")
"""The engines, in the order in which "auto" tries them."""

_RANGED = 256
"""Examples that are enough to see in which range each number is."""


@dataclass(frozen=True)
class Choice:
    """An engine's name, why it was taken, and the trainer, which has made sure of the model."""

    engine: str
    why: str
    trainer: Trainer

    def __str__(self) -> str:
        return f"{self.engine}: {self.why}"


def choose(config: TrainingConfig, plan: Plan, model: nn.Module, x: Inputs | Tensor, task: Task = CLASSIFICATION) -> Choice:
    """The engine that a configuration asks for; for "auto", the first that trains the model rightly.

    Args:
        config: ``engine`` is a name or "auto".
        plan: the privacy guarantee of the training.
        model: the model to train, with the run's own weights; it is left as it is.
        x: inputs that belong to nobody who is trained on, shape (n, ...): checks use inputs like them.
        task: says which loss is trained.

    Raises:
        ModelError, ConfigError: the model cannot be trained so; names an engine only if that one was seen to train it.
    """
    asked, refusals = config.engine, dict[str, UserError]()
    for engine in _ENGINES if asked == "auto" else (asked, *(name for name in _ENGINES if name != asked)):
        try:
            trainer = _prepared(engine, config, plan, model, x[:_RANGED], task)
        except (ModelError, ConfigError) as error:
            refusals[engine] = error
            continue
        if asked == engine:
            return Choice(engine, "; ".join(filter(None, ("as configured", trainer.how()))), trainer)
        if asked == "auto":
            before = [f"the {name} engine cannot be used, {error}" for name, error in refusals.items()]
            return Choice(engine, "; ".join([*before, trainer.how()] if trainer.how() else before), trainer)
        refusal = refusals[asked]
        raise type(refusal)(f"{refusal}; set training.engine = {engine!r}, which trains this model")
    raise _refused(refusals)


def _prepared(engine: str, config: TrainingConfig, plan: Plan, model: nn.Module, x: Tensor, task: Task) -> Trainer:
    """The trainer of that engine, which has made sure of a copy of the model: a trial may leave something in it."""
    with runnable(f"the {engine} engine"):
        trainer: Trainer = SHELVES["training.engine"].find(engine)(copy.deepcopy(model), config, plan, task)
        trainer.prepare(to_vector(model), x)
    return trainer


def _refused(refusals: Mapping[str, UserError]) -> UserError:
    """The error with the reasons of all engines; reasons that are the same are given once."""
    said, first = {engine: str(error) for engine, error in refusals.items()}, next(iter(refusals.values()))
    if len(set(said.values())) == 1:
        return first
    return type(first)("; ".join(f"{engine}: {why}" for engine, why in said.items()))
