"""Honest clients: every client follows the protocol."""

from __future__ import annotations

from privfl.federation.behaviours import Behaviour


class Honest(Behaviour):
    """Honest behaviour: no client departs from the protocol."""

    def count(self, clients: int) -> int:  # noqa: ARG002
        """Zero."""
        return 0
