"""Attacks that fit something: to shadow models, to fresh examples, or to the rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pool_of_models import overfitted, random_evidence
from scipy import special
from small_runs import small

from attacks._coins import draw_memberships
from attacks._run import run_attacks
from attacks.membership._usual import Usual, margins
from attacks.membership.confidence import Confidence
from attacks.membership.shokri import Shokri
from attacks.membership.stacked import Stacked, _even_sides
from privfl.auditing import auc
from privfl.auditing.questions.membership import MembershipFinding
from privfl.errors import ConfigError
from privfl.learning.tasks.binary import Binary
from privfl.learning.tasks.classification import CLASSIFICATION
from privfl.learning.tasks.regression import Regression
from privfl.loading import loads
from privfl.running.knowledge import LabelledExamples
from privfl.running.recording import run

FITTED = ["membership/quantile", "membership/trajectory"]
OVERFITTED: dict[str, Any] = {
    "name": "overfitted",
    "rounds": 5,
    "data": {"kind": "own_attacks.random_labels", "clients": 4, "holdout": 0.5},
    "model": {"kind": "mlp", "hidden": [64]},
    "cohort": {"kind": "all"},
    "training": {"local_epochs": 5, "batch_size": 16, "lr": 0.1},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
    "attacks": {"run": FITTED, "shadow_models": 0},
}


def test_the_confidence_is_that_of_the_likeliest_class() -> None:
    evidence = random_evidence(0)
    likeliest_N = special.softmax(evidence.logits_NC.astype(np.float64), axis=1).max(1)
    found_N = Confidence(kind="membership/confidence").score(evidence)["confidence"]
    np.testing.assert_allclose(special.expit(found_N), likeliest_N, rtol=1e-9)


@pytest.mark.parametrize("shadows", [4, 5, 8, 9])
def test_the_other_shadows_do_not_tell_a_pseudo_target_s_coins(shadows: int) -> None:
    # Without evening out, every candidate that the pseudo-target has is in one shadow less.
    generator = np.random.default_rng(0)
    member_SN = draw_memberships(shadows, 300, generator)
    signal_SN = generator.normal(size=member_SN.shape)
    for place in range(shadows):
        others = np.arange(shadows) != place
        sides, taken_SN = _even_sides(signal_SN[place], signal_SN[others], member_SN[others], generator)
        most = (shadows - 2) // 2
        assert (sides.inside.count_N == most).all()
        assert (sides.outside.count_N == most).all()
        assert (taken_SN.sum(0) == 2 * most).all()


def test_a_stack_finds_more_than_the_loss_and_the_shadow_classifier() -> None:
    evidence, member_N = overfitted()
    stacked = auc(Stacked(kind="x").score(evidence)["stacked"], member_N)
    shokri = auc(Shokri(kind="x").score(evidence)["per class"], member_N)
    loss = auc(evidence.signals.target_N, member_N)
    assert stacked.value > max(shokri.value, loss.value) + 0.05


def test_margins_are_differences_of_outputs() -> None:
    logits_NC = np.array([[1.0, 4.0, 2.0], [5.0, 0.0, 3.0]], np.float32)
    np.testing.assert_allclose(margins(CLASSIFICATION, logits_NC, np.array([2, 0])), [-2.0, 2.0])
    binary = Binary(kind="binary")
    np.testing.assert_allclose(margins(binary, np.array([[2.0], [2.0]], np.float32), np.array([1, 0])), [2.0, -2.0])
    regression, y_N1 = Regression(kind="regression"), np.array([[0.5], [1.0]], np.float32)
    outputs_N1 = np.array([[1.0], [0.0]], np.float32)
    np.testing.assert_array_equal(margins(regression, outputs_N1, y_N1), regression.confidence(outputs_N1, y_N1))


def test_the_usual_confidence_makes_easy_and_hard_inputs_comparable() -> None:
    """The mean and the deviation of the signal depend on the input; members have half a deviation more."""
    generator = np.random.default_rng(0)
    x_NF = torch.from_numpy(generator.normal(size=(3000, 3))).float()
    labels_N = generator.integers(0, 3, 3000)
    scale_N = np.exp(x_NF[:, 1].numpy())
    signal_N = 4 * x_NF[:, 0].numpy() + 2.0 * labels_N + scale_N * generator.normal(size=3000)
    usual = Usual(40, LabelledExamples(x_NF[:1500], labels_N[:1500]), signal_N[:1500])
    candidates, member_N = LabelledExamples(x_NF[1500:], labels_N[1500:]), generator.random(1500) < 0.5
    scores_N = usual.score(candidates, signal_N[1500:] + member_N * scale_N[1500:])
    # With the true mean and deviation Φ(1/√2) = .760; without them the inputs decide.
    assert auc(scores_N, member_N).value > 0.70
    assert auc(signal_N[1500:] + member_N * scale_N[1500:], member_N).value < 0.62
    # Of equals nobody is found, at 99.9 %.
    nothing = auc(usual.score(candidates, signal_N[1500:]), member_N, 0.999)
    assert nothing.low < 0.5 < nothing.high


def attacked(path: Path, **changes: Any) -> dict[str, Any]:
    """The AUC of each attack."""
    found = run_attacks(run(loads({**OVERFITTED, **changes}), path))
    assert all(isinstance(one, MembershipFinding) for one in found)
    return {one.attack: one.auc for finding in found for one in finding.attacks}  # type: ignore[attr-defined]


def test_an_overfitted_run_is_found_out(tmp_path: Path) -> None:
    found = attacked(tmp_path / "run")
    assert set(found) == set(FITTED)
    for name, one in found.items():
        assert one.low > 0.55, (name, one)


def test_a_run_that_is_noise_gives_nothing_away(tmp_path: Path) -> None:
    """At 99.99 %: by chance one of the two fails in one seed of five thousand."""
    privacy = {"kind": "example", "noise_multiplier": 300.0, "delta": 1e-5, "max_grad_norm": 1.0}
    training = {**OVERFITTED["training"], "local_epochs": 1}
    for name, one in attacked(tmp_path / "run", privacy=privacy, training=training, rounds=4).items():
        assert abs(one.value - 0.5) < (one.high - one.low) / 2 * 1.99, (name, one)


@pytest.mark.parametrize("name", ["entropy", "confidence", "shokri"])
def test_attacks_on_classes_refuse_other_tasks_before_the_first_round(name: str, tmp_path: Path) -> None:
    config = small(
        task={"kind": "regression"},
        data={"kind": "own_tasks.made_up", "labels": "numbers", "clients": 10},
        attacks={"run": [f"membership/{name}"], "shadow_models": 4},
    )
    with pytest.raises(ConfigError, match="needs one class of several, and task = 'regression': take it out"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
