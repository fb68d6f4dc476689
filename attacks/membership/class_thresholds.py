"""Decisions by a threshold for each class, learned on shadow models (Song & Mittal 2021, sections 3.1 and 3.2)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from attacks.membership import BoolArray, Evidence, FloatArray, LabelArray, LogitArray, MembershipAttack, classes_of
from attacks.membership._entropies import entropy, modified_entropy
from attacks.membership._sides import surprise
from privfl.auditing import best_threshold, roc
from privfl.errors import ConfigError
from privfl.learning.tasks import Task


class ClassThresholds(MembershipAttack):
    """A decision, 1 for a member and 0 for another, by thresholds that are best on shadow models, one for each class.

    A class whose examples in the shadow models are all members, or all others, takes the threshold of all classes together. It
    is only for tasks of several classes. The AUC of a decision is its balanced accuracy, the figure that the paper reports.

    Variants:
        ``correctness``: the model is right (no threshold).
        ``confidence``: the probability of the true class (equation 5).
        ``entropy``: the entropy of the output, whatever the label is (equation 6).
        ``modified entropy``: the entropy that knows the label (equation 9).
    """

    threat: ClassVar[str] = "An adversary with the final model who trains others like it wants to know who was trained on."

    needs: ClassVar[str] = "the final model, a shadow model; a task with classes"

    cost: ClassVar[str] = "the training of the shadow models"

    least_shadows: ClassVar[int] = 1

    takes_reference: ClassVar[bool] = True

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`.

        Raises:
            ConfigError: the task has no classes, or there is no shadow model.
        """
        reference = evidence.reference
        if reference is None:
            self.require_shadows(evidence.shadow_member_SN)
        target = self._metrics(evidence.logits_NC, evidence.labels_N, evidence.task)
        shadows = zip(evidence.shadow_logits_SNC, evidence.shadow_member_SN, strict=True)
        parts = [(logits_NC, evidence.labels_N, member_N) for logits_NC, member_N in shadows]
        if reference is not None:
            parts.append((reference.logits_RC, reference.labels_R, reference.member_R))
        if all(member_R.all() for _, _, member_R in parts) or not any(member_R.any() for _, _, member_R in parts):
            raise ConfigError("attacks.shadow_models: no candidate is left out of, or in, any shadow; raise it or data.holdout")
        known = [self._metrics(logits_RC, labels_R, evidence.task) for logits_RC, labels_R, _ in parts]
        labels_R, member_R = (np.concatenate([part[place] for part in parts]) for place in (1, 2))
        right_N = (evidence.logits_NC.argmax(axis=1) == evidence.labels_N).astype(np.float64)
        found = {"correctness": right_N}
        for name, metric_N in target.items():
            metric_R = np.concatenate([one[name] for one in known])
            found[name] = decided(metric_N, evidence.labels_N, metric_R, labels_R, member_R)
        return found

    def _metrics(self, logits_NC: LogitArray, labels_N: LabelArray, task: Task) -> dict[str, FloatArray]:
        log_NC = classes_of(self, task, logits_NC)
        margin_N = task.confidence(logits_NC, labels_N)
        return {
            "confidence": -surprise(margin_N),
            "entropy": -entropy(log_NC),
            "modified entropy": -modified_entropy(log_NC, labels_N, margin_N),
        }


def decided(
    metric_N: FloatArray, labels_N: LabelArray, metric_R: FloatArray, labels_R: LabelArray, member_R: BoolArray
) -> FloatArray:
    """1 for each candidate whose metric reaches the threshold of its class, else 0.

    Args:
        metric_N: of the candidates; higher means member.
        labels_N: their classes.
        metric_R: of R examples whose membership in a shadow model is known.
        labels_R: their classes.
        member_R: whether the shadow model trained on each of them.
    """
    overall = best_threshold(roc(metric_R, member_R))
    found_N = np.zeros(len(metric_N))
    for label in np.unique(labels_N):
        here_N, here_R = labels_N == label, labels_R == label
        both = member_R[here_R].any() and not member_R[here_R].all()
        threshold = best_threshold(roc(metric_R[here_R], member_R[here_R])) if both else overall
        found_N[here_N] = metric_N[here_N] >= threshold
    return found_N
