"""Rules that end a run before its last round: early stopping by a validation loss, and a target on the test part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from privfl.config import EarlyStopping, Target
from privfl.learning.tasks import Figure
from privfl.records import Interval

_CAVEAT = "which round that was depends on the clients' examples, and so tells of them; nothing is promised about it"


def stop_reason(losses: Sequence[float | None], settings: EarlyStopping) -> str | None:
    """The reason why a run ends with the last of these rounds; None if it goes on.

    Args:
        losses: the validation loss after each round; None if the model did not change, and that round then does not count.
        settings: the number of rounds to wait for a better loss, and the smallest improvement that counts.
    """
    best, at, waited = math.inf, None, 0
    for number, loss in enumerate(losses):
        if loss is None:
            continue
        if loss < best - settings.tolerance:
            best, at, waited = loss, number, 0
        else:
            waited += 1
    if waited < settings.patience:
        return None
    return f"no validation loss in {waited} rounds was better than {best:.4g}, that of round {at}; {_CAVEAT}"


def reached(metrics: Mapping[str, Interval], target: Target, figures: Mapping[str, Figure]) -> str | None:
    """The reason why a run ends with these metrics on the test part; None if it goes on, as it does without that metric."""
    found = metrics.get(target.metric)
    if found is None:
        return None
    above = figures[target.metric].higher_is_better
    if not (found.value >= target.value if above else found.value <= target.value):
        return None
    return f"the test part's {target.metric} is {found.value:.4g}, and the target was {target.value:g}"
