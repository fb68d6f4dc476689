"""Labels from the gradient of the last bias: all of them for single examples, most of a batch's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reconstruction_runs import attacked, began, owning
from torch import nn
from torch.nn.functional import cross_entropy

from attacks._rounds import SharedMeasures
from attacks.reconstruction import Target
from attacks.reconstruction._labels import labels_of
from privfl.config import TrainingConfig
from privfl.errors import ConfigError
from privfl.learning.tasks.classification import CLASSIFICATION
from privfl.running.knowledge import Candidates, Knowledge, LabelledExamples, Network, Protocol, Shadows
from privfl.vectors import Layout, to_vector

NAME = "reconstruction/labels"
MANY: dict[str, Any] = {"cohort": {"kind": "fixed", "size": 150}}


@pytest.mark.parametrize("model", [{"kind": "logistic"}, {"kind": "mlp", "hidden": [32]}, {"kind": "own_models.smooth"}])
def test_the_label_of_a_single_example_is_always_right(model: dict[str, Any], tmp_path: Path) -> None:
    found = attacked(tmp_path / "run", {"kind": NAME, "most": 150}, model=model, **MANY)["labels: counts"]
    assert found.labels is not None
    assert (found.labels.right.n, found.labels.right.value) == (150, 1.0)
    assert found.labels.chance == pytest.approx(0.1, abs=0.02)
    assert (found.recognised, found.measures, found.pictures) == (None, [], [])


def test_most_labels_of_a_batch_are_right(tmp_path: Path) -> None:
    found = attacked(tmp_path / "run", NAME, **owning(8), cohort={"kind": "fixed", "size": 80})["labels: counts"]
    assert found.labels is not None
    assert found.labels.right.n >= 640
    assert found.labels.right.value > 0.97 > 0.6 > found.labels.chance


def test_the_labels_of_a_sum_under_secure_aggregation(tmp_path: Path) -> None:
    secure = {"aggregator": {"kind": "secure_sum"}, "cohort": {"kind": "fixed", "size": 8}}
    with pytest.raises(ConfigError, match=r"^aggregator: 'reconstruction/labels' needs the update of each client"):
        began(tmp_path / "refused", NAME, **secure)
    found = attacked(tmp_path / "run", {"kind": NAME, "of": "sum"}, **secure)["labels: counts"]
    assert found.labels is not None
    assert (found.labels.right.n, found.targets, len(found.clients)) == (8, 1, 8)
    assert found.labels.right.value >= 7 / 8


def test_noise_on_examples_hides_labels(tmp_path: Path) -> None:
    noisy = {"kind": "example", "noise_multiplier": 20.0, "delta": 1e-4, "max_grad_norm": 1.0}
    found = attacked(tmp_path / "run", {"kind": NAME, "most": 150}, privacy=noisy, **MANY)["labels: counts"]
    assert found.labels is not None
    # 150 guesses with a chance of about .1: above .2 once in 10,000 seeds.
    assert found.labels.right.value < 0.2


def known(module: nn.Module, x_n: torch.Tensor, y_n: torch.Tensor) -> tuple[Target, Knowledge]:
    """One step of lr .5 on all examples, which the server knows for fresh ones as well."""
    loss = cross_entropy(module(x_n), y_n)
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    update_D = -0.5 * torch.cat([one.flatten() for one in gradients])
    network = Network(module, Layout.of(module), CLASSIFICATION, (5,))
    fresh = LabelledExamples(x_n, y_n.numpy())
    candidates = Candidates(x_n, y_n.numpy(), np.zeros(len(y_n), np.int64))
    shadows = Shadows.of(np.zeros((0, len(y_n)), bool), [], 0, (5,))
    protocol = Protocol(TrainingConfig(local_steps=1, batch_size=len(y_n), lr=0.5), 1, len(y_n), 1)
    knowledge = Knowledge(network, candidates, fresh, shadows, protocol, SharedMeasures(network, candidates, every=False))
    return Target(0, (0,), to_vector(module), update_D, 1.0), knowledge


@pytest.mark.parametrize("bias", [True, False])
def test_counts_are_exact_if_the_mean_prediction_is_known(bias: bool) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5, bias=bias))
    x_n, y_n = torch.randn(12, 6), torch.tensor([0, 0, 0, 1, 1, 1, 1, 3, 3, 4, 4, 4])
    target, knowledge = known(module, x_n, y_n)
    assert target.size(knowledge) == 12
    found = labels_of(target, knowledge, 12)
    assert (found == y_n).float().mean() == 1 if bias else len(found) == 12
    # Without a bias the features of one class may be larger than those of another: the counts are near.
    common = sum(min(int((found == label).sum()), int((y_n == label).sum())) for label in range(5))
    assert common >= 10
    for label in range(5):
        target, knowledge = known(module, x_n[:1], torch.tensor([label]))
        assert labels_of(target, knowledge, 1).tolist() == [label]


def test_numbers_have_no_label_to_be_found(tmp_path: Path) -> None:
    numbers = {"task": {"kind": "regression"}, "data": {"kind": "own_tasks.made_up", "labels": "numbers", "clients": 10}}
    with pytest.raises(ConfigError, match=r"^task\.kind = 'regression': .* set task\.kind = 'classification'$"):
        began(tmp_path / "run", NAME, **numbers)
