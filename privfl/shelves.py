"""Shelves: folders of interchangeable items, and how an item is found by its name.

There is no registry. The items of a shelf are the files in its folder, or modules of the user's own under a dotted path.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from privfl.errors import ConfigError
from privfl.own_code import place, what


@dataclass(frozen=True)
class Shelf:
    """A folder of interchangeable items and the class in its ``__init__`` that is their contract."""

    package: str
    contract: str

    def names(self) -> list[str]:
        """The items' names: file names, with the folder before a slash if a shelf has several boards."""
        found: list[str] = []

        def visit(package: str, prefix: str) -> None:
            for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
                if module.name.startswith("_"):
                    continue
                if module.ispkg:
                    visit(f"{package}.{module.name}", f"{prefix}{module.name}/")
                else:
                    found.append(prefix + module.name)

        visit(self.package, "")
        return sorted(found)

    def find(self, kind: str) -> type[Any]:
        """The item of that name, or of that dotted path.

        Raises:
            ConfigError: there is no such item, or the module holds no class, or several, that meet the contract.
        """
        dotted = "." in kind and all(kind.split("."))
        if dotted and "/" in kind:
            named = kind.removesuffix(".py").strip("/").replace("/", ".")
            raise ConfigError(f"is a file; name the module by dots, {named!r}, from {Path.cwd()} or the Python path")
        if not dotted and kind not in self.names():
            raise ConfigError(f"{nearest(kind, self.names())}, or the dotted path of a module of your own")
        path = kind if dotted else f"{self.package}.{kind.replace('/', '.')}"
        try:
            module = importlib.import_module(path)
        except Exception as error:  # A module of the user's own may fail in any way.
            where = place(error)
            why = f"{where}: {what(error)}" if where else what(error)
            raise ConfigError(f"cannot be imported ({why}); {self._way_out(error, path)}") from error
        contract = getattr(importlib.import_module(self.package), self.contract)
        items = [
            member
            for member in vars(module).values()
            if isinstance(member, type)
            and issubclass(member, contract)
            and member.__module__ == module.__name__
            and not inspect.isabstract(member)
        ]
        if len(items) != 1:
            wanted = f"exactly one class, nothing of it left abstract, that derives from {self.package}.{self.contract}"
            raise ConfigError(f"needs {wanted}; it has {len(items)}")
        # A class variable that the contract declares without a value is the item's to give.
        missing = sorted(name for name in getattr(items[0], "__class_vars__", ()) if not hasattr(items[0], name))
        if missing:
            raise ConfigError(
                f"its class {items[0].__name__} has no {' and no '.join(missing)}: set it in the class; "
                f"{self.package}.{self.contract} says what it is"
            )
        return items[0]

    def _way_out(self, error: Exception, path: str) -> str:
        """The way out: put the module there if it is missing, else mend it."""
        if isinstance(error, ModuleNotFoundError) and error.name is not None and f"{path}.".startswith(f"{error.name}."):
            return f"allowed is a module in {Path.cwd()}, or elsewhere on the Python path (PYTHONPATH)"
        return "mend it there"


SHELVES: Final[Mapping[str, Shelf]] = {
    "data": Shelf("privfl.data.datasets", "Dataset"),
    "data.partition": Shelf("privfl.data.partitions", "Partition"),
    "data.transforms": Shelf("privfl.data.transforms", "Transform"),
    "task": Shelf("privfl.learning.tasks", "Task"),
    "model": Shelf("privfl.learning.models", "Model"),
    "cohort": Shelf("privfl.privacy.cohorts", "CohortSampler"),
    "algorithm": Shelf("privfl.federation.algorithms", "Algorithm"),
    "behaviour": Shelf("privfl.federation.behaviours", "Behaviour"),
    "transform": Shelf("privfl.federation.transforms", "Transform"),
    "clock": Shelf("privfl.federation.clocks", "Clock"),
    "pace": Shelf("privfl.federation.paces", "Pace"),
    "privacy": Shelf("privfl.privacy.plans", "PlanSettings"),
    "aggregator": Shelf("privfl.federation.aggregators", "Aggregator"),
    "server": Shelf("privfl.federation.servers", "ServerOptimizer"),
    "training.engine": Shelf("privfl.learning.training", "Trainer"),
    "training.optimizer": Shelf("privfl.learning.optimizers", "LocalOptimizer"),
    "training.round_schedule": Shelf("privfl.learning.schedules", "Schedule"),
    "training.step_schedule": Shelf("privfl.learning.schedules", "Schedule"),
    "canaries": Shelf("privfl.federation.canaries", "Canaries"),
    "attacks.run": Shelf("attacks", "Attack"),
    "question": Shelf("privfl.auditing.questions", "Question"),
    "block": Shelf("privfl.report.blocks", "Block"),
    "tracker": Shelf("privfl.trackers", "Tracker"),
}


def nearest(word: str, known: Sequence[str]) -> str:
    """The known words that are nearest to a mistyped one, and all that are allowed."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    close += [name for name in known if name.rpartition("/")[2] == word and name not in close]
    close += [name for name in known if close and word in name and name not in close]
    return (f"did you mean {' or '.join(map(repr, close))}? " if close else "") + f"allowed: {', '.join(sorted(known))}"
