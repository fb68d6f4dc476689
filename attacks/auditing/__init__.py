"""SHELF of audits: what do the canaries of a run refute of its promise?

An item is one module with one class that derives from :class:`Audit`. Its scores are judged by one of three questions, which
are never mixed: ``epsilon`` (lower bounds on ε, of any mechanism), ``noise`` (lower bounds that refute a noise multiplier of
the mechanism that the run says it used), and ``estimate`` (numbers that are no bounds).
"""

from __future__ import annotations

from attacks import Attack
from privfl.errors import ConfigError
from privfl.running.knowledge import Prospect


class Audit(Attack):
    """An audit: a score for each canary. It needs a run with canaries."""

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.Attack`: the run has canaries."""
        if prospect.canaries is None:
            raise ConfigError(
                f"canaries: {self.kind!r} scores canaries, and the run has none; train one that has by `privfl audit CONFIG`"
            )
        super().require_possible(prospect)
