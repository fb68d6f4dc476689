"""The setting that all behaviours but honesty have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from privfl.federation.behaviours import Behaviour


class SharedBehaviour(Behaviour):
    """``share``: the share of all clients that behave so, rounded, and at least one."""

    share: Annotated[float, Field(gt=0, le=1)]

    def count(self, clients: int) -> int:
        """See the class."""
        return max(1, round(self.share * clients))
