"""Lower bound on ε from the final model, by confidences beside those that are usual (the idea of arXiv 2506.15349)."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field

from attacks.auditing import Audit
from attacks.membership._usual import Usual, margins
from privfl.adversaries import Adversary
from privfl.auditing.questions._scores import ScoresClaim
from privfl.errors import ConfigError
from privfl.running.knowledge import Knowledge, LabelledExamples, ModelOutputs, Prospect
from privfl.running.views import View


class OneRunQuantile(Audit):
    """Guess that a canary was trained on if the final model is more confident of its label than is usual for such an input.

    Boosted trees learn mean µ(x) and deviation σ(x) of the confidence s on fresh examples, which are no canaries, and the
    score is the quantile of a normal distribution, in the order of (s − µ(x))/σ(x), as in ``membership/quantile``. Canaries
    may have labels that are not their own; therefore each fresh example comes twice, the second time with a label drawn at
    random, if the task has classes. No coin is used, so that the bound is that of the one-run audit with guesses fixed
    beforehand.

    Args:
        components: the number of principal components of the inputs.

    Variants:
        ``quantile``: as above.
    """

    adversary: ClassVar[Adversary] = "external"

    question: ClassVar[str] = "epsilon"

    threat: ClassVar[str] = "An auditor that planted canaries and has fresh data wants to know how large ε must be."

    needs: ClassVar[str] = "canaries that are inputs, fresh data with inputs"

    cost: ClassVar[str] = "a regression on fresh data, and a pass over it and the canaries"

    components: Annotated[int, Field(ge=1)] = 40

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.auditing.Audit`: canaries are inputs."""
        super().require_possible(prospect)
        if getattr(prospect.canaries, "direction", None) is not None:
            raise ConfigError(
                f"canaries: {self.kind!r} looks at inputs, and these canaries are directions; set canaries.kind = 'mislabelled'"
            )

    def run(self, view: View, knowledge: Knowledge) -> ScoresClaim:
        """See :class:`attacks.Attack`."""
        network, candidates, fresh = knowledge.network, knowledge.candidates, _relabelled(knowledge)
        final_D = view.final_model()
        outputs_PC = network.logits(final_D, knowledge.population.x)
        target = ModelOutputs(network.logits(final_D, candidates.x), outputs_PC).require_finite("the target model")
        repeated_PC = np.concatenate([target.population_PC] * (len(fresh) // len(outputs_PC)))
        usual = Usual(self.components, fresh, margins(network.task, repeated_PC, fresh.y_N))
        scores_N = usual.score(candidates, margins(network.task, target.candidates_NC, candidates.y_N))
        return ScoresClaim({"quantile": scores_N})


def _relabelled(knowledge: Knowledge) -> LabelledExamples:
    """Fresh examples, and the same once more with each other's labels; without classes those with their own labels alone."""
    population, network = knowledge.population, knowledge.network
    if network.task.log_probabilities(np.zeros((1, *network.outputs), np.float32)) is None:
        return population
    drawn_P = np.random.default_rng(0).permutation(population.y_N)
    return LabelledExamples(torch.cat([population.x[:]] * 2), np.concatenate([population.y_N, drawn_P]))
