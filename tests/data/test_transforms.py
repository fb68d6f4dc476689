"""Transforms of inputs: what they compute, what they cost, and where they are refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_runs import SMALL, small

from privfl.config import ExperimentConfig
from privfl.data.federated import Examples, LoadedData, Pixels
from privfl.data.transforms import Transform, _cache, transformed
from privfl.data.transforms._statistics import noised_covariance, noised_mean, noised_median
from privfl.errors import ConfigError, DataError
from privfl.privacy import accounting
from privfl.privacy.ledger import Entry, Ledger
from privfl.privacy.mechanisms import Gaussian, History, PoissonGaussian
from privfl.report.card import card
from privfl.report.run_records import RunRecords
from privfl.running import recording
from privfl.running.assembling import assemble
from privfl.running.pricing import account
from privfl.seeding import Seed
from privfl.shelves import SHELVES

DRAW = np.random.default_rng(0)
IMAGES = DRAW.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
LABELS = np.arange(40) % 2


def loaded(images: NDArray[np.uint8] = IMAGES, test: int = 4) -> LoadedData:
    y = LABELS[: len(images)]
    pixels = Pixels((0.5,), (0.5,))
    return LoadedData(Examples(images, y), Examples(images[:test], y[:test]), ("a", "b"), "Made up.", pixels=pixels)


def item(kind: str, **settings: Any) -> Transform:
    found: Transform = SHELVES["data.transforms"].find(kind).model_validate({"kind": kind, **settings})
    return found


def through(data: LoadedData, *items: Transform, seed: int = 0) -> LoadedData:
    settings = SHELVES["data"].find("digits").model_validate({**SMALL["data"], "transforms": items})
    return transformed(data, settings, Seed(seed))


# --- what they compute ------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_cache, "folder", lambda: tmp_path / "features")
    return tmp_path / "features"


def test_scattering_is_that_of_kymatio_s_numpy_front_end(cache: Path) -> None:
    front = pytest.importorskip("kymatio.scattering2d.frontend.numpy_frontend")
    done = through(loaded(), item("pixel_scale"), item("scattering"))
    expected = front.ScatteringNumPy2D(J=2, shape=(8, 8), L=8)(IMAGES.astype(np.float64) / 255)
    assert done.train.x.shape == (40, 81, 2, 2)
    assert done.train.x == pytest.approx(expected.reshape(40, 81, 2, 2), abs=1e-5)
    assert done.provenance == "Made up. Inputs were transformed by scaling of pixels to [0, 1], then scattering (J = 2, L = 8)."
    assert done.statistics == ()


def test_features_are_computed_once_for_each_content(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kymatio")
    calls = list[int]()
    own: Any = type(item("scattering"))
    computed = own.rows

    def counted(self: Transform, x_B: torch.Tensor) -> torch.Tensor:
        calls.append(len(x_B))
        found: torch.Tensor = computed(self, x_B)
        return found

    monkeypatch.setattr(own, "rows", counted)

    def made(*chain: Transform, data: LoadedData | None = None) -> NDArray[Any]:
        calls.clear()
        return through(data or loaded(), *chain).train.x

    chain = (item("scattering"), item("group_norm", groups=27))
    first = made(*chain)
    # The first two show the shape; then the pool and the test part.
    assert calls == [2, 40, 4]
    assert np.array_equal(made(*chain), first)
    assert calls == [2]
    for path in cache.iterdir():
        content = path.read_bytes()
        # A new file: the old one is still mapped into memory.
        path.unlink()
        path.write_bytes(content[:200])
    assert np.array_equal(made(*chain), first)
    assert calls == [2, 40, 4]
    others: list[Any] = [
        made(item("scattering", angles=4)),
        made(item("scattering")),
        made(item("scattering"), data=replace(loaded(), pixels=Pixels((0.0,), (0.5,)))),
        made(item("scattering"), data=loaded(255 - IMAGES)),
    ]
    assert len(list(cache.iterdir())) == 2 * (1 + len(others))
    assert not list(cache.glob("*.partial"))


def test_group_norm_is_of_each_example_s_groups() -> None:
    x = DRAW.normal(2.0, 3.0, (6, 4, 5)).astype(np.float32)
    data = LoadedData(Examples(x, LABELS[:6]), Examples(x, LABELS[:6]), ("a", "b"), "Made up.")
    groups = x.astype(np.float64).reshape(6, 2, 10)
    expected = (groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + 1e-5)
    assert through(data, item("group_norm", groups=2)).train.x == pytest.approx(expected.reshape(6, 4, 5), abs=1e-5)


def test_pixel_scale_leaves_bytes_and_changes_their_meaning() -> None:
    done = through(loaded(), item("pixel_scale", mean=[0.25], std=[2.0]))
    assert done.train.x is loaded().train.x
    assert done.pixels == Pixels((0.25,), (2.0,))


def test_batch_norm_without_noise_is_exact() -> None:
    done = through(loaded(), item("batch_norm"))
    assert float(done.train.x.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(done.train.x.std()) == pytest.approx(1.0, abs=1e-4)
    assert done.statistics == ()


def test_pca_finds_the_directions_of_the_pool() -> None:
    base = np.linalg.qr(DRAW.normal(size=(6, 6)))[0]
    x = ((DRAW.normal(size=(200, 6)) * [9, 5, 3, 0.1, 0.1, 0.1]) @ base.T).astype(np.float32)
    y = np.zeros(200, np.int64)
    data = LoadedData(Examples(x, y), Examples(x[:3], y[:3]), ("a",), "Made up.")
    done = through(data, item("pca", components=3))
    assert done.train.x.shape == (200, 3)
    # What is left out is the part with a deviation of 0.1.
    assert np.linalg.norm(x, axis=1) == pytest.approx(np.linalg.norm(done.train.x, axis=1), abs=0.6)
    assert np.array_equal(done.train.x[:3], done.test.x)
    noised = through(data, item("pca", components=3, noise_multiplier=2.0))
    assert noised.statistics == (2.0,)
    assert not np.allclose(noised.train.x, done.train.x)


# --- statistics with noise --------------------------------------------------------------------------------------------


def test_one_example_moves_each_statistic_by_no_more_than_the_noise_covers() -> None:
    values = DRAW.normal(0, 1, (30, 5))
    odd = np.vstack([values, np.full((1, 5), 1e6)])
    silent: Any = 1e-12

    def draw() -> np.random.Generator:
        return np.random.default_rng(3)

    moved = noised_mean(odd, 2.0, silent, draw()) * 31 - noised_mean(values, 2.0, silent, draw()) * 30
    assert np.linalg.norm(moved) == pytest.approx(2.0)
    # Vectors within the norm stay as they are.
    assert noised_mean(values, 100.0, silent, draw()) == pytest.approx(values.mean(axis=0), abs=1e-9)
    matrix = noised_covariance(odd, silent, draw()) - noised_covariance(values, silent, draw())
    assert np.linalg.norm(matrix) == pytest.approx(1.0)


def test_the_noise_on_a_statistic_is_what_is_priced() -> None:
    """20,000 draws: their deviation is off by more than 2 % once in 17,000 seeds, and this seed is fixed."""
    zeros = np.zeros((4, 20_000))
    found = noised_mean(zeros, 3.0, 0.5, np.random.default_rng(0)) * 4
    assert found.std() == pytest.approx(1.5, rel=0.02)
    covariance = noised_covariance(np.zeros((2, 200)), 0.5, np.random.default_rng(0))
    assert np.array_equal(covariance, covariance.T)
    # The mean of two entries with independent noise; there are 19,900 of them.
    assert covariance[np.triu_indices(200, 1)].std() == pytest.approx(0.5 / math.sqrt(2), rel=0.02)


def test_a_median_is_found_within_its_noise() -> None:
    norms = DRAW.lognormal(1.0, 1.0, 20_000)
    found = [noised_median(norms, 20.0, np.random.default_rng(seed)) for seed in range(20)]
    # 16 x 20 ranks are 0.04 deviations of the logarithm; a bin is 0.043 wide.
    assert all(abs(math.log(one) - 1.0) < 0.25 for one in found)
    assert len(set(found)) > 1
    assert noised_median(np.zeros(100), 1e-9, np.random.default_rng(0)) < 1e-4
    assert noised_median(np.full(100, 1e9), 1e-9, np.random.default_rng(0)) == 2.0**16


def test_neighbouring_data_do_not_share_the_noise() -> None:
    chain, changed = item("batch_norm", noise_multiplier=50.0), IMAGES.copy()
    changed[-1] = 255 - changed[-1]
    one, again, other = (through(loaded(images), chain) for images in (IMAGES, IMAGES, changed))
    assert np.array_equal(one.train.x, again.train.x)
    # The noise is larger than any mean by far; if it were shared, the test inputs would be close.
    assert not np.allclose(one.test.x, other.test.x, rtol=0.2)
    assert not np.allclose(one.test.x, through(loaded(), chain, seed=1).test.x, rtol=0.2)
    assert one.statistics == (250.0, 50.0, 250.0, 50.0)


# --- what they cost ---------------------------------------------------------------------------------------------------


def private(**changes: Any) -> ExperimentConfig:
    """One client with everything, at example level, with a statistic of noise multiplier 3."""
    data = {"kind": "digits", "clients": 1, "partition": "iid", "holdout": 0.0}
    base: dict[str, Any] = {
        "data": {**data, "transforms": [{"kind": "pca", "components": 10, "noise_multiplier": 3.0}]},
        "cohort": {"kind": "all"},
        "attacks": {},
        "aggregator": {"kind": "mean"},
        "training": {"local_steps": 2, "batch_size": 64, "lr": 0.5},
        "privacy": {"kind": "example", "noise_multiplier": 2.0, "delta": 1e-5, "max_grad_norm": 1.0},
    }
    return small(**(base | changes))


BEFORE = History({Gaussian(3.0): 1})


def test_a_statistic_is_in_the_price_before_and_after_the_run(tmp_path: Path) -> None:
    config = private()
    rate = 64 / 1438
    expected = accounting.epsilon(BEFORE + History({PoissonGaussian(rate, 2.0): 2 * config.rounds}), 1e-5)
    training_alone = accounting.epsilon(History({PoissonGaussian(rate, 2.0): 2 * config.rounds}), 1e-5)
    assert training_alone < expected
    assert account(config).epsilon == expected
    assert ("statistics released before the first round", "1, noise multiplier 3") in account(config).rows()
    folder = recording.run(config, tmp_path / "run")
    result, terms = folder.result, dict(card(RunRecords.read(folder)).terms)
    assert terms["Statistics"] == (
        "Inputs were prepared by projection onto 10 principal components of the pool, with noise multiplier 3. These releases "
        "are in every ε."
    )
    assert result.privacy is not None
    assert result.privacy.epsilon == expected == max(result.privacy.epsilon_clients)
    assert Ledger.read(tmp_path / "run" / "ledger.jsonl").epsilon() == expected


def test_a_ledger_with_statistics_is_read_back_and_not_resumed_without_them(tmp_path: Path) -> None:
    ledger, path = Ledger(1e-5, statistics=(3.0,)), tmp_path / "ledger.jsonl"
    alone = accounting.epsilon(BEFORE, 1e-5)
    assert ledger.epsilon() == alone == ledger.client_epsilons(1)[0] == ledger.epsilon_with({})
    assert ledger.accounts() == {0: BEFORE}
    ledger.begin(path)
    event = assemble(private()).planned(0)
    ledger.record(0, event)
    with path.open("ab") as file:
        file.write(Entry.of(0, event).model_dump_json().encode() + b"\n")
    assert Ledger.read(path) == ledger
    assert ledger.accounts()[0] == BEFORE + event[0].releases(1)
    Ledger(1e-5, statistics=(3.0,)).resume(path, 1, lambda _: event)
    for statistics in ((), (3.1,)):
        with pytest.raises(Exception, match="is not what 1 rounds of this run spent"):
            Ledger(1e-5, statistics=statistics).resume(path, 1, lambda _: event)


def test_calibration_leaves_room_for_the_statistic() -> None:
    target = {"kind": "example", "target_epsilon": 3.0, "delta": 1e-5, "max_grad_norm": 1.0}
    data = private().data.model_copy(update={"transforms": ()})
    noises = [account(private(privacy=target, **extra)) for extra in ({}, {"data": data})]
    assert noises[0].plan.executed_noise > noises[1].plan.executed_noise
    assert noises[0].epsilon <= 3.0
    assert noises[0].plan.statistics == (3.0,)


def test_the_noise_of_a_run_without_transforms_is_what_it_was() -> None:
    """The plan's text names the noise of a run; statistics must not change it where there are none."""
    assert "statistics" not in repr(assemble(small()).plan)
    assert "transforms" not in small().model_dump()["data"]


# --- where they are refused -------------------------------------------------------------------------------------------

STATISTIC = {"kind": "batch_norm", "noise_multiplier": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transforms": [{"kind": "batch_norm"}]}, "give it a noise_multiplier"),
        ({"transforms": [STATISTIC], "clients": 2}, "set data.clients = 1 and data.holdout = 0"),
        ({"transforms": [STATISTIC], "holdout": 0.2}, "set data.clients = 1 and data.holdout = 0"),
        ({"transforms": ["scattering"], "rotations": [0]}, "leaves no images that data.rotations could turn"),
        ({"transforms": [{"kind": "scatering"}]}, "did you mean 'scattering'"),
        ({"transforms": [{"kind": "pca", "components": 0}]}, "components"),
        ({"transforms": [{"kind": "group_norm", "groups": 2, "group": 3}]}, "is unknown"),
    ],
)
def test_a_statistic_that_no_promise_can_pay_for_is_refused(changes: dict[str, Any], message: str) -> None:
    data = {"kind": "digits", "clients": 1, "partition": "iid", "holdout": 0.0}
    with pytest.raises(ConfigError, match=message):
        private(data=data | changes)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"kind": "client_local", "noise_multiplier": 1.0, "delta": 0.1, "max_update_norm": 1.0}, "this plan cannot price"),
        ({"kind": "none"}, None),
    ],
)
def test_client_level_plans_refuse_statistics_of_examples(plan: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert assemble(private(privacy=plan, data=private().data.model_copy(update={"clients": 3}))).plan.statistics == ()
        return
    with pytest.raises(ConfigError, match=message):
        private(privacy=plan)


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ([item("group_norm", groups=3)], "groups = 3 of 'group_norm' must divide"),
        ([item("pca", components=65)], "must be at most 64"),
        ([item("pca", components=4), item("pixel_scale")], "these inputs are numbers"),
        ([item("pixel_scale", mean=[0.1, 0.2])], "these images have 1 channel; give"),
        ([item("scattering", scales=4)], "at least 16 pixels a side"),
        ([item("pca", components=4), item("scattering")], "takes images"),
    ],
)
def test_what_does_not_fit_the_data_is_one_line(chain: list[Transform], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        through(loaded(), *chain)
    assert "\n" not in str(caught.value)


def test_examples_with_several_inputs_are_refused() -> None:
    part = Examples.of({"a": np.zeros((4, 2), np.float32), "b": np.zeros((4, 3), np.float32)}, LABELS[:4])
    data = LoadedData(part, part, ("a", "b"), "Made up.")
    for chain in (item("group_norm", groups=1), item("batch_norm"), item("pca", components=1)):
        with pytest.raises(DataError, match="these examples have several"):
            through(data, chain)


def test_a_model_trains_on_transformed_images() -> None:
    config = private(
        data=private().data.model_copy(update={"transforms": (item("pca", components=7),)}), privacy={"kind": "none"}
    )
    experiment = assemble(config)
    assert experiment.layout.size == 7 * 10 + 10
    assert torch.isfinite(experiment.train()).all()
