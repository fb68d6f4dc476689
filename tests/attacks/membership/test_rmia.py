from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pool_of_models import overfitted, random_evidence
from pydantic import ValidationError

from attacks.membership import FloatArray
from attacks.membership.rmia import Rmia, dominated_share, probability
from privfl.auditing import auc
from privfl.learning.tasks.classification import CLASSIFICATION


def p_of(outputs: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> FloatArray:
    return probability(CLASSIFICATION.confidence(outputs, labels))


def test_equals_the_pairwise_definition() -> None:
    evidence = random_evidence(8)
    a = 0.3
    target_x, target_z = (
        p_of(evidence.logits_NC, evidence.labels_N),
        p_of(evidence.population_logits_PC, evidence.population_labels_P),
    )
    shadow_x = p_of(evidence.shadow_logits_SNC, evidence.labels_N)
    shadow_z = p_of(evidence.population_shadow_logits_SPC, evidence.population_labels_P)
    found = Rmia(kind="membership/rmia").score(evidence)
    assert list(found) == ["offline, gamma 1", "offline, gamma 2", "online, gamma 1", "online, gamma 2"]
    for gamma in (1, 2):
        for n in range(len(target_x)):
            out = shadow_x[~evidence.shadow_member_SN[:, n], n].mean()
            ratio_x = target_x[n] / ((out + a * out + 1 - a) / 2)
            wins = 0
            for p in range(len(target_z)):
                out_z = shadow_z[:, p].mean()
                wins += ratio_x / (target_z[p] / ((out_z + a * out_z + 1 - a) / 2)) >= gamma
            assert found[f"offline, gamma {gamma}"][n] == pytest.approx(wins / len(target_z), abs=1e-10)
            online = target_x[n] / shadow_x[:, n].mean() >= gamma * target_z / shadow_z.mean(axis=0)
            assert found[f"online, gamma {gamma}"][n] == pytest.approx(online.mean(), abs=1e-10)


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_sorting_equals_the_matrix_with_ties(gamma: float) -> None:
    rng = np.random.default_rng(0)
    ratio_x, ratio_z = rng.integers(0, 9, 300) / 4, rng.integers(0, 9, 200) / 4
    matrix = (ratio_x[:, None] >= gamma * ratio_z[None, :]).mean(axis=1)
    np.testing.assert_array_equal(dominated_share(ratio_x, ratio_z, gamma), matrix)


def test_gamma_changes_ties_only() -> None:
    evidence, _ = overfitted()
    scores = Rmia(kind="membership/rmia", gammas=(0.5, 1, 2)).score(evidence)
    for way in ("offline", "online"):
        reference, *others = (scores_N for name, scores_N in scores.items() if name.startswith(way))
        for other in others:
            difference = np.sign(np.subtract.outer(reference, reference)) * np.sign(np.subtract.outer(other, other))
            assert difference.min() == 0  # no pair is in the opposite order


def test_ties_count_half_in_the_area() -> None:
    # All above every z: one tie at the top, whatever the order among them.
    ratio = np.linspace(5, 6, 50)
    scores = dominated_share(ratio, np.linspace(0, 1, 20), 1.0)
    assert auc(scores, np.arange(50) % 2 == 0).value == 0.5


def test_an_example_that_every_shadow_trained_on_reads_the_correction_backwards() -> None:
    evidence = random_evidence(4)
    everywhere = evidence.shadow_member_SN.copy()
    everywhere[:, :2] = True
    evidence = replace(evidence, shadow_member_SN=everywhere)
    inside = p_of(evidence.shadow_logits_SNC, evidence.labels_N).mean(axis=0)[:2]
    usual = (inside + np.clip((inside - 0.7) / 0.3, 0, 1)) / 2
    # Where the clip does not act, p = (p_in + p_out) / 2; where it does, p = (1 − a) / 2.
    usual = np.where(inside > 0.7, usual, 0.35)
    ratio = p_of(evidence.logits_NC, evidence.labels_N)[:2] / usual
    shadow_z = p_of(evidence.population_shadow_logits_SPC, evidence.population_labels_P).mean(axis=0)
    ratio_z = p_of(evidence.population_logits_PC, evidence.population_labels_P) / (1.3 * shadow_z + 0.7) * 2
    found = Rmia(kind="membership/rmia").score(evidence)["offline, gamma 1"][:2]
    np.testing.assert_allclose(found, dominated_share(ratio, ratio_z, 1.0), atol=1e-10)


def test_offline_does_not_look_at_shadows_that_trained_on_the_example() -> None:
    evidence = random_evidence(8)
    changed = evidence.shadow_logits_SNC.copy()
    changed[evidence.shadow_member_SN] *= -1
    scores, other = (Rmia(kind="membership/rmia").score(e) for e in (evidence, replace(evidence, shadow_logits_SNC=changed)))
    np.testing.assert_array_equal(scores["offline, gamma 1"], other["offline, gamma 1"])


@pytest.mark.parametrize("settings", [{"a": 0.0}, {"a": 1.5}, {"gammas": []}, {"gammas": [0.0]}, {"gamma": 1.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Rmia.model_validate({"kind": "membership/rmia", **settings})


def test_settings_read_from_toml_lists() -> None:
    assert Rmia.model_validate({"kind": "membership/rmia", "gammas": [1.5]}).gammas == (1.5,)
