"""From a training procedure to scores: evidence, attacks. Pure functions around one seam.

The seam is :class:`Procedure`: whoever can train the target once can be asked to train it again on another draw of the
candidates. The harness never sees a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from attacks.membership import BoolArray, Evidence, FloatArray, LabelArray, LogitArray, MembershipAttack
from privfl.errors import ItemError, ModelError, first_line
from privfl.learning.tasks import Task
from privfl.learning.tasks.classification import CLASSIFICATION


@dataclass(frozen=True)
class Outputs:
    """One model's logits on the N candidates and on the P population examples."""

    candidates_NC: LogitArray
    population_PC: LogitArray


class Procedure(Protocol):
    """The target's own training procedure, to be run once more."""

    def __call__(self, member_N: BoolArray, stream_index: int) -> Outputs:
        """Train on the candidates that ``member_N`` names and return the model's outputs.

        Args:
            member_N: the candidates to train on; everything that is no candidate is as it was for the target.
            stream_index: names the run's own randomness; never the same for two shadows, nor the target's.
        """


def gather(
    target: Outputs,
    labels_N: LabelArray,
    population_labels_P: LabelArray,
    member_SN: BoolArray,
    train: Procedure,
    task: Task = CLASSIFICATION,
) -> Evidence:
    """Train the shadows and put together what the adversary holds.

    Args:
        target: the target's outputs.
        labels_N: the candidates' labels.
        population_labels_P: the population's labels.
        member_SN: from :func:`attacks.membership._coins.draw_memberships`; no rows, no shadows.
        train: called once per row, with the row's number as ``stream_index``.
        task: what the models learn.

    Raises:
        ModelError: a model's outputs are not finite.
    """
    shadows = [_finite(train(member_N, index), f"shadow model {index}") for index, member_N in enumerate(member_SN)]
    _finite(target, "the target model")
    return Evidence(
        labels_N=labels_N,
        logits_NC=target.candidates_NC,
        shadow_logits_SNC=_stacked([shadow.candidates_NC for shadow in shadows], target.candidates_NC),
        shadow_member_SN=member_SN,
        population_labels_P=population_labels_P,
        population_logits_PC=target.population_PC,
        population_shadow_logits_SPC=_stacked([shadow.population_PC for shadow in shadows], target.population_PC),
        task=task,
    )


def score_all(attacks: Iterable[MembershipAttack], evidence: Evidence) -> dict[str, dict[str, FloatArray]]:
    """Attack -> variant -> scores, in the order of the attacks.

    Raises:
        ItemError: an attack returned something else than a score per candidate by the name of each variant.
    """
    return {attack.kind: _named_scores(attack.kind, attack.score(evidence), len(evidence.labels_N)) for attack in attacks}


def _named_scores(attack: str, returned: object, candidates: int) -> dict[str, FloatArray]:
    """What an attack returned, as arrays of numbers. Decisions are scores: 1 says member and 0 says none."""
    shape = 'score() must return {name: scores}, for example {"my score": scores}, a score for each candidate'
    if not isinstance(returned, Mapping):
        raise ItemError(f"attack {attack!r}: score() returned a {type(returned).__name__} without a name; {shape}")
    if not returned:
        raise ItemError(f"attack {attack!r}: score() returned nothing; {shape}")
    found = {}
    for name, values in returned.items():
        try:
            scores_N = np.asarray(values).astype(np.float64, casting="same_kind")
        except (TypeError, ValueError, RuntimeError) as error:
            raise ItemError(f"attack {attack!r}, {name!r}: its scores are no numbers ({first_line(error)}); {shape}") from None
        if not isinstance(name, str) or scores_N.shape != (candidates,):
            raise ItemError(
                f"attack {attack!r}, {name!r}: its scores have the shape {scores_N.shape}, must be ({candidates},); {shape}"
            )
        if np.isnan(scores_N).any():
            raise ItemError(f"attack {attack!r}, {name!r}: {np.isnan(scores_N).sum()} of its scores are NaN; {shape}")
        found[name] = scores_N
    return found


def to_arrays(scores: Mapping[str, Mapping[str, FloatArray]], member_N: BoolArray) -> dict[str, FloatArray | BoolArray]:
    """What is kept beside the figures, for whoever wants to look again: ``member`` and ``attack: variant`` -> scores."""
    flat = {f"{attack}: {variant}": values for attack, variants in scores.items() for variant, values in variants.items()}
    return {"member": member_N, **flat}


def _finite(outputs: Outputs, whose: str) -> Outputs:
    for logits in (outputs.candidates_NC, outputs.population_PC):
        broken = np.count_nonzero(~np.isfinite(logits).reshape(len(logits), -1).all(axis=1))
        if broken:
            raise ModelError(f"{whose}: {broken} of {len(logits)} outputs are not finite; training diverged: lower training.lr")
    return outputs


def _stacked(logits: list[LogitArray], like: LogitArray) -> LogitArray:
    return np.stack(logits) if logits else np.zeros((0, *like.shape), dtype=np.float32)
