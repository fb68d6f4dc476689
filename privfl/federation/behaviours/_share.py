"""The setting ``share`` of all behaviours but honesty."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from privfl.federation.behaviours import Behaviour


class SharedBehaviour(Behaviour):
    """A behaviour of some clients. ``share`` is their share of all clients; their number is rounded and at least one."""

    share: Annotated[float, Field(gt=0, le=1)]

    def count(self, clients: int) -> int:
        """``share`` of the clients, rounded, and at least one."""
        return max(1, round(self.share * clients))
