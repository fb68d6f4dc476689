"""An edge-case backdoor: attackers give a wrong label to inputs that nobody else has (Wang et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import NonNegativeInt
from torch import Tensor

from privfl.data.input_store import InputStore
from privfl.errors import ConfigError
from privfl.federation.behaviours import Triggered
from privfl.federation.behaviours._backdoor import require_class, require_images
from privfl.federation.behaviours._colluding import JointBehaviour
from privfl.seeding import Seed
from privfl.tables import Size


class EdgeCase(JointBehaviour):
    """Edge cases: attackers turn their images of class ``source`` upside down and label them ``target``.

    The authors take rare images of other data sets, and project onto the ball after each epoch. Here each attacker projects its
    payload once. An attacker without images of that class trains as usual.

    ``source``, ``target``: places of two classes, from 0. In Fashion-MNIST 9 are boots.
    ``max_norm``: the largest norm of an attacker's payload; None: there is no limit.
    """

    source: NonNegativeInt = 9
    target: NonNegativeInt = 0
    max_norm: Size | None = None

    def uploads(self, honest: Mapping[int, Tensor], clients: int) -> dict[int, Tensor]:  # noqa: ARG002
        """Each attacker's own payload, projected onto the ball."""
        if self.max_norm is None:
            return dict(honest)
        return {
            client: joined_D * (self.max_norm / joined_D.norm().clamp_min(self.max_norm)) for client, joined_D in honest.items()
        }

    def poisoned_pool(
        self,
        x: InputStore,
        y: Tensor,
        rows: Sequence[Tensor],
        classes: int,
        stream: Seed,  # noqa: ARG002
    ) -> tuple[InputStore, Tensor]:
        """See :class:`privfl.federation.behaviours.Behaviour`.

        Raises:
            ConfigError: the inputs are no images, or there are no two such classes.
        """
        require_images(self.kind, x, y)
        require_class("source", self.source, classes)
        require_class("target", self.target, classes)
        if self.source == self.target:
            raise ConfigError(f"behaviour.source = {self.source}: is the target too; set another one")
        kept, wrong_y = x.kept.clone(), y.clone()
        for rows_n in rows:
            own_n = rows_n.to(y.device)
            chosen = own_n[y[own_n] == self.source]
            kept[chosen] = kept[chosen].flip(2, 3)
            wrong_y[chosen] = self.target
        return x.replaced(kept), wrong_y

    def triggered(self, x: InputStore, y: Tensor) -> Triggered:
        """All images upside down; those of class ``source`` count."""
        return Triggered(x.replaced(x.kept.flip(2, 3)), self.target, y == self.source)
