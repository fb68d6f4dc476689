"""An attack that looks for the truth wherever its view and its knowledge lead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel
from torch import Tensor

from attacks import Attack
from privfl.adversaries import Adversary
from privfl.auditing.questions import Truth
from privfl.auditing.questions.membership import MembershipClaim
from privfl.config import ExperimentConfig
from privfl.data.federated import FederatedData
from privfl.errors import PrivflError
from privfl.running.experiment import Experiment
from privfl.running.knowledge import Knowledge
from privfl.running.run_folder import RunFolder
from privfl.running.views import View
from privfl.seeding import Seed

FORBIDDEN = (Path, RunFolder, ExperimentConfig, FederatedData, Experiment, Seed, Truth)


def reachable(*roots: object) -> Iterator[Any]:
    """Everything that attributes, containers, closures and defaults lead to; of modules and classes nothing."""
    seen: dict[int, object] = {}
    waiting: list[Any] = list(roots)
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | str | bytes | int | float):
            continue
        seen[id(one)] = one
        yield one
        if isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            waiting += list(one)
        elif isinstance(one, FunctionType):
            waiting += [cell.cell_contents for cell in one.__closure__ or ()]
            waiting += [one.__defaults__, one.__kwdefaults__]
        elif isinstance(one, MethodType):
            waiting += [one.__self__, one.__func__]
        elif isinstance(one, BaseModel):
            waiting += vars(one).values()
        elif not isinstance(one, Tensor | np.ndarray):
            waiting.append(getattr(one, "__dict__", None))
            waiting += [getattr(one, name, None) for name in dir(one) if not name.startswith("__")]


class Snooping(Attack):
    """Keeps all that it could get hold of, and all errors that it could provoke."""

    adversary: ClassVar[Adversary] = "server"
    question: ClassVar[str] = "membership"
    threat: ClassVar[str] = "Whoever runs code in the same process wants the answers."
    loot: ClassVar[list[Any]] = []
    errors: ClassVar[list[str]] = []

    def run(self, view: View, knowledge: Knowledge) -> MembershipClaim:
        """Look at everything, and say nothing."""
        self.loot[:] = reachable(self, view, knowledge)
        for name in ("model_before", "participants", "survivors", "transcripts", "sums", "count", "updates"):
            try:
                getattr(view, name)(10**6)
            except PrivflError as error:
                self.errors.append(str(error))
        return MembershipClaim({"nothing": np.zeros(len(knowledge.candidates))})
