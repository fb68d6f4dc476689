"""Early stopping: ends a run after several rounds without a better loss on the clients' validation examples."""

from __future__ import annotations

import math
from collections.abc import Sequence

from privfl.config import EarlyStopping

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
