"""FedProx's made-up clients. The statistical tests are seeded; other seeds would fail them once in 1e6 draws or more rarely."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from privfl.data.datasets.synthetic import Synthetic
from privfl.data.federated import LoadedData


def drawn(**settings: Any) -> LoadedData:
    return Synthetic(kind="synthetic", **settings).load()


def means(data: LoadedData) -> np.ndarray[Any, Any]:
    """The mean input of each client, shape (K, F)."""
    assert data.natural_N is not None
    return np.stack([data.train.x[data.natural_N == client].mean(axis=0) for client in range(len(data.natural_names))])


def test_the_same_settings_give_the_same_data_and_another_seed_others() -> None:
    assert drawn().digest() == drawn().digest() != drawn(draw_seed=1).digest()


def test_every_client_has_at_least_50_examples_a_fifth_of_them_in_the_test_part() -> None:
    data = drawn(people=200)
    assert data.natural_N is not None
    sizes_K = np.bincount(data.natural_N)
    assert len(sizes_K) == 200
    assert sizes_K.min() >= 40
    assert len(data.test) == pytest.approx(len(data.train) / 4, abs=100)
    # log(n - 50) ~ N(4, 2²): the median is e⁴ = 55; of 200 draws its deviation is 1.25 * 2 / sqrt(200) = .18 in the log.
    assert abs(np.log(np.median(sizes_K / 0.8 - 50 + 0.5)) - 4) < 5 * 0.18


def test_beta_moves_the_clients_inputs_apart_and_no_more_than_it_says() -> None:
    # v_kj ~ N(B_k, 1), B_k ~ N(0, β²): the variance of a client's mean of 60 entries is β² + 1/60.
    for beta in (0.0, 2.0):
        spread = means(drawn(people=300, beta=beta)).mean(axis=1).var()
        expected = beta**2 + 1 / 60
        assert abs(spread / expected - 1) < 5 * np.sqrt(2 / 299)


def test_inputs_have_variances_that_fall_by_a_power() -> None:
    data = drawn(alike=True, people=100)
    ratio_F = data.train.x.var(axis=0) * np.arange(1, 61) ** 1.2
    assert np.abs(ratio_F - 1).max() < 6 * np.sqrt(2 / len(data.train))


def test_clients_that_are_alike_share_one_linear_model() -> None:
    """A linear model that is fitted on half of the clients is right on the others if they are alike, and not otherwise."""

    def accuracy(data: LoadedData) -> float:
        assert data.natural_N is not None
        rest = data.natural_N % 2 == 1
        fitted, *_ = np.linalg.lstsq(data.train.x[~rest], np.eye(10)[data.train.y[~rest]], rcond=None)
        return float((np.argmax(data.train.x[rest] @ fitted, axis=1) == data.train.y[rest]).mean())

    assert accuracy(drawn(alike=True)) > 0.7
    assert accuracy(drawn(alpha=1.0, beta=1.0)) < 0.6


@pytest.mark.parametrize(
    ("key", "value"), [("alpha", -1.0), ("beta", float("nan")), ("people", 0), ("labels", 1), ("test_share", 1.0)]
)
def test_settings_that_make_no_sense_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValidationError):
        Synthetic.model_validate({"kind": "synthetic", key: value})
