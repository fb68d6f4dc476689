"""Who takes part in a round, and which examples enter a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from privfl.config import AllClients, Cohort, FixedCohort, PoissonCohort, SeparatedCohort
from privfl.privacy.events import LocalTraining
from privfl.seeding import Seed


def draw_cohorts(cohort: Cohort, clients: int, rounds: int, seed: Seed) -> tuple[tuple[int, ...], ...]:
    """The clients of every round, ascending. They depend on no data.

    Args:
        cohort: how they are drawn.
        clients: K, how many there are.
        rounds: how many cohorts.
        seed: round r draws from ``seed / r``.
    """
    drawn: list[tuple[int, ...]] = []
    for number in range(rounds):
        generator = (seed / number).numpy()
        if isinstance(cohort, SeparatedCohort):
            drawn.append(_separated(cohort, clients, drawn[max(0, number - cohort.separation + 1) :], generator))
        else:
            drawn.append(_independent(cohort, clients, generator))
    return tuple(drawn)


def _independent(
    cohort: PoissonCohort | FixedCohort | AllClients, clients: int, generator: np.random.Generator
) -> tuple[int, ...]:
    """One cohort that no other has any bearing on. A Poisson cohort may be empty."""
    match cohort:
        case PoissonCohort(size=size):
            return tuple(int(client) for client in np.flatnonzero(generator.random(clients) < size / clients))
        case FixedCohort(size=size):
            return tuple(sorted(int(client) for client in generator.choice(clients, size=size, replace=False)))
        case AllClients():
            return tuple(range(clients))


def _separated(
    cohort: SeparatedCohort, clients: int, recent: Sequence[tuple[int, ...]], generator: np.random.Generator
) -> tuple[int, ...]:
    """``size`` of the clients that are in none of the ``recent`` cohorts."""
    rested_K = np.ones(clients, np.bool_)
    rested_K[[client for one in recent for client in one]] = False
    drawn = generator.choice(np.flatnonzero(rested_K), size=cohort.size, replace=False)
    return tuple(sorted(int(client) for client in drawn))


def private_batches(event: LocalTraining, examples: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of each step's batch, by the sampler that the event accounts.

    Args:
        event: what is going to be spent.
        examples: n, how many examples there are to draw from; at most the client's public size.
        generator: makes the draws.
    """
    if event.sampler == "poisson":
        yield from poisson_batches(examples, event.sample_rate, event.steps, generator)
        return
    # Places are shuffled, not examples: how they are dealt to batches does not tell how many of them are taken.
    size = round(event.expected_batch_size / event.sample_rate)
    for places in shuffled_batches(size, round(event.expected_batch_size), event.steps, generator):
        yield places[places < examples]


def poisson_batches(examples: int, sample_rate: float, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of each step's batch: every example enters independently with probability ``sample_rate``.

    The draws are made in float64: in float32 a rate would be rounded to a multiple of 2⁻²⁴.
    """
    for _ in range(steps):
        coin_n = torch.rand(examples, generator=generator, dtype=torch.float64, device=generator.device)
        yield (coin_n < sample_rate).nonzero().squeeze(1)


def shuffled_batches(examples: int, batch_size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of each step's batch, epoch after shuffled epoch (McMahan 2017). Shuffled batches do not earn the
    amplification of Poisson sampling (Chua 2024).
    """
    done = 0
    while done < steps:
        order_n = torch.randperm(examples, generator=generator, device=generator.device)
        for batch in torch.split(order_n, batch_size)[: steps - done]:
            yield batch
            done += 1
