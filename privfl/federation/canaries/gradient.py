"""Gradient canaries: a gradient of the auditor's choice in the place of an example's own (Nasr et al. 2021, section 4)."""

from __future__ import annotations

from privfl.config import ExperimentConfig
from privfl.federation.canaries._directed import DirectedCanaries
from privfl.tables import contradiction


class Gradient(DirectedCanaries):
    """Examples whose gradient is a vector in a direction of its own, before it is clipped, whatever the model is.

    It is the strongest canary that example-level privacy allows: in each batch that has it, it moves the sum by all of the
    clipping norm. ``direction``: an axis of its own for each (``dirac``), or ``random``. ``scale``: the length before the
    clip, in clipping norms; a clip that is not applied shows by it.
    """

    def check(self, config: ExperimentConfig) -> None:
        """See :class:`privfl.config.CanariesConfig`: gradients are clipped one by one, by an engine that plants them.

        Raises:
            PydanticCustomError: they are not.
        """
        if not hasattr(config.privacy, "max_grad_norm"):
            allowed = "'client'" if config.privacy.promises else "'mislabelled'"
            raise contradiction(
                "canaries.kind",
                self.kind,
                f"stands in the place of gradients that privacy.kind = 'example' clips, and privacy.kind is "
                f"{config.privacy.kind!r}; set canaries.kind = {allowed}",
            )
        if config.training.engine not in ("auto", "fused", "opacus"):
            raise contradiction(
                "training.engine",
                config.training.engine,
                "may not plant canaries.kind = 'gradient'; set 'auto', 'fused' or 'opacus', or canaries.kind = 'mislabelled'",
            )
