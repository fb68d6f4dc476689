"""The loss attack on personal models: members have a smaller loss under their client's own model. No shadow models."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from attacks import Attack
from attacks.membership._entropies import modified_entropy
from attacks.membership._sides import surprise
from privfl.adversaries import Adversary
from privfl.auditing.questions.membership import MembershipClaim
from privfl.errors import ModelError
from privfl.running.knowledge import Knowledge, LogitArray
from privfl.running.views import RecipientView, View


class PersonalLoss(Attack):
    """One threshold for all candidates, on the output of the own model of each candidate's client.

    The final model answers for the candidates of a client that has no model of its own. ``membership/loss`` asks the final
    model about the same candidates.

    Variants:
        ``loss``: minus the loss under the client's own model (Yeom 2018, section 3.2).
        ``modified entropy``: minus the entropy that knows the label (Song & Mittal 2021, equation 8); only
            if an example has one class of several.
        ``loss drop``: the loss under the final model minus that under the client's own, which takes out how hard an example is
            (Watson 2022, equation 2, with the final model for the reference).
    """

    adversary: ClassVar[Adversary] = "recipient"

    question: ClassVar[str] = "membership"

    threat: ClassVar[str] = (
        "Someone to whom a client publishes its own model wants to know whether the client trained it on an example."
    )

    needs: ClassVar[str] = "the final model and the clients' own models"

    cost: ClassVar[str] = "two passes forward over the candidates"

    def run(self, view: View, knowledge: Knowledge) -> MembershipClaim:
        """See :class:`attacks.Attack`."""
        assert isinstance(view, RecipientView)
        network, candidates = knowledge.network, knowledge.candidates
        final_NC = network.logits(view.final_model(), candidates.x)
        own_NC = final_NC.copy()
        for client, model_D in view.personal_models().items():
            rows_N = np.flatnonzero(candidates.client_N == client)
            if len(rows_N):
                own_NC[rows_N] = network.logits(model_D, candidates.x[torch.from_numpy(rows_N).to(candidates.x.device)])
        own_N, final_N = (_margins(knowledge, logits_NC, whose) for logits_NC, whose in ((own_NC, "own"), (final_NC, "final")))
        loss_N = surprise(own_N)
        scores = {"loss": -loss_N, "loss drop": surprise(final_N) - loss_N}
        log_NC = network.task.log_probabilities(own_NC)
        if log_NC is not None:
            scores["modified entropy"] = -modified_entropy(log_NC, candidates.y_N, own_N)
        return MembershipClaim(scores)


def _margins(knowledge: Knowledge, logits_NC: LogitArray, whose: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    if not np.isfinite(logits_NC).all():
        raise ModelError(
            f"attacks.run: an output of a client's {whose} model is not finite; training diverged: lower training.lr"
        )
    return knowledge.network.task.confidence(logits_NC, knowledge.candidates.y_N)
