"""SHELF of membership attacks on the final model: was this example trained on?

An item is one module with one class that derives from :class:`MembershipAttack`; its fields are its settings. It is
given :class:`Evidence`, which does not hold the target's membership, and returns a score per candidate and variant.

Suffixes: N candidates, P population examples, S shadow models, C outputs for one example (in more
dimensions than one where a task has more).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from attacks import Attack
from attacks.membership._coins import Candidates
from privfl.adversaries import Adversary
from privfl.errors import ConfigError, ViewError
from privfl.learning.tasks import Task
from privfl.learning.tasks.classification import CLASSIFICATION
from privfl.running.experiment import Experiment

FloatArray = NDArray[np.float64]
LogitArray = NDArray[np.float32]
LabelArray = NDArray[np.int64] | NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Evidence:
    """What a membership adversary holds.

    The population is fresh examples of the same distribution that no model, target or shadow, was trained on. A shadow
    was trained by the target's own procedure, on its own draw of the candidates, from its own randomness.

    Args:
        labels_N: the candidates' labels, shape (N, ...).
        logits_NC: the target's outputs on the candidates.
        shadow_logits_SNC: each shadow's outputs on the candidates; S may be 0.
        shadow_member_SN: which candidates each shadow was trained on.
        population_labels_P: the population's labels.
        population_logits_PC: the target's outputs on the population.
        population_shadow_logits_SPC: each shadow's outputs on the population.
        task: turns outputs and labels into the signal that attacks rank by.
    """

    labels_N: LabelArray
    logits_NC: LogitArray
    shadow_logits_SNC: LogitArray
    shadow_member_SN: BoolArray
    population_labels_P: LabelArray
    population_logits_PC: LogitArray
    population_shadow_logits_SPC: LogitArray
    task: Task = CLASSIFICATION

    def __post_init__(self) -> None:
        candidates, *shape = self.logits_NC.shape
        population, shadows = len(self.population_labels_P), len(self.shadow_member_SN)
        assert len(self.labels_N) == candidates
        assert self.shadow_logits_SNC.shape == (shadows, candidates, *shape)
        assert self.shadow_member_SN.shape == (shadows, candidates)
        assert self.population_logits_PC.shape == (population, *shape)
        assert self.population_shadow_logits_SPC.shape == (shadows, population, *shape)


class MembershipAttack(Attack):
    """The contract of this shelf."""

    adversary: ClassVar[Adversary] = "external"

    def require_possible(self, experiment: Experiment) -> None:
        """See :class:`attacks.Attack`: there are candidates, members and others, and shadow models of both kinds for them."""
        if self.adversary != "external":
            raise ViewError(
                f"adversary {self.adversary!r} of {self.kind!r}: membership attacks on the final model are the 'external' one's"
            )
        candidates = Candidates.of(experiment)
        candidates.require_both_kinds()
        self.require_shadows(candidates.shadows(experiment.config.attacks.shadow_models))

    def require_shadows(self, member_SN: BoolArray) -> None:
        """Refuse shadow models that are too few, or that all have the same candidates.

        Args:
            member_SN: the candidates that each is trained on.

        Raises:
            ConfigError: that.
        """
        if len(member_SN) < self.least_shadows:
            raise ConfigError(
                f"attacks.shadow_models = {len(member_SN)}: {self.kind!r} needs at least {self.least_shadows}; raise it"
            )

    @abstractmethod
    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """Variant -> one score per candidate, of shape (N,), higher means member."""
