"""The measures of each round's updates on the candidates, computed once for all attacks of a call that want them."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from attacks.membership._gradients import Gradients
from privfl.running.knowledge import Candidates, Measured, Network, OwnMeasured, RoundMeasures

_KEEP: Final = 2**29
"""So many bytes of measures are kept; those of further rounds are computed whenever they are asked for."""


class SharedMeasures(RoundMeasures):
    """Measures that are kept from one attack to the next.

    Args:
        network: the architecture.
        candidates: the examples, with their owners.
        every: whether some attack will ask for each candidate beside each update. It changes no figure.
    """

    def __init__(self, network: Network, candidates: Candidates, *, every: bool) -> None:
        self._network, self._candidates, self._wanted = network, candidates, every
        self._every: dict[int, Measured] = {}
        self._own: dict[int, OwnMeasured] = {}
        self._free = _KEEP

    def own(self, number: int, clients: list[int], model_D: Tensor, updates_KD: Tensor) -> OwnMeasured:
        """See the contract."""
        # To be measured beside every update is worth it if the others are kept for whoever asks for them.
        kept = number in self._every or 16 * len(self._candidates) * (len(clients) + 1) <= self._free
        if self._wanted and kept:
            return self.every(number, clients, model_D, updates_KD).own(self._candidates.places(clients))
        if number in self._own:
            return self._own[number]
        place_N = self._candidates.places(clients)
        found = self._gradients(model_D).measured(updates_KD, place_N, every=False).own(place_N)
        if self._fits(found.nbytes):
            self._own[number] = found
        return found

    def every(self, number: int, clients: list[int], model_D: Tensor, updates_KD: Tensor) -> Measured:
        """See the contract."""
        if number in self._every:
            return self._every[number]
        found = self._gradients(model_D).measured(updates_KD, self._candidates.places(clients), every=True)
        if self._fits(found.nbytes):
            self._every[number] = found
        return found

    def _gradients(self, model_D: Tensor) -> Gradients:
        return Gradients(self._network, self._candidates, model_D)

    def _fits(self, size: int) -> bool:
        fits = size <= self._free
        self._free -= size if fits else 0
        return fits
