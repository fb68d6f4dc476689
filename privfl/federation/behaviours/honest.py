"""Every client does what the protocol says."""

from __future__ import annotations

from privfl.federation.behaviours import Behaviour


class Honest(Behaviour):
    """No client departs from the protocol."""

    def count(self, clients: int) -> int:  # noqa: ARG002
        """None."""
        return 0
