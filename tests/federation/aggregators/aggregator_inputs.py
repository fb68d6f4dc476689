"""Updates and a context for tests of aggregators."""

from __future__ import annotations

import torch
from torch import Tensor

from privfl.federation.aggregators import ClientUpdate, RoundContext
from privfl.federation.aggregators._encoded import encoded, sum_of_words
from privfl.federation.aggregators.secure_sum import SecureSum
from privfl.secagg.encoding import WeightedSum
from privfl.vectors import Layout


def context(size: int = 12, population: int = 20, key: bytes = b"r" * 32, number: int = 2) -> RoundContext:
    return RoundContext(number, torch.linspace(-1, 1, size), Layout(("weight",), ((size,),)), population, key, "tests")


def updates(clients: int = 4, size: int = 12, seed: int = 0) -> list[ClientUpdate]:
    generator = torch.Generator().manual_seed(seed)
    drawn_KD = 0.1 * torch.randn(clients, size, generator=generator)
    return [ClientUpdate(3 * k + 1, drawn_KD[k], 1 - k / (2 * clients)) for k in range(clients)]


def sum_without_masks(secure: SecureSum, given: list[ClientUpdate], of: RoundContext) -> WeightedSum:
    """What the secure sum must decode, bit for bit: the encoded vectors summed modulo 2^bits."""
    encoding = secure.encoding(of)
    words = [encoded(encoding, update, of)[0] for update in given]
    return encoding.decode(sum_of_words(words, encoding), len(given))


def expected_mean(given: list[ClientUpdate]) -> Tensor:
    weights_K = torch.tensor([update.weight for update in given], dtype=torch.float64)
    updates_KD = torch.stack([update.delta_D for update in given]).double()
    return weights_K @ updates_KD / weights_K.sum()
