"""Settings that are legal and hardly meant: one line for each, before the first round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from privfl.running.experiment import Experiment

WEAK_EPSILON: Final = 50.0
"""An ε above which a promise says next to nothing: the odds of a guess may change by a factor of exp(50)."""


def doubts(experiment: Experiment) -> list[str]:
    """Sentences about settings that are legal and hardly meant, each with the setting, its value and the way out."""
    config, largest = experiment.config, int(experiment.data.sizes().max())
    found = []
    batch = config.training.batch_size
    if batch > largest:
        found.append(
            f"training.batch_size = {batch}: is more than any client has (the largest has {largest:,} examples), so that "
            "each step takes all of a client's examples; lower it for several steps in an epoch"
        )
    target = getattr(config.privacy, "target_epsilon", None)
    if target is not None and target > WEAK_EPSILON:
        found.append(
            f"privacy.target_epsilon = {target:g}: is hardly a promise; values up to 10 are usual, and privacy.kind = 'none' "
            "is the honest name for no protection"
        )
    return found
