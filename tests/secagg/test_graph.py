"""Who is whose neighbour: everybody as often, and nobody by anybody's choice."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from secagg_cohort import entropy

from privfl.secagg import graph


@pytest.mark.parametrize(("clients", "degree"), [(5, 2), (10, 4), (11, 10), (40, 12)])
def test_a_circulant_graph_is_regular_and_mutual(clients: int, degree: int) -> None:
    numbers = [7 * number + 3 for number in range(clients)]
    near = graph.circulant(numbers, degree, entropy("ring")(32))
    assert sorted(near) == numbers
    for client, others in near.items():
        assert len(others) == degree
        assert others.tolist() == sorted(set(others.tolist()) - {client})
        assert all(client in near[other] for other in others.tolist())


def test_neighbours_are_uniform_pairs() -> None:
    # Each of the 28 pairs of 8 clients is as likely: χ² over 3,000 rings, 1e-9. A ring's 8 pairs are not independent of each
    # other but negatively so, which makes the statistic smaller.
    counts: dict[tuple[int, int], int] = {}
    for number in range(3000):
        for client, others in graph.circulant(range(8), 2, entropy("uniform", number)(32)).items():
            for other in others.tolist():
                if client < other:
                    counts[client, other] = counts.get((client, other), 0) + 1
    assert len(counts) == 28
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 1e-9


def test_draws_are_uniform_without_replacement_and_never_oneself() -> None:
    counts = np.zeros(10, np.int64)
    for number in range(4000):
        found = graph.drawn(range(10), 4, 3, entropy("drawn", number)(32)).tolist()
        assert len(set(found)) == 3
        assert found == sorted(found)
        counts[found] += 1
    assert counts[4] == 0
    assert scipy.stats.chisquare(np.delete(counts, 4)).pvalue > 1e-9


def test_peers_are_those_drawn_and_those_who_drew_as_far_as_they_are_there() -> None:
    drawn_by = {1: np.array([2, 9], np.uint32), 2: np.array([3], np.uint32), 3: np.array([1], np.uint32)}
    found = {client: others.tolist() for client, others in graph.united(drawn_by).items()}
    assert found == {1: [2, 3], 2: [1, 3], 3: [1, 2]}
