"""Who takes part in a round, and which examples enter a batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from privfl.config import AllClients, FixedCohort, PoissonCohort

Cohort = PoissonCohort | FixedCohort | AllClients


def draw_cohort(cohort: Cohort, clients: int, generator: np.random.Generator) -> list[int]:
    """The clients of one round, ascending. A Poisson cohort may be empty."""
    match cohort:
        case PoissonCohort(size=size):
            return [int(client) for client in np.flatnonzero(generator.random(clients) < size / clients)]
        case FixedCohort(size=size):
            return sorted(int(client) for client in generator.choice(clients, size=size, replace=False))
        case AllClients():
            return list(range(clients))


def poisson_batches(examples: int, sample_rate: float, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of each step's batch: every example enters independently with probability ``sample_rate``.

    The draws are made in float64: in float32 a rate would be rounded to a multiple of 2⁻²⁴.
    """
    for _ in range(steps):
        coin_n = torch.rand(examples, generator=generator, dtype=torch.float64, device=generator.device)
        yield (coin_n < sample_rate).nonzero().squeeze(1)


def shuffled_batches(examples: int, batch_size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of each step's batch, epoch after shuffled epoch (McMahan 2017). For training without privacy only:
    shuffled batches do not earn the amplification of Poisson sampling (Chua 2024).
    """
    done = 0
    while done < steps:
        order_n = torch.randperm(examples, generator=generator, device=generator.device)
        for batch in torch.split(order_n, batch_size)[: steps - done]:
            yield batch
            done += 1
