"""The confidences by which an auditor estimates what stronger attacks would find, without shadow models (arXiv 2510.19773)."""

from __future__ import annotations

from typing import ClassVar

from attacks import Attack
from privfl.adversaries import Adversary
from privfl.auditing.questions._scores import ScoresClaim
from privfl.running.knowledge import Knowledge, ModelOutputs
from privfl.running.views import View


class ModelLevel(Attack):
    """The task's confidence in each candidate; the question finds in it that the members' largest losses are gone.

    Training moves examples from the tail of the losses to its head. The share of the others whose loss is above (nearly) all
    members' therefore says how many members an attack with shadow models could find. The threshold is one of members, so that
    this is no attack: the question computes it, when the truth is open.

    Variants:
        ``confidence``: minus the loss, by the task's confidence.
    """

    adversary: ClassVar[Adversary] = "external"

    question: ClassVar[str] = "model_level"

    threat: ClassVar[str] = "An auditor with the final model and its members wants to know what stronger attacks would find."

    needs: ClassVar[str] = "the final model"

    cost: ClassVar[str] = "one pass over the candidates"

    def run(self, view: View, knowledge: Knowledge) -> ScoresClaim:
        """See :class:`attacks.Attack`."""
        network, candidates = knowledge.network, knowledge.candidates
        logits_NC = network.logits(view.final_model(), candidates.x)
        target = ModelOutputs(logits_NC, logits_NC).require_finite("the target model")
        return ScoresClaim({"confidence": network.task.confidence(target.candidates_NC, candidates.y_N)})
