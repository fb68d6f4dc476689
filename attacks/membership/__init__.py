"""SHELF of membership attacks: was this example trained on?

An item is one module with one class that derives from :class:`attacks.Attack` and answers the question ``membership``; its
fields are its settings. An attack that needs no more than models' outputs derives from :class:`MembershipAttack`: it is given
:class:`Evidence`, which does not hold the target's membership, and returns a score per candidate and variant.

Suffixes: N candidates, P population examples, S shadow models, C outputs for one example (in more
dimensions than one where a task has more).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from attacks import Attack
from privfl.adversaries import Adversary
from privfl.auditing.false_positives import FalsePositives
from privfl.auditing.questions.membership import MembershipClaim
from privfl.errors import ConfigError
from privfl.learning.tasks import Task
from privfl.learning.tasks.classification import CLASSIFICATION
from privfl.running.knowledge import Knowledge, ModelOutputs
from privfl.running.predictions import Reference
from privfl.running.views import View

FloatArray = NDArray[np.float64]
LogitArray = NDArray[np.float32]
LabelArray = NDArray[np.int64] | NDArray[np.float32]
BoolArray = NDArray[np.bool_]

FEWEST_PSEUDO_TARGETS: Final = 16
"""The fewest shadow models by which false positives of single examples are counted."""

MOST_PSEUDO_TARGETS: Final = 64
"""The most shadow models that play the target."""


@dataclass(frozen=True)
class Signals:
    """The signal φ that attacks rank by, the task's confidence in the true label; in float64.

    Args:
        target_N: the target's, on the candidates.
        shadow_SN: each shadow's.
        population_P: the target's, on the population.
        population_shadow_SP: each shadow's.
    """

    target_N: FloatArray
    shadow_SN: FloatArray
    population_P: FloatArray
    population_shadow_SP: FloatArray


@dataclass(frozen=True)
class Evidence:
    """A membership adversary's evidence: outputs of the target and of shadows, and which shadow trained on which candidate.

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
        population_member_SP: the population examples that each shadow was trained on; None: none of them.
        given: the signals of these outputs, if they were computed before.
        reference: outputs of a shadow model on examples of its own; None if there are none.
    """

    labels_N: LabelArray
    logits_NC: LogitArray
    shadow_logits_SNC: LogitArray
    shadow_member_SN: BoolArray
    population_labels_P: LabelArray
    population_logits_PC: LogitArray
    population_shadow_logits_SPC: LogitArray
    task: Task = CLASSIFICATION
    population_member_SP: BoolArray | None = None
    given: Signals | None = None
    reference: Reference | None = None

    @classmethod
    def of(cls, view: View, knowledge: Knowledge) -> Evidence:
        """The outputs of the final model that a view shows, beside those of the shadow models.

        Raises:
            ModelError: the final model's outputs are not finite.
            ViewError: the run has not finished.
        """
        candidates, population, shadows = knowledge.candidates, knowledge.population, knowledge.shadows
        final_D = view.final_model()
        target = ModelOutputs(
            knowledge.network.logits(final_D, candidates.x), knowledge.network.logits(final_D, population.x)
        ).require_finite("the target model")
        return cls(
            labels_N=candidates.y_N,
            logits_NC=target.candidates_NC,
            shadow_logits_SNC=shadows.candidates_SNC,
            shadow_member_SN=shadows.member_SN,
            population_labels_P=population.y_N,
            population_logits_PC=target.population_PC,
            population_shadow_logits_SPC=shadows.population_SPC,
            task=knowledge.network.task,
        )

    @cached_property
    def signals(self) -> Signals:
        """The signals of all outputs, computed once for all attacks, a model at a time."""
        if self.given is not None:
            return self.given
        labels_N, labels_P, confidence = self.labels_N, self.population_labels_P, self.task.confidence
        shadow_SN, shadow_SP = (np.empty(one.shape[:2]) for one in (self.shadow_logits_SNC, self.population_shadow_logits_SPC))
        for shadow in range(len(self.shadow_member_SN)):
            shadow_SN[shadow] = confidence(self.shadow_logits_SNC[shadow], labels_N)
            shadow_SP[shadow] = confidence(self.population_shadow_logits_SPC[shadow], labels_P)
        return Signals(
            confidence(self.logits_NC, labels_N), shadow_SN, confidence(self.population_logits_PC, labels_P), shadow_SP
        )

    def with_target(self, shadow: int) -> Evidence:
        """The same evidence about one of the shadows, beside the others.

        Only its signals can be used: the other shadows' outputs are not copied, and stand there as NaN.
        """
        signals, others = self.signals, np.arange(len(self.shadow_member_SN)) != shadow
        unread = (
            np.broadcast_to(np.float32(np.nan), (len(others) - 1, *one.shape[1:]))
            for one in (self.shadow_logits_SNC, self.population_shadow_logits_SPC)
        )
        return replace(
            self,
            logits_NC=self.shadow_logits_SNC[shadow],
            shadow_logits_SNC=next(unread),
            shadow_member_SN=self.shadow_member_SN[others],
            population_logits_PC=self.population_shadow_logits_SPC[shadow],
            population_shadow_logits_SPC=next(unread),
            population_member_SP=None if self.population_member_SP is None else self.population_member_SP[others],
            given=Signals(
                signals.shadow_SN[shadow],
                signals.shadow_SN[others],
                signals.population_shadow_SP[shadow],
                signals.population_shadow_SP[others],
            ),
        )

    def __post_init__(self) -> None:
        candidates, *shape = self.logits_NC.shape
        population, shadows = len(self.population_labels_P), len(self.shadow_member_SN)
        assert len(self.labels_N) == candidates
        assert self.shadow_logits_SNC.shape == (shadows, candidates, *shape)
        assert self.shadow_member_SN.shape == (shadows, candidates)
        assert self.population_logits_PC.shape == (population, *shape)
        assert self.population_shadow_logits_SPC.shape == (shadows, population, *shape)


class MembershipAttack(Attack):
    """A membership attack that needs outputs only: those of the final model and of shadow models."""

    adversary: ClassVar[Adversary] = "external"

    question: ClassVar[str] = "membership"

    needs_population: ClassVar[bool] = False
    """Whether its scores mean nothing without fresh examples. A run always has some; predictions from elsewhere may not."""

    takes_reference: ClassVar[bool] = False
    """Whether a shadow model's outputs on examples of its own stand in for shadow models."""

    by_signals: ClassVar[bool] = False
    """Whether :meth:`score` takes the signals of the evidence and no outputs. If so, shadow models also play the target,
    and the false positives of each example are counted.
    """

    def run(self, view: View, knowledge: Knowledge) -> MembershipClaim:
        """See :class:`attacks.Attack`: the scores that :meth:`score` gives to the evidence."""
        return self.claim(Evidence.of(view, knowledge))

    def claim(self, evidence: Evidence) -> MembershipClaim:
        """The scores, and the false positives of each example if there are shadow models enough to count them."""
        scores = self.score(evidence)
        if not self.by_signals or len(evidence.shadow_member_SN) < FEWEST_PSEUDO_TARGETS:
            return MembershipClaim(scores)
        played = self.as_targets(evidence)
        out_MN = ~evidence.shadow_member_SN[:MOST_PSEUDO_TARGETS]
        return MembershipClaim(scores, {variant: FalsePositives.of(scores_MN, out_MN) for variant, scores_MN in played.items()})

    @abstractmethod
    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """Variant -> one score per candidate, of shape (N,), higher means member."""

    def as_targets(self, evidence: Evidence) -> dict[str, FloatArray]:
        """Variant -> the scores with each shadow as the target and the others as its shadows, of shape (M, N).

        M is the number of shadows, at most ``MOST_PSEUDO_TARGETS``.
        """
        shadows = range(min(len(evidence.shadow_member_SN), MOST_PSEUDO_TARGETS))
        scores = [self.score(evidence.with_target(shadow)) for shadow in shadows]
        return {variant: np.stack([one[variant] for one in scores]) for variant in scores[0]}


def classes_of(attack: Attack, task: Task, logits_NC: LogitArray) -> FloatArray:
    """The log-probability of each class, of shape (N, C), for an attack that needs them.

    Raises:
        ConfigError: the task has no classes.
    """
    log_NC = task.log_probabilities(logits_NC)
    if log_NC is None:
        raise ConfigError(f"attacks.run: {attack.kind!r} needs one class of several, and task = {task.kind!r}: take it out")
    return log_NC
