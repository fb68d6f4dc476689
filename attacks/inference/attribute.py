"""The value of a sensitive attribute of a record by the model's confidence (Fredrikson et al. 2014 and 2015; Yeom et al. 2018,
section 4; Mehnaz et al. 2022), beside imputation without the model (Jayaraman & Evans 2022).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt
from sklearn.ensemble import RandomForestClassifier

from attacks import Attack
from attacks._rounds import SharedMeasures
from privfl.adversaries import Adversary
from privfl.auditing.questions.attribute import AttributeClaim
from privfl.errors import ConfigError
from privfl.running.knowledge import Knowledge, LabelledExamples, Prospect, Shadows
from privfl.running.views import View

_MOST: Final = 64
"""The attribute may have so many values."""

FloatArray = NDArray[np.float64]


class Attribute(Attack):
    """Which value of the attribute makes the final model most confident of the record's true label?

    The attack knows the label and all of the record but the attribute. It tries the values that fresh examples have. Imputation
    is a random forest on fresh examples (100 trees, 5 examples in a leaf). It guesses the attribute from the rest of the record
    and the label, and never sees the model.

    Args:
        columns: the places of the attribute in an example's inputs, from 0: those of all numbers of a one-hot category, or that
            of one number with few values.

    Variants:
        ``confidence``: the value with the highest log p_y.
        ``confidence and prior``: log p_y + log of the value's share among fresh examples.
        ``confidence and imputation``: log p_y + log of its probability by imputation.
    """

    adversary: ClassVar[Adversary] = "external"

    question: ClassVar[str] = "attribute"

    threat: ClassVar[str] = "An adversary with the final model and most of a record wants to know a sensitive attribute of it."

    needs: ClassVar[str] = "the final model, the rest of the record and its label, fresh examples"

    cost: ClassVar[str] = "a pass forward over the candidates for each value"

    columns: Annotated[tuple[NonNegativeInt, ...], Field(strict=False)] = ()

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.Attack`: the data are a table that has these columns."""
        if len(prospect.input_shape) != 1:
            raise ConfigError(
                f"data: {self.kind!r} needs a table, and these inputs have the shape {prospect.input_shape}; take this attack "
                "away"
            )
        width = prospect.input_shape[0]
        if not self.columns or max(self.columns) >= width or len(set(self.columns)) < len(self.columns):
            raise ConfigError(
                f"attacks.run: {self.kind!r} has columns = {list(self.columns)}, must be different places among "
                f'{width} inputs, from 0 to {width - 1}; set attacks.run=[{{kind="{self.kind}",columns=[0]}}]'
            )
        super().require_possible(prospect)

    def blinded(self, knowledge: Knowledge) -> Knowledge:
        """See :class:`attacks.Attack`: the candidates have zeros for the attribute, and no model's outputs on them are left."""
        x = knowledge.candidates.x[:].clone()
        x[:, list(self.columns)] = 0.0
        candidates, network = replace(knowledge.candidates, x=x), knowledge.network
        nobody = np.zeros((0, len(candidates)), np.bool_)
        # All else that is known of the candidates was computed from whole records.
        return Knowledge(
            network=network,
            candidates=candidates,
            population=knowledge.population,
            shadows=Shadows.of(nobody, [], len(knowledge.population), network.outputs),
            protocol=knowledge.protocol,
            measures=SharedMeasures(network, candidates, every=False),
        )

    def run(self, view: View, knowledge: Knowledge) -> AttributeClaim:
        """See :class:`attacks.Attack`.

        Raises:
            ConfigError: fresh examples have one value of the attribute, or too many.
        """
        columns, candidates, final_D = list(self.columns), knowledge.candidates, view.final_model()
        values_Vc, place_P = self._values(knowledge.population)
        x, surprise = candidates.x[:].clone(), []
        for value_c in values_Vc:
            x[:, columns] = torch.from_numpy(value_c).to(x)
            confidence_N = knowledge.network.task.confidence(knowledge.network.logits(final_D, x), candidates.y_N)
            surprise.append(np.logaddexp(0.0, -confidence_N))
        log_NV = -np.stack(surprise, 1)
        prior_V = np.bincount(place_P, minlength=len(values_Vc)) / len(place_P)
        imputed_NV = self._imputed(knowledge, place_P, len(values_Vc))
        scores = {
            "confidence": log_NV,
            "confidence and prior": log_NV + np.log(prior_V),
            "confidence and imputation": log_NV + np.log(imputed_NV + 1e-3 * prior_V),
        }
        return AttributeClaim(
            np.array(columns, dtype=np.int64),
            values_Vc[imputed_NV.argmax(1)],
            {variant: values_Vc[score_NV.argmax(1)] for variant, score_NV in scores.items()},
        )

    def _values(self, population: LabelledExamples) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The attribute's values among fresh examples, of shape (V, c), and which of them each example has."""
        known_Pc = population.x[:][:, list(self.columns)].cpu().numpy()
        values_Vc, place_P = np.unique(known_Pc, axis=0, return_inverse=True)
        if not 1 < len(values_Vc) <= _MOST:
            raise ConfigError(
                f"attacks.run: {self.kind!r} has columns = {list(self.columns)}, which have {len(values_Vc)} different values "
                f"among fresh examples, must be from 2 to {_MOST}; name the columns of a category"
            )
        return values_Vc, place_P.reshape(-1)

    def _imputed(self, knowledge: Knowledge, place_P: NDArray[np.int64], values: int) -> FloatArray:
        """The probability of each value for each candidate by a forest that never saw the model, of shape (N, V)."""

        def rest(examples: LabelledExamples) -> NDArray[Any]:
            x = np.delete(examples.x[:].cpu().numpy(), list(self.columns), 1)
            return np.hstack([x, examples.y_N.reshape(len(x), -1).astype(x.dtype)])

        forest = RandomForestClassifier(100, min_samples_leaf=5, random_state=0)
        forest.fit(rest(knowledge.population), place_P)
        found_NV = np.zeros((len(knowledge.candidates), values))
        found_NV[:, forest.classes_] = forest.predict_proba(rest(knowledge.candidates))
        return found_NV
