"""Attacks on outputs against their definitions, written out example by example, and against the scores of BaVarIA's authors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpmath import mp, mpf
from pool_of_models import overfitted, random_evidence
from scipy import special, stats

from attacks.membership import Evidence, FloatArray, MembershipAttack
from attacks.membership._entropies import modified_entropy
from privfl.auditing import auc, operating_point, roc
from privfl.errors import ConfigError
from privfl.learning.tasks.regression import Regression
from privfl.shelves import SHELVES

REFERENCE = Path(os.environ.get("PRIVFL_DATA") or "nowhere") / "bavaria_reference"


def scores(name: str, evidence: Evidence) -> dict[str, FloatArray]:
    item: MembershipAttack = SHELVES["attacks.run"].find(f"membership/{name}")(kind=f"membership/{name}")
    return item.score(evidence)


def example(evidence: Evidence, n: int) -> tuple[float, FloatArray, FloatArray]:
    """The confidence in candidate n of the target, of the shadows with it, and of those without."""
    shadow_S = evidence.task.confidence(evidence.shadow_logits_SNC, evidence.labels_N)[:, n]
    taken_S = evidence.shadow_member_SN[:, n]
    return float(evidence.task.confidence(evidence.logits_NC, evidence.labels_N)[n]), shadow_S[taken_S], shadow_S[~taken_S]


def loss(confidence: FloatArray | float) -> FloatArray:
    return np.asarray(-np.log(special.expit(confidence)))


def test_each_score_is_its_definition() -> None:
    evidence = random_evidence(8)
    found = {
        (name, variant): one
        for name in ("watson", "sablayrolles", "attack_r", "base")
        for variant, one in scores(name, evidence).items()
    }
    for n in range(len(evidence.labels_N)):
        target, inside, outside = example(evidence, n)
        both = np.concatenate([inside, outside])
        middle = (inside.mean() + outside.mean()) / 2
        variance = (((inside - inside.mean()) ** 2).sum() + ((outside - outside.mean()) ** 2).sum()) / len(both)
        expected = {
            ("watson", "loss"): loss(outside).mean() - loss(target),
            ("watson", "confidence"): target - outside.mean(),
            ("sablayrolles", "middle"): (loss(inside).mean() + loss(outside).mean()) / 2 - loss(target),
            ("attack_r", "reference"): (loss(outside) > loss(target)).mean(),
            ("base", "BASE1, online"): -loss(target) - np.log(special.expit(both).mean()),
            ("base", "BASE1, offline"): -loss(target) - np.log(special.expit(outside).mean()),
            ("base", "BASE3"): (inside.mean() - outside.mean()) / variance * (target - middle),
        }
        assert {key: one[n] for key, one in found.items()} == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_bavaria_is_its_definition() -> None:
    evidence = random_evidence(8)
    found = scores("bavaria", evidence)
    shadow_SN = evidence.task.confidence(evidence.shadow_logits_SNC, evidence.labels_N)

    def posterior(side: FloatArray, everything: FloatArray, shape: float) -> tuple[float, float, float]:
        m, v, n = everything.mean(), everything.var(), len(side)
        beta = (v * (shape - 1) if shape > 1 else v) + ((side - side.mean()) ** 2).sum() / 2
        beta += n * (side.mean() - m) ** 2 / (2 * (1 + n))
        return 1.0 + n, shape + n / 2, beta

    for n in range(len(evidence.labels_N)):
        target, *sides = example(evidence, n)
        normals, students, prior = [], [], []
        for side, taken_SN in zip(sides, (evidence.shadow_member_SN, ~evidence.shadow_member_SN), strict=True):
            everything = shadow_SN[taken_SN]
            _, alpha, beta = posterior(side, everything, 1.0)
            normals.append(stats.norm.logpdf(target, side.mean(), np.sqrt(beta / (alpha - 1))))
            kappa, alpha, beta = posterior(side, everything, 2.0)
            location = (everything.mean() + len(side) * side.mean()) / kappa
            students.append(stats.t.logpdf(target, 2 * alpha, location, np.sqrt(beta * (kappa + 1) / (alpha * kappa))))
            prior.append(stats.norm.logpdf(target, everything.mean(), everything.std()))
        assert found["n, online"][n] == pytest.approx(normals[0] - normals[1], rel=1e-9)
        assert found["t, online"][n] == pytest.approx(students[0] - students[1], rel=1e-9)
        assert found["n, offline"][n] == pytest.approx(prior[0] - normals[1], rel=1e-9)


def test_the_joint_prior_is_its_definition() -> None:
    """By conditioning one Gaussian of four dimensions, both means and both observations, for each example."""
    evidence = random_evidence(8)
    item = SHELVES["attacks.run"].find("membership/joint")(kind="membership/joint", neighbours=500, weight=3.0)
    found_N = item.score(evidence)["joint prior"]
    pairs: list[Any] = [example(evidence, n) for n in range(len(evidence.labels_N))]
    pooled = [
        sum(((pair[side] - pair[side].mean()) ** 2).sum() for pair in pairs) / sum(len(pair[side]) - 1 for pair in pairs)
        for side in (1, 2)
    ]
    means = np.array([[pair[1].mean(), pair[2].mean()] for pair in pairs])
    spreads = np.array(
        [
            [
                (6 * pooled[side - 1] + ((pair[side] - pair[side].mean()) ** 2).sum()) / (6 + len(pair[side]) - 1)
                for side in (1, 2)
            ]
            for pair in pairs
        ]
    )
    errors = spreads / np.array([[len(pair[1]), len(pair[2])] for pair in pairs])
    values, vectors = np.linalg.eigh(np.cov(means.T) - np.diag(errors.mean(axis=0)))
    prior = vectors @ np.diag(np.maximum(values, 1e-3)) @ vectors.T
    centre = means.mean(axis=0)
    for n, (target, *_) in enumerate(pairs):
        joint = np.block([[prior, prior], [prior, prior + np.diag(errors[n])]])
        centred = centre + joint[:2, 2:] @ np.linalg.solve(joint[2:, 2:], means[n] - centre)
        left = joint[:2, :2] - joint[:2, 2:] @ np.linalg.solve(joint[2:, 2:], joint[2:, :2])
        logs = [
            stats.t.logpdf(target, 6 + len(pairs[n][1 + side]) - 1, centred[side], np.sqrt(spreads[n, side] + left[side, side]))
            for side in (0, 1)
        ]
        assert found_N[n] == pytest.approx(logs[0] - logs[1], rel=1e-6)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the authors' scores are not in $PRIVFL_DATA/bavaria_reference")
def test_scores_are_those_of_the_authors() -> None:
    """Location-30, eight shadows; the authors' scores are float32."""
    theirs = np.load(REFERENCE / "reference_scores_K8.npz")
    shadow_NS, member_NS = np.load(REFERENCE / "shadow_logits.npy"), np.load(REFERENCE / "shadow_mask.npy")
    chosen, target = theirs["shadow_idx"], 2 * int(theirs["target_pair"])

    def logits(phi: FloatArray) -> np.ndarray:
        # The signal φ is the margin of the first of two classes.
        return np.stack([phi, np.zeros_like(phi)], axis=-1).astype(np.float32)

    nothing = np.zeros(0, np.int64)
    evidence = Evidence(
        labels_N=np.zeros(len(shadow_NS), np.int64),
        logits_NC=logits(shadow_NS[:, target]),
        shadow_logits_SNC=logits(shadow_NS[:, chosen].T),
        shadow_member_SN=member_NS[:, chosen].T,
        population_labels_P=nothing,
        population_logits_PC=np.zeros((0, 2), np.float32),
        population_shadow_logits_SPC=np.zeros((len(chosen), 0, 2), np.float32),
    )
    ours = {**scores("bavaria", evidence), **scores("base", evidence), **scores("lira", evidence)}
    # BASE1 offline averages probabilities, some of them 1e-6: theirs in float32.
    for name, variant, near in (
        ("BaVarIA-n_online", "n, online", 2e-5),
        ("BaVarIA-t_online", "t, online", 2e-5),
        ("BaVarIA-n_offline", "n, offline", 2e-5),
        ("BaVarIA-t_offline", "t, offline", 2e-5),
        ("BASE1_online", "BASE1, online", 2e-5),
        ("BASE1_offline", "BASE1, offline", 2e-4),
    ):
        assert float(np.abs(ours[variant] - theirs[f"scores_{name}"]).max()) < near, name
    member_N = member_NS[:, target]
    figures = {name: auc(ours[name], member_N).value for name in ("t, online", "online", "BASE1, online")}
    assert figures["t, online"] > figures["online"] > 0.9 > figures["BASE1, online"]


def test_modified_entropy_is_exact_for_outputs_that_are_sure_and_wrong() -> None:
    """Against 60 digits. In float64 1 − p of such an output is 0, and a clipped one is off by a fifth."""
    rng = np.random.default_rng(0)
    logits_NC, labels_N = rng.normal(size=(40, 5)) * 30, rng.integers(0, 5, 40)
    log_NC = special.log_softmax(logits_NC, axis=1)
    margin_N = np.array([row[y] - special.logsumexp(np.delete(row, y)) for row, y in zip(logits_NC, labels_N, strict=True)])
    found_N = modified_entropy(log_NC, labels_N, margin_N)
    with mp.workdps(60):
        for row, y, found in zip(logits_NC, labels_N, found_N, strict=True):
            weights = [mp.exp(mpf(value)) for value in row]
            p = [weight / sum(weights) for weight in weights]
            exact = -(1 - p[y]) * mp.log(p[y]) - sum(one * mp.log(1 - one) for c, one in enumerate(p) if c != y)
            assert abs(found - float(exact)) <= 1e-9 * abs(float(exact))


def test_attack_p_has_the_order_of_the_loss_and_its_own_false_positive_rate() -> None:
    evidence, member_N = overfitted()
    score_N = scores("attack_p", evidence)["population"]
    loss_N = scores("loss", evidence)["loss"]
    assert abs(auc(score_N, member_N).value - auc(loss_N, member_N).value) < 0.01
    assert stats.spearmanr(score_N, loss_N).statistic > 0.999
    # Non-members' scores are even on [0, 1]: Kolmogorov–Smirnov with an error rate of 1e-4.
    assert stats.kstest(score_N[~member_N], "uniform").pvalue > 1e-4


def test_the_rank_average_beats_its_parts_at_low_false_positive_rates_or_comes_near() -> None:
    evidence, member_N = overfitted()
    parts = [scores("base", evidence)["BASE1, online"], scores("bavaria", evidence)["t, online"]]
    both = scores("rank_average", evidence)["BASE1 + BaVarIA-t"]
    found = [operating_point(roc(one, member_N), 0.05).tpr for one in (*parts, both)]
    values = [one.value for one in found if one is not None]
    assert values[2] >= min(values[:2])
    assert auc(both, member_N).value > min(auc(one, member_N).value for one in parts)


def test_entropy_needs_classes() -> None:
    evidence = random_evidence(0)
    numbers = Evidence(
        labels_N=np.zeros(50, np.float32),
        logits_NC=np.zeros((50, 1), np.float32),
        shadow_logits_SNC=np.zeros((0, 50, 1), np.float32),
        shadow_member_SN=evidence.shadow_member_SN,
        population_labels_P=np.zeros(40, np.float32),
        population_logits_PC=np.zeros((40, 1), np.float32),
        population_shadow_logits_SPC=np.zeros((0, 40, 1), np.float32),
        task=Regression(kind="regression"),
    )
    with pytest.raises(ConfigError, match="'membership/entropy' needs one class of several, and task = 'regression'"):
        scores("entropy", numbers)
