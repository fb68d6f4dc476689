"""Quantile regression of the confidence on fresh examples (Bertran et al. 2023). No shadow models."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from attacks import Attack
from attacks.membership._usual import Usual, margins
from privfl.adversaries import Adversary
from privfl.auditing.questions.membership import MembershipClaim
from privfl.running.knowledge import Knowledge, ModelOutputs
from privfl.running.views import View


class Quantile(Attack):
    """How far above the confidence that is usual for such an input and label is the target's confidence?

    Boosted trees predict the mean µ(x) of the target's confidence s and the logarithm of its deviation σ(x), from the principal
    components of the inputs and the labels (section 4; the paper's Gaussian variant, which for images is a network). They are
    fitted on fresh examples that nobody trained on and that are no candidates. The score is (s − µ(x))/σ(x): each of its
    thresholds is a quantile for every x. s is the margin z_y − max of the others; without classes it is the task's confidence.

    The deviation is learned from errors on examples that µ was not fitted to (five folds). Inputs are flattened; principal
    components of tokens say little.

    Args:
        components: the number of principal components.
    """

    adversary: ClassVar[Adversary] = "external"

    question: ClassVar[str] = "membership"

    threat: ClassVar[str] = "An adversary with the final model and fresh data wants to know who was trained on."

    needs: ClassVar[str] = "the final model, fresh data with inputs"

    cost: ClassVar[str] = "a regression on fresh data, and a pass forward over it and the candidates"

    components: Annotated[int, Field(ge=1)] = 40

    def run(self, view: View, knowledge: Knowledge) -> MembershipClaim:
        """See :class:`attacks.Attack`."""
        network, candidates, population = knowledge.network, knowledge.candidates, knowledge.population
        final_D = view.final_model()
        target = ModelOutputs(network.logits(final_D, candidates.x), network.logits(final_D, population.x)).require_finite(
            "the target model"
        )
        usual = Usual(self.components, population, margins(network.task, target.population_PC, population.y_N))
        return MembershipClaim(
            {"mean and deviation": usual.score(candidates, margins(network.task, target.candidates_NC, candidates.y_N))}
        )
