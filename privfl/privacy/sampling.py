"""Batch sampling: the examples that enter each step of local training."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from privfl.privacy.events import LocalTraining


def private_batches(event: LocalTraining, examples: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of each step's batch, drawn by the sampler that the event is priced for.

    Args:
        event: the local training that the ledger will record.
        examples: n, the number of examples to draw from; at most the client's public size.
        generator: source of the draws.
    """
    if event.sampler == "poisson":
        yield from poisson_batches(examples, event.sample_rate, event.steps, generator)
        return
    # Shuffle positions up to the public size, not examples: the split into batches must not depend on how many exist.
    size = round(event.expected_batch_size / event.sample_rate)
    for places in shuffled_batches(size, round(event.expected_batch_size), event.steps, generator):
        yield places[places < examples]


def poisson_batches(examples: int, sample_rate: float, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of each step's batch; every example enters independently with probability ``sample_rate``.

    The draws are float64, because float32 would round the rate to a multiple of 2⁻²⁴.
    """
    for _ in range(steps):
        coin_n = torch.rand(examples, generator=generator, dtype=torch.float64, device=generator.device)
        yield (coin_n < sample_rate).nonzero().squeeze(1)


def shuffled_batches(examples: int, batch_size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of each step's batch, cut from a fresh random order in every epoch (McMahan 2017).

    Shuffled batches do not earn the amplification of Poisson sampling (Chua 2024).
    """
    done = 0
    while done < steps:
        order_n = torch.randperm(examples, generator=generator, device=generator.device)
        for batch in torch.split(order_n, batch_size)[: steps - done]:
            yield batch
            done += 1
