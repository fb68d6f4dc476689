import numpy as np
import torch
from pool_of_models import random_evidence

from attacks.membership.loss import Loss
from attacks.membership.rmia import probability
from privfl.auditing import auc, roc
from privfl.learning.tasks.classification import CLASSIFICATION


def test_loss_is_minus_the_cross_entropy() -> None:
    evidence = random_evidence(0)
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(evidence.logits_NC).double(), torch.from_numpy(evidence.labels_N), reduction="none"
    )
    np.testing.assert_allclose(Loss(kind="membership/loss").score(evidence)["loss"], -expected.numpy(), atol=1e-10)


def test_modified_entropy_equals_its_definition() -> None:
    evidence = random_evidence(0)
    found = Loss(kind="membership/loss").score(evidence)["modified entropy"]
    for logits, label, score in zip(evidence.logits_NC.astype(float), evidence.labels_N, found, strict=True):
        p = np.exp(logits) / np.exp(logits).sum()
        others = [(c, p_c) for c, p_c in enumerate(p) if c != label]
        expected = -(1 - p[label]) * np.log(p[label]) - sum(p_c * np.log(1 - p_c) for _, p_c in others)
        assert abs(score + expected) < 1e-10


def test_a_smaller_loss_speaks_for_membership() -> None:
    logits = np.zeros((40, 2), dtype=np.float32)
    member = np.arange(40) >= 20
    logits[:, 1] = np.arange(40)
    evidence = random_evidence(0, candidates=40)
    evidence = type(evidence)(
        np.ones(40, dtype=np.int64),
        logits,
        np.zeros((0, 40, 2), dtype=np.float32),
        np.zeros((0, 40), dtype=bool),
        np.ones(3, dtype=np.int64),
        np.zeros((3, 2), dtype=np.float32),
        np.zeros((0, 3, 2), dtype=np.float32),
    )
    for scores_N in Loss(kind="membership/loss").score(evidence).values():
        assert auc(scores_N, member).value == 1.0


def test_the_stable_logit_is_the_logit_of_the_probability_and_does_not_saturate() -> None:
    evidence = random_evidence(3)
    p = probability(CLASSIFICATION.confidence(evidence.shadow_logits_SNC, evidence.labels_N))
    np.testing.assert_allclose(
        CLASSIFICATION.confidence(evidence.shadow_logits_SNC, evidence.labels_N), np.log(p / (1 - p)), atol=1e-9
    )
    confident = np.array([[80.0, 0, 0], [90.0, 0, 0]], dtype=np.float32)
    low, high = CLASSIFICATION.confidence(confident, np.zeros(2, dtype=np.int64))
    assert high - low == 10


def test_confident_outputs_do_not_tie() -> None:
    # In single precision the cross-entropy of each of these is exactly zero, and one step takes the whole ROC.
    confident = random_evidence(0, candidates=1)
    scores = []
    for margin in (20.0, 25.0, 30.0):
        logits = np.zeros((1, 10), dtype=np.float32)
        logits[0, confident.labels_N[0]] = margin
        single = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(confident.labels_N))
        assert single.item() < 1e-7
        evidence = type(confident)(**{**vars(confident), "logits_NC": logits})
        scores.append(Loss(kind="membership/loss").score(evidence)["loss"][0])
    assert len(roc(np.array(scores), np.array([True, False, True])).fpr_T) == 4
