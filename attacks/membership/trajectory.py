"""Loss trajectory: a classifier on the confidence in an example at every global model (after Liu et al. 2022, section 4)."""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from attacks import Attack
from privfl.adversaries import Adversary
from privfl.auditing.questions.membership import MembershipClaim
from privfl.errors import ModelError, ViewError
from privfl.running.knowledge import Knowledge
from privfl.running.views import ClientView, View


class Trajectory(Attack):
    """Does the confidence go over the rounds as for fresh examples, or as for candidates, half of which were trained on?

    The paper distils the target to get a trajectory, and learns from a shadow model's. A client has the global models, so that
    nothing is distilled. Shadow models keep no trajectories here, so that the classifier (logistic regression) learns to tell
    candidates from fresh examples, which are of the same distribution and of which none is a member. The odds that it is a
    candidate grow with the odds that it is a member; no coin is used (Elkan & Noto 2008). Each candidate is scored by a
    classifier that was fitted without it (five folds). If candidates differ from fresh examples in anything but membership, the
    attack finds that difference, which says nothing of the coins. Read ``membership/loss_over_rounds`` beside it, which fits
    nothing.

    The confidence is the task's, at the model that each round began with and at the final one.
    """

    adversary: ClassVar[Adversary] = "client"

    question: ClassVar[str] = "membership"

    threat: ClassVar[str] = "A client that kept every global model and has fresh data wants to know who was trained on."

    needs: ClassVar[str] = "every global model, fresh data"

    cost: ClassVar[str] = "a pass forward over candidates and fresh data in each round"

    def run(self, view: View, knowledge: Knowledge) -> MembershipClaim:
        """See :class:`attacks.Attack`.

        Raises:
            ModelError: an output is not finite.
            ViewError: there are too few candidates or fresh examples.
        """
        assert isinstance(view, ClientView)
        network, groups = knowledge.network, (knowledge.candidates, knowledge.population)
        if min(map(len, groups)) < _FOLDS:
            raise ViewError(f"{self.kind!r}: needs {_FOLDS} candidates and as many fresh examples; give more data")
        models = [*(view.model_before(number) for number in view.rounds()), view.final_model()]
        paths = [
            np.stack([network.task.confidence(network.logits(model_D, one.x), one.y_N) for model_D in models], axis=1)
            for one in groups
        ]
        path_NT, labels_N = np.concatenate(paths), np.arange(sum(map(len, groups))) < len(knowledge.candidates)
        if not np.isfinite(path_NT).all():
            raise ModelError(f"{self.kind!r}: a global model's outputs are not finite; training diverged: lower training.lr")
        classifier = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
        folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
        found_N = cross_val_predict(classifier, path_NT, labels_N, cv=folds, method="decision_function")
        return MembershipClaim({"candidates against fresh": np.asarray(found_N[labels_N], dtype=np.float64)})


_FOLDS: Final = 5
