"""Every statistical test is seeded; its docstring says how often it would fail for a right program with other seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from privfl.config import DataConfig
from privfl.data.datasets.digits import Digits
from privfl.data.federated import Examples, FederatedData, LoadedData, Pixels
from privfl.data.partitions import Partition
from privfl.data.partitions.dirichlet import Dirichlet
from privfl.data.partitions.iid import Iid
from privfl.data.partitions.natural import Natural
from privfl.errors import DataError
from privfl.learning.tasks.classification import CLASSIFICATION
from privfl.seeding import Seed


def examples(count: int, classes: int = 4) -> Examples:
    y = np.arange(count, dtype=np.int64) % classes
    return Examples(y[:, None].astype(np.float32), y)


def loaded(count: int = 20_000) -> LoadedData:
    return LoadedData(examples(count), examples(8), ("a", "b", "c", "d"), "made up")


def config(clients: int | None = 10, holdout: float = 0.2, partition: Partition | None = None) -> DataConfig:
    return DataConfig(kind="made_up", clients=clients, holdout=holdout, partition=partition or Iid(kind="iid"))


@pytest.mark.parametrize("holdout", [0.05, 0.2, 0.5])
def test_candidates_and_coins_come_as_often_as_they_should(holdout: float) -> None:
    """Binomial tests at 1e-6 each."""
    data = FederatedData.build(loaded(), config(holdout=holdout), Seed(1))
    candidates = int(data.candidate_N.sum())
    # 10 clients keep one example each.
    assert stats.binomtest(candidates, len(data.pool) - (10 if holdout == 0.5 else 0), 2 * holdout).pvalue > 1e-6
    assert stats.binomtest(int(data.member_N[data.candidate_N].sum()), candidates, 0.5).pvalue > 1e-6
    assert data.member_N[~data.candidate_N].all()


def test_coins_are_independent_of_each_other() -> None:
    """The variance of the members' number over 400 draws is that of independent coins (chi-square, 1e-6)."""
    data = FederatedData.build(loaded(500), config(holdout=0.5), Seed(0))
    generator = np.random.default_rng(0)
    members = np.array([data.redrawn(generator).member_N[data.candidate_N].sum() for _ in range(400)])
    spread = members.var(ddof=1) * 399 / (data.candidate_N.sum() / 4)
    assert 1e-6 < stats.chi2(399).cdf(spread) < 1 - 1e-6


def test_coins_are_independent_of_client_and_class() -> None:
    """Contingency tables at 1e-6 each."""
    data = FederatedData.build(loaded(), config(partition=Dirichlet(kind="dirichlet", alpha=1.0)), Seed(2))
    for groups_N in (data.owner_N, data.pool.y):
        for mask_N, flag_N in ((np.ones_like(data.member_N), data.candidate_N), (data.candidate_N, data.member_N)):
            table = np.histogram2d(groups_N[mask_N], flag_N[mask_N], bins=(groups_N.max() + 1, 2))[0]
            assert stats.chi2_contingency(table).pvalue > 1e-6


def test_members_cannot_be_told_from_candidates_without_a_model() -> None:
    """Real digits under strong label skew: four draws of 1,400 coins each.

    The mean AUC of four draws has a standard deviation of about .008; .55 is six of them.
    """
    digits = Digits(kind="digits").load()
    skewed = config(clients=20, holdout=0.5, partition=Dirichlet(kind="dirichlet", alpha=0.3))
    aucs = [auc_without_model(FederatedData.build(digits, skewed, Seed(root))) for root in range(4)]
    assert np.mean(aucs) < 0.55


def auc_without_model(data: FederatedData) -> float:
    one_hot_NK = np.eye(len(data.clients))[data.owner_N]
    classes_NC = np.eye(len(data.classes))[data.pool.y]
    features = np.hstack([data.pool.x.reshape(len(data.pool), -1), one_hot_NK, classes_NC])[data.candidate_N]
    member = data.member_N[data.candidate_N]
    scores = cross_val_predict(LogisticRegression(C=0.1, max_iter=500), features, member, method="decision_function", cv=5)
    return float(roc_auc_score(member, scores))


def test_the_test_above_would_see_a_hold_out_that_is_not_drawn_by_coins() -> None:
    """Holding out by class, or by owner, is what it must catch."""
    digits = Digits(kind="digits").load()
    fair = FederatedData.build(
        digits, config(clients=20, holdout=0.5, partition=Dirichlet(kind="dirichlet", alpha=0.3)), Seed(0)
    )
    coin_N = np.random.default_rng(0).random(len(fair.pool)) < 0.3
    for unfair_N in (fair.pool.y < 5, fair.owner_N < 10):
        data = dataclasses.replace(fair, member_N=np.where(fair.candidate_N, unfair_N ^ coin_N, True))
        assert auc_without_model(data) > 0.55


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 0.5), st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_no_draw_leaves_a_client_without_a_member(count: int, clients: int, holdout: float, root: int) -> None:
    try:
        data = FederatedData.build(loaded(count), config(clients, holdout), Seed(root))
    except DataError:
        assert clients > count
        return
    generator = np.random.default_rng(root)
    for draw in (data, data.redrawn(generator), data.redrawn(generator)):
        sizes_K = draw.counts().sum(axis=1)
        assert sizes_K.min() >= 1
        for client in range(clients):
            members, holdout_n = draw.members_of(client), draw.holdout_of(client)
            assert len(members) == sizes_K[client]
            owned = np.flatnonzero(draw.owner_N == client)
            np.testing.assert_array_equal(np.sort(np.concatenate([members, holdout_n])), owned)


def test_the_example_that_a_client_keeps_is_any_of_its_examples() -> None:
    """Of 10 examples of one client, each is kept in a tenth of 2,000 draws (chi-square, 1e-6)."""
    kept = [
        np.flatnonzero(~FederatedData.build(loaded(10), config(1, 0.5), Seed(root)).candidate_N).item() for root in range(2_000)
    ]
    assert stats.chisquare(np.bincount(kept, minlength=10)).pvalue > 1e-6


def bytes_of(data: FederatedData) -> bytes:
    return data.owner_N.tobytes() + data.candidate_N.tobytes() + data.member_N.tobytes()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    first = FederatedData.build(loaded(), config(), Seed(0))
    assert bytes_of(first) == bytes_of(FederatedData.build(loaded(), config(), Seed(0)))
    other = FederatedData.build(loaded(), config(), Seed(1))
    for name in ("owner_N", "candidate_N", "member_N"):
        assert getattr(first, name).tobytes() != getattr(other, name).tobytes()


def test_a_redraw_changes_the_coins_and_nothing_else() -> None:
    data = FederatedData.build(loaded(), config(), Seed(0))
    drawn = data.redrawn(np.random.default_rng(0))
    assert drawn.owner_N is data.owner_N
    assert drawn.candidate_N is data.candidate_N
    differ_N = drawn.member_N != data.member_N
    assert not differ_N[~data.candidate_N].any()
    assert stats.binomtest(int(differ_N.sum()), int(data.candidate_N.sum()), 0.5).pvalue > 1e-6


def test_the_pool_is_not_copied() -> None:
    source = loaded()
    data = FederatedData.build(source, config(), Seed(0))
    assert data.redrawn(np.random.default_rng(0)).pool.x is source.train.x


def test_natural_clients_keep_their_names() -> None:
    source = dataclasses.replace(loaded(6), natural_N=np.array([0, 1, 1, 0, 1, 0]), natural_names=("Bern", "Oslo"))
    data = FederatedData.build(source, config(None, partition=Natural(kind="natural")), Seed(0))
    assert data.clients == ("Bern", "Oslo")
    np.testing.assert_array_equal(data.owner_N, source.natural_N)


@pytest.mark.parametrize(
    ("clients", "partition", "says"),
    [
        (None, Iid(kind="iid"), "data.clients: is missing"),
        (None, Natural(kind="natural"), "names no clients"),
        (9, Iid(kind="iid"), "client 8 is left with no example"),
    ],
)
def test_an_impossible_population_is_refused(clients: int | None, partition: Partition, says: str) -> None:
    with pytest.raises(DataError, match=says):
        FederatedData.build(loaded(8), config(clients, partition=partition), Seed(0))


def with_x(value: float) -> Examples:
    x = examples(8).x.copy()
    x[3] = value
    return Examples(x, examples(8).y)


def with_x_of(kind: Any) -> Examples:
    return Examples(examples(8).x.astype(kind), examples(8).y)


@pytest.mark.parametrize(
    ("train", "says"),
    [
        (with_x(np.nan), "NaN or infinite"),
        (with_x(np.inf), "NaN or infinite"),
        (with_x(-np.inf), "NaN or infinite"),
        (Examples(examples(8).x, examples(8).y + 1), "labels from 1 to 4; there are 4 classes"),
        (Examples(examples(8).x, examples(8).y - 1), "labels from -1"),
        (Examples(examples(8).x, examples(7).y), "one label for each example"),
        (with_x_of(np.float64), r"part has x of float64; it must be float32: x\.astype\(np\.float32\)"),
        (with_x_of(np.uint8), "part has x of uint8; it must be float32: bytes go with pixels"),
        (Examples(examples(8).x[:0], examples(8).y[:0]), "part is empty"),
        (Examples(examples(8).x, np.full(8, np.nan, np.float32)), "a label that is NaN or infinite"),
        (Examples(examples(8).x, examples(8).y.tolist()), "y of list; it must be a NumPy array"),
        (Examples(np.zeros((8, 2), dtype=np.float32), examples(8).y), r"x is \(2,\) in the training part"),
    ],
)
def test_unfit_data_are_refused_in_one_line(train: Examples, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        LoadedData(train, examples(8), ("a", "b", "c", "d"), "made up")
    assert "\n" not in str(caught.value)
    if train.x.shape[1:] == (1,):
        with pytest.raises(DataError, match=says):
            LoadedData(examples(8), train, ("a", "b", "c", "d"), "made up")


CAST = r"labels must be int64: y\.astype\(np\.int64\)"


def classified(train: Examples, test: Examples) -> LoadedData:
    return CLASSIFICATION.fitting(LoadedData(train, test, ("a", "b", "c", "d"), "made up"))


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        (lambda y: y.astype(np.int32), f"y of int32; {CAST}"),
        (lambda y: y.astype(np.uint8), f"y of uint8; {CAST}"),
        (lambda y: y > 1, f"y of bool; {CAST}"),
        (lambda y: y.astype(np.float32), r"y of float32; .*: y\.astype\(np\.int64\)"),
        (lambda y: y[:, None], r"y of int64 and shape \(8, 1\); .*: y\[:, 0\]\.astype\(np\.int64\)"),
        (lambda y: np.eye(4, dtype=np.float32)[y], r"shape \(8, 4\), one-hot; .*: y\.argmax\(axis=1\)\.astype\(np\.int64\)"),
        (lambda y: np.ones((8, 4), np.int64), "learns one class an example.*task = 'multilabel'"),
        (lambda y: y.astype(np.float64), f"y of float64; {CAST}, or float32 if they are numbers"),
        (lambda y: y * 0.37 + 1, r"y of float64; labels must be float32 if .* learned: y\.astype\(np\.float32\)"),
        (lambda y: (y * 0.37 + 1).astype(np.float32), "task = 'regression' if they are numbers"),
        (lambda y: np.array(list("abcd"))[y], r"y of <U1; .*: np\.unique\(y, return_inverse=True\)\[1\]"),
    ],
)
def test_labels_of_another_kind_are_told_the_cast(kept: Callable[[Any], Any], says: str) -> None:
    whole, other = examples(8), Examples(examples(8).x, kept(examples(8).y))
    for train, test, part in ((other, whole, "training"), (whole, other, "test")):
        with pytest.raises(DataError, match=says) as caught:
            classified(train, test)
        assert str(caught.value).startswith(f"the {part} part has y of")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kept", "cast"),
    [
        (lambda y: y[:, None], lambda y: y[:, 0].astype(np.int64)),
        (lambda y: np.eye(4, dtype=np.float32)[y], lambda y: y.argmax(axis=1).astype(np.int64)),
        (lambda y: y.astype(np.float32), lambda y: y.astype(np.int64)),
        (lambda y: np.array(list("abcd"))[y], lambda y: np.unique(y, return_inverse=True)[1]),
    ],
)
def test_the_casts_that_are_named_work(kept: Callable[[Any], Any], cast: Callable[[Any], Any]) -> None:
    whole = examples(8)
    mended = Examples(whole.x, cast(kept(whole.y)))
    assert np.array_equal(classified(mended, whole).train.y, whole.y)


@pytest.mark.parametrize(
    ("shape", "dtype", "pixels", "says"),
    [
        (
            (8, 2, 3, 3),
            np.float32,
            Pixels((0.5, 0.5), (1.0, 1.0)),
            "x of float32; it must be uint8: bytes go with pixels",
        ),
        ((8, 2, 3), np.uint8, Pixels((0.5, 0.5), (1.0, 1.0)), r"is for \(N, C, H, W\)"),
        ((8, 3, 3, 3), np.uint8, Pixels((0.5, 0.5), (1.0, 1.0)), "a mean and a deviation a channel"),
        ((8, 2, 3, 3), np.uint8, Pixels((0.5, 0.5), (1.0,)), "a mean and a deviation a channel"),
        ((8, 2, 3, 3), np.uint8, Pixels((0.5, 0.5), (1.0, 0.0)), "deviations finite and above 0"),
        ((8, 2, 3, 3), np.uint8, Pixels((0.5, np.nan), (1.0, 1.0)), "means must be between 0 and 1"),
    ],
)
def test_unfit_images_are_refused_in_one_line(shape: tuple[int, ...], dtype: Any, pixels: Pixels, says: str) -> None:
    images = Examples(np.ones(shape, dtype), examples(8).y)
    with pytest.raises(DataError, match=says) as caught:
        LoadedData(images, images, ("a", "b", "c", "d"), "made up", pixels=pixels)
    assert "\n" not in str(caught.value)


def test_what_bytes_stand_for_is_part_of_the_data() -> None:
    images = Examples(np.ones((8, 1, 2, 2), np.uint8), examples(8).y)
    found = {
        FederatedData.build(
            LoadedData(images, images, ("a", "b", "c", "d"), "made up", pixels=Pixels((mean,), (1.0,))), config(2), Seed(0)
        ).digest()
        for mean in (0.5, 0.5, 0.25)
    }
    assert len(found) == 2


@pytest.mark.parametrize("natural", [np.array([0, 1]), np.array([0, 1, 2, 0, 0, 0, 0, 0]), np.array([-1] * 8)])
def test_natural_clients_must_fit_the_examples(natural: NDArray[np.int64]) -> None:
    with pytest.raises(DataError, match="natural_N"):
        dataclasses.replace(loaded(8), natural_N=natural, natural_names=("Bern", "Oslo"))
