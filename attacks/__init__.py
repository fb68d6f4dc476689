"""SHELVES of attacks: ``membership/``, and later ``reconstruction/``, ``inference/``, ``auditing/``.

An attack is one module with one class that derives from :class:`Attack`; its name in a configuration is
``shelf/file``, for example ``membership/lira``. It states its adversary and reads nothing but that adversary's view.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from privfl.adversaries import Adversary
from privfl.running.experiment import Experiment
from privfl.tables import Item


class Attack(Item, ABC):
    """The contract that all shelves share; each shelf's ``__init__`` adds what its attacks are given and return."""

    adversary: ClassVar[Adversary]
    """Whose view the attack reads."""

    threat: ClassVar[str] = ""
    """One sentence: what the adversary knows, and what it wants to know. Every item of this shelf has one."""

    least_shadows: ClassVar[int] = 0
    """How many shadow models it needs. A configuration with fewer is refused when it is loaded."""

    @abstractmethod
    def require_possible(self, experiment: Experiment) -> None:
        """Refuse a run that the attack will not be able to attack; asked before its first round.

        Raises:
            ConfigError: names the setting, and says what to change.
        """
