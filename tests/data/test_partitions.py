"""Every statistical test is seeded; with other seeds it would fail for a right program once in 1e6 draws or more rarely."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from privfl.data.partitions import IntArray, Partition, assign
from privfl.data.partitions.classes import Classes
from privfl.data.partitions.dirichlet import Dirichlet
from privfl.data.partitions.iid import Iid
from privfl.data.partitions.natural import Natural
from privfl.data.partitions.quantity import Quantity
from privfl.data.partitions.shards import Shards
from privfl.data.partitions.similarity import Similarity
from privfl.errors import DataError

ALPHAS = st.floats(min_value=0.0, max_value=1e6, exclude_min=True, allow_subnormal=True)
PARTITIONS: st.SearchStrategy[Partition] = st.one_of(
    st.just(Iid(kind="iid")),
    ALPHAS.map(lambda alpha: Dirichlet(kind="dirichlet", alpha=alpha)),
    ALPHAS.map(lambda alpha: Quantity(kind="quantity", alpha=alpha)),
    ALPHAS.map(lambda alpha: Dirichlet(kind="dirichlet", alpha=alpha, balanced=True)),
    st.integers(1, 5).map(lambda shards: Shards(kind="shards", shards_per_client=shards)),
    st.tuples(st.integers(1, 4), st.floats(0, 3)).map(
        lambda of: Classes(kind="classes", classes_per_client=of[0], spread=of[1])
    ),
    st.floats(0, 1).map(lambda share: Similarity(kind="similarity", share=share)),
)
LABELS = st.lists(st.integers(0, 9), min_size=1, max_size=200).map(lambda labels: np.array(labels, dtype=np.int64))


def dealt(partition: Partition, labels_N: IntArray, clients: int, seed: int = 0) -> IntArray:
    return assign(partition, labels_N, None, clients, np.random.default_rng(seed))


@given(PARTITIONS, LABELS, st.integers(1, 30), st.integers(0, 2**32))
@settings(max_examples=400, deadline=None)
def test_every_example_has_one_owner_and_every_client_an_example(
    partition: Partition, labels_N: IntArray, clients: int, seed: int
) -> None:
    try:
        owner_N = dealt(partition, labels_N, clients, seed)
    except DataError:
        return  # a client without examples; which error is a test of its own
    assert owner_N.dtype == np.int64
    assert owner_N.shape == labels_N.shape
    assert set(owner_N) == set(range(clients))
    np.testing.assert_array_equal(owner_N, dealt(partition, labels_N, clients, seed))


@given(LABELS, st.integers(1, 30))
def test_iid_sizes_differ_by_at_most_one(labels_N: IntArray, clients: int) -> None:
    if clients <= len(labels_N):
        sizes_K = np.bincount(dealt(Iid(kind="iid"), labels_N, clients))
        assert sizes_K.max() - sizes_K.min() <= 1


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**32))
def test_shards_are_of_one_size_and_hold_few_classes(clients: int, per_client: int, size: int, seed: int) -> None:
    labels_N = np.random.default_rng(seed).permutation(np.arange(clients * per_client * size) % 10)
    owner_N = dealt(Shards(kind="shards", shards_per_client=per_client), labels_N, clients, seed)
    assert (np.bincount(owner_N) == per_client * size).all()
    # A shard of consecutive sorted examples holds at most 1 + (class borders inside it) classes: in all, at most
    # shards + 9 pairs of a shard and a class.
    pairs = {(owner, label) for owner, label in zip(owner_N.tolist(), labels_N.tolist(), strict=True)}
    assert len(pairs) <= clients * per_client + 9


def test_shards_of_the_paper_give_two_classes_to_a_client() -> None:
    labels_N = np.repeat(np.arange(10), 6_000)
    owner_N = dealt(Shards(kind="shards", shards_per_client=2), labels_N, 100)
    classes_K = [len(np.unique(labels_N[owner_N == client])) for client in range(100)]
    assert set(classes_K) <= {1, 2}
    assert np.median(classes_K) == 2


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_dirichlet_shares_have_the_variance_of_dirichlet(alpha: float) -> None:
    clients, labels_N = 5, np.repeat(np.arange(400), 1_000)  # 400 classes: 400 independent draws of 5 shares
    owner_N = dealt(Dirichlet(kind="dirichlet", alpha=alpha), labels_N, clients, seed=1)
    shares_CK = np.stack([np.bincount(owner_N[labels_N == label], minlength=clients) for label in range(400)]) / 1_000
    first_C = shares_CK[:, 0]  # Beta(alpha, 4 alpha), up to rounding to 1/1000
    variance = (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
    error = np.sqrt(np.mean((first_C - 1 / clients) ** 4) / 400)  # standard error of the mean square
    assert abs(np.mean((first_C - 1 / clients) ** 2) - variance) < 5 * error


def test_quantity_skew_mixes_the_classes_evenly_and_not_the_sizes() -> None:
    labels_N = np.random.default_rng(0).integers(10, size=50_000)
    owner_N = dealt(Quantity(kind="quantity", alpha=0.5), labels_N, 20, seed=2)
    sizes_K = np.bincount(owner_N)
    assert sizes_K.max() > 5 * np.median(sizes_K)
    large = np.flatnonzero(sizes_K > 500)
    table = np.stack([np.bincount(labels_N[owner_N == client], minlength=10) for client in large])
    assert stats.chi2_contingency(table).pvalue > 1e-6


def test_no_partition_follows_the_order_of_the_examples() -> None:
    labels_N, position_N = np.zeros(20_000, dtype=np.int64), np.arange(20_000)
    partitions: list[Partition] = [
        Iid(kind="iid"),
        Dirichlet(kind="dirichlet", alpha=5.0),
        Shards(kind="shards"),
        Quantity(kind="quantity", alpha=5.0),
    ]
    for partition in partitions:
        owner_N = dealt(partition, labels_N, 4, seed=3)
        groups = [position_N[owner_N == client] for client in range(4)]
        assert stats.kruskal(*groups).pvalue > 1e-6, partition


def test_natural_clients_are_kept() -> None:
    natural_N = np.array([2, 0, 1, 1])
    labels_N = np.zeros(4, dtype=np.int64)
    np.testing.assert_array_equal(assign(Natural(kind="natural"), labels_N, natural_N, 3, np.random.default_rng(0)), natural_N)


@pytest.mark.parametrize(
    ("partition", "clients", "says"),
    [
        (Iid(kind="iid"), 5, "client 4 is left with no example"),
        (Dirichlet(kind="dirichlet", alpha=1e-300), 2, "a larger data.partition.alpha"),
        (Shards(kind="shards", shards_per_client=9), 5, "fewer data.clients"),
        (Natural(kind="natural"), 1, "this data set names no clients"),
    ],
)
def test_what_cannot_be_dealt_is_refused_in_one_line(partition: Partition, clients: int, says: str) -> None:
    labels_N = np.zeros(4, dtype=np.int64)
    with pytest.raises(DataError, match=says) as caught:
        dealt(partition, labels_N, clients)
    assert "\n" not in str(caught.value)


@given(st.floats(0, 1), LABELS, st.integers(1, 30), st.integers(0, 2**32))
def test_similarity_gives_sizes_that_differ_by_at_most_two(share: float, labels_N: IntArray, clients: int, seed: int) -> None:
    partition = Similarity(kind="similarity", share=share)
    owner_N = partition.owners(labels_N, None, clients, np.random.default_rng(seed))
    sizes_K = np.bincount(owner_N, minlength=clients)
    assert sizes_K.max() - sizes_K.min() <= 2


def test_similarity_zero_sorts_and_one_mixes() -> None:
    labels_N = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 600))

    def classes(share: float) -> list[int]:
        owner_N = dealt(Similarity(kind="similarity", share=share), labels_N, 100)
        return [len(np.unique(labels_N[owner_N == client])) for client in range(100)]

    assert classes(0.0) == [1] * 100
    # 60 examples of a client miss some class with a probability of at most 10 * .9^60 = .018.
    assert np.mean(classes(1.0)) > 9.8
    # A tenth of 60 examples, and one class of the sorted rest: the mean number of classes is 1 + 9 (1 - .9^6) = 5.2.
    assert 4.5 < np.mean(classes(0.1)) < 6


def test_a_balanced_dirichlet_gives_a_full_client_no_further_class() -> None:
    labels_N = np.repeat(np.arange(10), 1_000)
    for seed in range(20):
        owner_N = dealt(Dirichlet(kind="dirichlet", alpha=0.5, balanced=True), labels_N, 10, seed)
        counts_KC = np.stack([np.bincount(labels_N[owner_N == client], minlength=10) for client in range(10)])
        before_KC = counts_KC.cumsum(axis=1) - counts_KC
        assert not counts_KC[before_KC >= 1_000].any()
        plain_N = dealt(Dirichlet(kind="dirichlet", alpha=0.5), labels_N, 10, seed)
        # The first class is dealt before anybody is full.
        np.testing.assert_array_equal(owner_N[labels_N == 0], plain_N[labels_N == 0])


@pytest.mark.parametrize("spread", [0.0, 0.4])
def test_classes_are_neighbours_and_evenly_divided_unless_a_spread_is_given(spread: float) -> None:
    labels_N = np.arange(4000) % 10
    owner_N = dealt(Classes(kind="classes", classes_per_client=2, spread=spread), labels_N, 20)
    for client in range(20):
        assert set(labels_N[owner_N == client]) == {client % 10, (client + 1) % 10}
    sizes_K = np.bincount(owner_N)
    # Four clients have each class of 400.
    assert (sizes_K == 200).all() == (spread == 0)


def test_classes_that_no_client_has_are_refused() -> None:
    labels_N = np.arange(100) % 10
    with pytest.raises(
        DataError, match=r"data\.clients = 3: too few for 10 classes with .* = 2, so that class 4 has no client"
    ):
        dealt(Classes(kind="classes"), labels_N, 3)
    with pytest.raises(DataError, match=r"classes_per_client = 11: the data have 10 classes; lower it"):
        dealt(Classes(kind="classes", classes_per_client=11), labels_N, 30)
