"""The sum of the secure sum's words in the clear; it differs from secure aggregation in the protocol alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from privfl.federation.aggregators import Aggregate, Aggregator, ClientUpdate, Cost, RoundContext
from privfl.federation.aggregators._cohort import in_order
from privfl.federation.aggregators._encoded import encoded, sum_of_words
from privfl.secagg.encoding import Encoding
from privfl.secagg.packing import packed_bytes
from privfl.secagg.prg import Words


class PlainSum(Aggregator):
    """The weighted mean Σ weight · update / Σ weight in the fixed point of ``secure_sum``, with the same ``clip`` and ``bits``.

    A run with ``secure_sum`` in which no client is lost gives the same model, bit for bit. This holds without a promise and
    under a plan whose clients add the noise (``example``, ``client_local``). Comparing the two runs is thus a paired ablation
    of secure aggregation.

    The server sees ``updates_KD`` and ``weights_K`` after rounding, rows by ascending client.

    Guarantees: no privacy, since the server sees each client's update.

    Edges: too small a cohort, an update that is not finite and weights that add up to zero are refused.
    """

    clip: PositiveFloat = 8.0
    bits: Literal[16, 20, 24, 32, 64] = 32

    hides_updates = False
    linear = True
    decodes = False
    minimum_clients = 3

    def encoding(self, context: RoundContext) -> Encoding:
        """The encoding of updates as words.

        Raises:
            ConfigError: sums over the population cannot be encoded with this clip.
        """
        return Encoding.fit(self.clip, context.population, self.bits)

    def rounding_norm(self, context: RoundContext) -> float:
        """√D / scale, since rounding moves each of the D coordinates by less than a step."""
        return float(context.layout.size**0.5 / self.encoding(context).update.scale)

    def carries(self, entry: float, context: RoundContext) -> bool:
        """Whether the entry is within the clip and a multiple of a step."""
        return abs(entry) <= self.clip and (entry * self.encoding(context).update.scale).is_integer()

    def aggregate(self, updates: Sequence[ClientUpdate], context: RoundContext) -> Aggregate:
        """See :meth:`privfl.federation.aggregators.Aggregator.aggregate`."""
        cohort, encoding = in_order(updates, context, self.minimum_clients), self.encoding(context)
        made = [encoded(encoding, update, context) for update in cohort]
        begun = time.perf_counter()
        found = encoding.decode(sum_of_words([words for words, _ in made], encoding), len(cohort))
        mean_D = torch.from_numpy(found.mean()).to(context.global_D)
        return Aggregate(
            mean_D=mean_D,
            sum_D=torch.from_numpy(found.sum_D),
            weight_sum=found.weight_sum,
            survivors=tuple(update.client for update in cohort),
            cost=Cost(
                bytes_up=packed_bytes(context.layout.size + 1, self.bits) * len(cohort),
                bytes_down=0,
                client_seconds=0.0,
                server_seconds=time.perf_counter() - begun,
            ),
            clipped=sum(clipped for _, clipped in made),
            seen=_seen([words for words, _ in made], encoding) if context.observed else {},
        )


def _seen(words: Sequence[Words], encoding: Encoding) -> dict[str, Tensor]:
    """Each client's update and weight as its words encode them; an update of weight 0 reads as zero."""
    weights_K = torch.tensor([float(encoding.weight.decode(one[-1:], 1)[0]) for one in words])
    weighted_KD = torch.stack([torch.from_numpy(encoding.update.decode(one[:-1], 1)) for one in words])
    updates_KD = weighted_KD / weights_K.double().clamp(min=torch.finfo(torch.float64).tiny)[:, None]
    return {"updates_KD": updates_KD.float(), "weights_K": weights_K}
