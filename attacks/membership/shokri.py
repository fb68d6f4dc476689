"""The shadow classifier, the first membership attack; a historical baseline (Shokri et al. 2017, section V)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from attacks.membership import BoolArray, Evidence, FloatArray, classes_of
from attacks.membership._sides import TwoSidedAttack, settled_order
from privfl.running.knowledge import Prospect


class Shokri(TwoSidedAttack):
    """For each class a classifier tells the outputs of shadow models on their members from those on other examples.

    The input is the log-probability of the label, then those of the other classes, sorted. The classifier is a logistic
    regression; the paper trains a small network on unsorted probabilities. One threshold holds for all examples of a class,
    however hard they are. A class without both kinds of outputs takes the classifier of all classes. Only for tasks of
    several classes.
    """

    by_signals: ClassVar[bool] = False

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.Attack`: the task has classes."""
        classes_of(self, prospect.network.task, np.zeros((1, *prospect.network.outputs), np.float32))
        super().require_possible(prospect)

    def score(self, evidence: Evidence) -> dict[str, FloatArray]:
        """See :class:`attacks.membership.MembershipAttack`.

        Raises:
            ConfigError: the task has no classes.
        """
        self.require_shadows(evidence.shadow_member_SN)
        order, labels_N = settled_order(evidence.signals.shadow_SN), evidence.labels_N.reshape(-1).astype(np.int64)
        target_NF, *shadows = (
            _features(classes_of(self, evidence.task, logits_NC), labels_N)
            for logits_NC in (evidence.logits_NC, *evidence.shadow_logits_SNC[order])
        )
        shadow_SNF, member_SN = np.stack(shadows), evidence.shadow_member_SN[order]
        scores_N = _fitted(shadow_SNF, member_SN).decision_function(target_NF)
        for label in np.unique(labels_N):
            own_N = labels_N == label
            if 0 < member_SN[:, own_N].sum() < member_SN[:, own_N].size:
                scores_N[own_N] = _fitted(shadow_SNF[:, own_N], member_SN[:, own_N]).decision_function(target_NF[own_N])
        return {"per class": np.asarray(scores_N, dtype=np.float64)}


def _features(log_NC: FloatArray, labels_N: NDArray[np.int64]) -> FloatArray:
    """The label's log-probability, then those of the other classes from the highest to the lowest; no less than −30."""
    of_label_NC = np.arange(log_NC.shape[1]) == labels_N[:, None]
    others_NC = -np.sort(-log_NC[~of_label_NC].reshape(len(log_NC), -1), axis=1)
    return np.asarray(np.maximum(np.column_stack([log_NC[of_label_NC], others_NC]), _LEAST))


def _fitted(shadow_SNF: FloatArray, member_SN: BoolArray) -> Pipeline:
    classifier: Pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(shadow_SNF.reshape(-1, shadow_SNF.shape[-1]), member_SN.ravel())
    return classifier


_LEAST = -30.0
