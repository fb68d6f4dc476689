"""A small pool that overfits within milliseconds: digits, random features, softmax regression by gradient descent."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special
from sklearn.datasets import load_digits

from attacks._coins import draw_memberships
from attacks.membership import Evidence
from privfl.running.knowledge import ModelOutputs, Shadows

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
CANDIDATES, POPULATION, FEATURES, CLASSES = 600, 600, 300, 10


@dataclass(frozen=True)
class Digits:
    x_NF: FloatArray
    y_N: NDArray[np.int64]
    population_PF: FloatArray
    population_y_P: NDArray[np.int64]
    mislabelled_N: BoolArray


@cache
def digits() -> Digits:
    rng = np.random.default_rng(0)
    raw, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(raw))
    features = np.maximum(raw[order] / 16 @ rng.normal(size=(raw.shape[1], FEATURES)) / 2, 0)
    y = labels[order].astype(np.int64)
    mislabelled = np.arange(CANDIDATES) < 60
    candidates = y[:CANDIDATES].copy()
    candidates[mislabelled] = (candidates[mislabelled] + 1 + rng.integers(0, 9, 60)) % CLASSES
    population = slice(CANDIDATES, CANDIDATES + POPULATION)
    return Digits(features[:CANDIDATES], candidates, features[population], y[population], mislabelled)


def trained(member_N: BoolArray, stream_index: int) -> ModelOutputs:
    """A procedure: gradient descent with momentum from a random start."""
    data = digits()
    weights = np.random.default_rng(100 + stream_index).normal(size=(FEATURES, CLASSES)) / 10
    momentum = np.zeros_like(weights)
    x, target = data.x_NF[member_N], np.eye(CLASSES)[data.y_N[member_N]]
    for _ in range(150):
        momentum = 0.9 * momentum + x.T @ (special.softmax(x @ weights, axis=1) - target) / len(x)
        weights = weights - 0.1 * momentum
    return outputs(weights)


def untrained(member_N: BoolArray, stream_index: int) -> ModelOutputs:
    """A procedure that looks at no data at all."""
    return outputs(np.random.default_rng(100 + stream_index).normal(size=(FEATURES, CLASSES)) / 10)


def outputs(weights: FloatArray) -> ModelOutputs:
    data = digits()
    return ModelOutputs((data.x_NF @ weights).astype(np.float32), (data.population_PF @ weights).astype(np.float32))


def evidence_of(train: Callable[[BoolArray, int], ModelOutputs], shadows: int, seed: int = 0) -> tuple[Evidence, BoolArray]:
    """What the adversary of a target gets, and the truth that it does not get."""
    data, rng = digits(), np.random.default_rng(seed)
    member_N = rng.random(CANDIDATES) < 0.5
    target = train(member_N, 10_000 + seed)
    member_SN = draw_memberships(shadows, CANDIDATES, rng)
    outputs = [train(row_N, index) for index, row_N in enumerate(member_SN)]
    some = Shadows.of(member_SN, outputs, POPULATION, (CLASSES,))
    return Evidence(
        labels_N=data.y_N,
        logits_NC=target.candidates_NC,
        shadow_logits_SNC=some.candidates_SNC,
        shadow_member_SN=member_SN,
        population_labels_P=data.population_y_P,
        population_logits_PC=target.population_PC,
        population_shadow_logits_SPC=some.population_SPC,
    ), member_N


@cache
def overfitted(shadows: int = 16) -> tuple[Evidence, BoolArray]:
    return evidence_of(trained, shadows)


def random_evidence(shadows: int, seed: int = 0, candidates: int = 50, population: int = 40) -> Evidence:
    """Logits that mean nothing, for comparing two ways to compute the same score."""
    rng = np.random.default_rng(seed)

    def logits(*shape: int) -> NDArray[np.float32]:
        return (3 * rng.normal(size=(*shape, CLASSES))).astype(np.float32)

    return Evidence(
        labels_N=rng.integers(0, CLASSES, candidates),
        logits_NC=logits(candidates),
        shadow_logits_SNC=logits(shadows, candidates),
        shadow_member_SN=draw_memberships(shadows, candidates, rng),
        population_labels_P=rng.integers(0, CLASSES, population),
        population_logits_PC=logits(population),
        population_shadow_logits_SPC=logits(shadows, population),
    )
