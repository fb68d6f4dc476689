"""The answers of the final model and of all shadow models to several queries of each candidate, computed once and kept.

::

    attacks/queries/target.safetensors         signals_QN, and the digest of the model whose they are
    attacks/queries/shadow_000.safetensors
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save as save_tensors
from torch import Tensor

from privfl.errors import ModelError
from privfl.running.knowledge import Candidates, Network
from privfl.running.queries import Answers, QuerySignals, digest, query
from privfl.running.run_folder import RunFolder
from privfl.storage import write_atomic

_AT_ONCE: Final = 2000
"""So many examples are mirrored and shifted at once."""


def answered(
    folder: RunFolder,
    network: Network,
    candidates: Candidates,
    final_D: Tensor,
    shadows: Iterable[Tensor],
    queries: int,
) -> QuerySignals:
    """The signals of all models for so many queries, from their files, or computed and written into them.

    Args:
        folder: the run.
        network: the architecture.
        candidates: the examples.
        final_D: the target's parameters.
        shadows: those of each shadow model, read one at a time.
        queries: Q.

    Raises:
        ModelError: a model's outputs are not finite.
    """
    place = folder.path / "attacks" / "queries"
    target = _answers(place / "target.safetensors", network, final_D, candidates, queries)
    return QuerySignals(
        target,
        [
            _answers(place / f"shadow_{index:03d}.safetensors", network, model_D, candidates, queries)
            for index, model_D in enumerate(shadows)
        ],
    )


def _answers(path: Path, network: Network, vector_D: Tensor, candidates: Candidates, queries: int) -> Answers:
    """At least so many queries of each candidate. A file that is damaged, of another model or too short is written anew."""
    found = Answers.kept(path, vector_D)
    if found is None or found.shape[0] < queries or found.shape[1] != len(candidates):
        signals_QN = torch.from_numpy(signals(network, vector_D, candidates, queries))
        if not bool(signals_QN.isfinite().all()):
            raise ModelError(f"{path.stem}: outputs for shifted images are not finite; training diverged: lower training.lr")
        write_atomic(path, save_tensors({"signals_QN": signals_QN}, metadata={"of": digest(vector_D)}))
        found = Answers.kept(path, vector_D)
        assert found is not None, "it was just written"
    return found


def signals(network: Network, vector_D: Tensor, candidates: Candidates, queries: int) -> NDArray[np.float32]:
    """A model's signal, the task's confidence in the true label, for each query and candidate; shape (Q, N)."""
    signals_QN = np.empty((queries, len(candidates)), dtype=np.float32)
    for start in range(0, len(candidates), _AT_ONCE):
        here = slice(start, start + _AT_ONCE)
        x, y = candidates.x[here], candidates.y_N[here]
        for number in range(queries):
            signals_QN[number, here] = network.task.confidence(network.logits(vector_D, query(x, number)), y)
    return signals_QN
