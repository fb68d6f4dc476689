"""The scores of canaries, higher for those that were trained on, from what an adversary sees."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.membership._gradients import Gradients
from privfl.errors import ViewError
from privfl.running.knowledge import Knowledge
from privfl.running.views import ServerView, View

FloatArray = NDArray[np.float64]
Scores = dict[str, FloatArray]


def of_final_model(view: View, knowledge: Knowledge) -> Scores:
    """From the final model alone.

    Canaries that are inputs: ``loss``, minus the loss of each. Canaries that are directions: ``direction``, how far the model
    moved in the direction of each from its beginning, which is public.
    """
    final_D = view.final_model()
    if (known := knowledge.directions) is not None:
        return {"direction": known.signals((final_D - known.initial_D.cpu())[None])[0]}
    candidates, network = knowledge.candidates, knowledge.network
    return {"loss": np.asarray(network.task.confidence(network.logits(final_D, candidates.x), candidates.y_N))}


def of_rounds(view: View, knowledge: Knowledge) -> Scores:
    """From every round that the server saw, summed over the rounds in which a canary's client was in the sum.

    ``sum``: the inner product of the weighted sum of updates with the canary's direction; that of a canary that is an input is
    minus its gradient at the model that the round began with. ``update``: the same with the noised update of the canary's
    client alone, if the server sees it.

    Raises:
        ViewError: no update arrived in any round.
    """
    assert isinstance(view, ServerView)
    client_N, scores = knowledge.candidates.client_N, dict[str, FloatArray]()
    for number in view.rounds():
        survivors = view.survivors(number)
        if not survivors:
            continue
        here = np.flatnonzero(np.isin(client_N, survivors))
        sum_D, _ = view.sums(number)
        _add(scores, "sum", len(client_N), here, _signals(view, knowledge, number, sum_D.float(), here))
        try:
            updates_KD, _ = view.updates(number)
        except ViewError:
            continue
        for place, client in enumerate(survivors):
            own = np.flatnonzero(client_N == client)
            if len(own):
                _add(scores, "update", len(client_N), own, _signals(view, knowledge, number, updates_KD[place], own))
    if not scores:
        raise ViewError("no update of any client arrived in any round; run it with a larger cohort")
    return scores


def are_linear(knowledge: Knowledge) -> bool:
    """Whether the scores of :func:`of_rounds` are linear in the noise: canaries are directions, and the optimizer is linear.

    A canary client is not trained, and its plan noises the update itself.
    """
    known = knowledge.directions
    return known is not None and (known.sign > 0 or knowledge.protocol.example_weight(0) is not None)


def _signals(view: ServerView, knowledge: Knowledge, number: int, update_D: Tensor, rows: NDArray[np.int64]) -> FloatArray:
    """The signals of some canaries in one vector."""
    if (known := knowledge.directions) is not None:
        return np.asarray(known.signals(update_D[None], rows)[0])
    gradients = Gradients(knowledge.network, knowledge.candidates, view.model_before(number))
    return np.asarray(gradients.products(update_D[None], rows).inner_Kn[0])


def _add(scores: Scores, name: str, count: int, rows: NDArray[np.int64], found_n: FloatArray) -> None:
    scores.setdefault(name, np.zeros(count))[rows] += np.nan_to_num(found_n, posinf=0.0, neginf=0.0)


def cosines(view: View, knowledge: Knowledge) -> FloatArray:
    """The cosine of the way from the first model to the final one with each canary's direction, of shape (N,).

    Raises:
        ViewError: the canaries are no directions, or the model did not move.
    """
    known = knowledge.directions
    if known is None:
        raise ViewError("the canaries of this run are inputs, which have no direction of their own")
    moved_D = view.final_model() - known.initial_D.cpu()
    length = float(torch.linalg.vector_norm(moved_D))
    if not 0 < length < np.inf:
        raise ViewError("the model did not move, or is not finite: there is no direction to compare with")
    return np.asarray(known.signals(moved_D[None])[0] / length)
