"""Who and what is drawn. Each bound on a frequency is missed by a true sampler once in 10,000 seeds or less."""

import numpy as np
import pytest
import torch
from scipy import stats

from privfl.privacy.cohorts import draw_cohorts
from privfl.privacy.cohorts.all import All
from privfl.privacy.cohorts.fixed import Fixed
from privfl.privacy.cohorts.poisson import Poisson
from privfl.privacy.sampling import poisson_batches, shuffled_batches
from privfl.seeding import Seed

ERROR = 1e-4


def test_poisson_cohort_takes_each_client_at_its_rate_independently() -> None:
    rounds, clients = 4000, 20
    taken = np.zeros((rounds, clients))
    for number, cohort in enumerate(draw_cohorts(Poisson(kind="poisson", size=5), clients, rounds, Seed(0))):
        taken[number, list(cohort)] = 1
    low, high = stats.binom.ppf([ERROR / 2 / clients, 1 - ERROR / 2 / clients], rounds, 0.25)
    assert ((low <= taken.sum(0)) & (taken.sum(0) <= high)).all()
    # Sizes vary as a binomial's do: a fixed-size cohort has variance 0.
    assert taken.sum(1).var() == pytest.approx(20 * 0.25 * 0.75, rel=0.12)


def test_fixed_and_whole_cohorts() -> None:
    drawn = draw_cohorts(Fixed(kind="fixed", size=4), 9, 50, Seed(1))
    assert all(len(set(cohort)) == 4 and list(cohort) == sorted(cohort) for cohort in drawn)
    assert len(set(drawn)) > 20
    assert draw_cohorts(All(kind="all"), 3, 2, Seed(2)) == ((0, 1, 2), (0, 1, 2))


def test_poisson_batches_have_the_accounted_rate_and_may_be_empty() -> None:
    # 93 is one of the sizes at which a loader-based sampler draws at 1/93 and accounts 1/92.
    examples, steps, rate = 93, 20_000, 1 / 93
    counts, sizes = np.zeros(examples), []
    for batch in poisson_batches(examples, rate, steps, Seed(3).torch()):
        counts[batch.numpy()] += 1
        sizes.append(len(batch))
    low, high = stats.binom.ppf([ERROR / 2 / examples, 1 - ERROR / 2 / examples], steps, rate)
    assert ((low <= counts) & (counts <= high)).all()
    total_low, total_high = stats.binom.ppf([ERROR / 2, 1 - ERROR / 2], steps * examples, rate)
    assert total_low <= counts.sum() <= total_high
    empty = stats.binom.ppf([ERROR / 2, 1 - ERROR / 2], steps, (1 - rate) ** examples)
    assert empty[0] <= sizes.count(0) <= empty[1]


def test_poisson_batch_at_rate_one_is_everybody() -> None:
    assert [len(batch) for batch in poisson_batches(7, 1.0, 3, Seed(4).torch())] == [7, 7, 7]


def test_shuffled_batches_visit_everybody_once_an_epoch() -> None:
    batches = list(shuffled_batches(10, 4, 6, Seed(5).torch()))
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    for epoch in (batches[:3], batches[3:]):
        assert torch.cat(epoch).sort().values.tolist() == list(range(10))
    assert len(list(shuffled_batches(10, 4, 4, Seed(5).torch()))) == 4
