"""What is said about reconstructions once the truth is open: of images, numbers, tokens and labels."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from privfl.auditing.questions import AttackClaim, Claims, Truth, _compared
from privfl.auditing.questions.reconstruction import (
    Reconstructed,
    Reconstruction,
    ReconstructionClaim,
    ReconstructionRecord,
)
from privfl.errors import DataError, ItemError

OWNER = np.repeat(np.arange(10), 8)
MEMBER = np.arange(80) % 4 != 0


def images(generator: np.random.Generator, n: int) -> np.ndarray:
    return generator.integers(0, 256, (n, 1, 12, 12), dtype=np.uint8)


def numbers(generator: np.random.Generator, n: int) -> np.ndarray:
    return generator.normal(size=(n, 5)).astype(np.float32) * [1, 10, 100, 1, 1]


def tokens(generator: np.random.Generator, n: int) -> np.ndarray:
    return generator.integers(0, 50, (n, 6)).astype(np.float32)


def truth_of(
    made: Callable[[np.random.Generator, int], np.ndarray], fresh: int = 300, seed: int = 7
) -> tuple[Truth, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    x, y, fresh_x = made(generator, 80), generator.integers(0, 4, 80), made(generator, fresh)
    fresh_y = generator.integers(0, 4, fresh)
    everybody = np.ones(80, dtype=bool)
    truth = Truth(OWNER, everybody, MEMBER, lambda: np.random.default_rng(0), lambda: (x, y), lambda: (fresh_x, fresh_y))
    return truth, x, y


def judged(truth: Truth, *made: Reconstructed) -> ReconstructionRecord:
    claim = ReconstructionClaim({"one": made}).checked("mine", 80)
    arrays = claim.arrays("mine")
    again = ReconstructionClaim.from_arrays("mine", arrays)
    assert again.arrays("mine").keys() == arrays.keys()
    finding = Reconstruction().evaluate(Claims("server", 0, {"mine": AttackClaim(again, (0,))}), truth, None)
    assert type(finding).model_validate_json(finding.model_dump_json()) == finding
    return finding.attacks[0]


def of(client: int) -> np.ndarray:
    return np.flatnonzero((client == OWNER) & MEMBER)


def test_exact_images_are_recognised_in_any_order_and_beside_others() -> None:
    truth, x, y = truth_of(images)
    rows = of(3)[::-1]
    wrong = np.random.default_rng(1).random((4, 1, 12, 12)).astype(np.float32)
    claimed = np.concatenate([wrong, (x[rows] / 255).astype(np.float32)])
    found = judged(truth, Reconstructed(0, (3,), claimed, np.concatenate([np.zeros(4, np.int64), y[rows]])))
    assert (found.claimed, found.trained_on, found.targets, found.clients) == (10, 6, 1, [3])
    assert found.recognised is not None
    assert found.recognised.value == 1
    assert found.exact is not None
    assert found.exact.value == 1
    assert [one.name for one in found.measures] == ["PSNR", "SSIM"]
    assert found.measures[0].median.value == 100
    assert found.measures[1].median.value == pytest.approx(1)
    assert found.measures[0].chance < 15
    assert found.labels is not None
    assert (found.labels.right.value, found.labels.right.n) == (1, 6)
    assert found.labels.chance == pytest.approx(0.25, abs=0.06)
    assert len(found.pictures) == 6
    shown = [np.array(Image.open(io.BytesIO(base64.b64decode(one.original)))) for one in found.pictures]
    assert sorted(one.tobytes() for one in shown) == sorted(x[row, 0].tobytes() for row in rows)
    assert [one.original == one.reconstruction for one in found.pictures] == [True] * 6


def test_inputs_of_others_and_of_hold_outs_do_not_count() -> None:
    truth, x, _ = truth_of(images)
    for rows in (of(4), np.flatnonzero((OWNER == 3) & ~MEMBER)):
        found = judged(truth, Reconstructed(0, (3,), (x[rows] / 255).astype(np.float32)))
        assert found.recognised is not None
        assert found.recognised.value == 0
        assert found.labels is None
    # Of a sum they count, whoever of the clients trained on them.
    found = judged(truth, Reconstructed(0, (3, 4), (x[of(4)] / 255).astype(np.float32)))
    assert found.recognised is not None
    assert (found.recognised.value, found.recognised.n) == (0.5, 12)


@pytest.mark.parametrize("made", [images, numbers, tokens])
def test_guesses_are_chance(made: Callable[[np.random.Generator, int], np.ndarray]) -> None:
    """As many fresh inputs as chance has, claimed of every client, recognise about a twentieth of the inputs."""
    shares, likeness = [], []
    for seed in range(20):
        truth, _, _ = truth_of(made, seed=seed)
        guesses = made(np.random.default_rng(100 + seed), 300)
        guesses = guesses / np.float32(255) if made is images else guesses.astype(np.int64) if made is tokens else guesses
        found = judged(truth, *(Reconstructed(0, (client,), guesses) for client in range(10)))
        assert found.recognised is not None
        assert found.exact is not None
        assert found.exact.value == 0
        assert len(found.pictures) == (8 if made is images else 0)
        shares.append(found.recognised.value)
        likeness.append(found.measures[0].median.value / found.measures[0].chance)
    # The 95 % quantile of 60 inputs leaves .06 of as many more above it, with a standard deviation of about .04; three standard
    # errors of the mean of 20 are .03. By chance this fails once in 700 seeds at most.
    assert np.mean(shares) < 0.09
    assert np.mean(likeness) == pytest.approx(1, abs=0.05)


def test_numbers_are_compared_in_standard_deviations() -> None:
    truth, x, _ = truth_of(numbers)
    deviation = truth.population()[0].std(0)
    found = judged(truth, Reconstructed(0, (2,), (x[of(2)] + 0.01 * deviation).astype(np.float32)))
    (measure,) = found.measures
    assert (measure.name, measure.higher_is_better) == ("normalised error", False)
    assert measure.median.value == pytest.approx(0.01, rel=1e-3)
    assert measure.chance > 0.1
    assert found.recognised is not None
    assert found.recognised.value == 1
    assert found.exact is not None
    assert found.exact.value == 0


def test_tokens_are_compared_one_by_one() -> None:
    truth, x, _ = truth_of(tokens)
    claimed = x[of(2)].astype(np.int64)
    claimed[:3, 0] += 1
    found = judged(truth, Reconstructed(0, (2,), claimed))
    (measure,) = found.measures
    assert (measure.name, measure.unit) == ("tokens right", "%")
    assert measure.median.value == pytest.approx((1 + 5 / 6) / 2)
    assert found.exact is not None
    assert found.exact.value == 0.5
    assert found.recognised is not None
    assert found.recognised.value == 1


@pytest.mark.parametrize(
    ("claimed", "right", "of_all"),
    [([0, 0, 1, 2], 4, 4), ([2, 1, 0, 0], 4, 4), ([0, 0, 0, 0], 2, 4), ([3], 0, 4), ([0, 0, 1, 2, 3, 3], 4, 6)],
)
def test_labels_alone_are_a_collection(claimed: Sequence[int], right: int, of_all: int) -> None:
    truth, x, _ = truth_of(images)
    y = np.full(80, 3)
    y[:4] = [0, 1, 0, 2]
    own = Truth(
        np.repeat([0, 1], [4, 76]),
        np.ones(80, bool),
        np.ones(80, bool),
        truth.halves_generator,
        lambda: (x, y),
        truth.population,
    )
    found = judged(own, Reconstructed(0, (0,), None, np.array(claimed)))
    assert found.labels is not None
    assert found.labels.right.value == pytest.approx(right / of_all)
    assert 0 < found.labels.chance < 1
    assert (found.measures, found.recognised, found.exact, found.pictures) == ([], None, None, [])


def test_nothing_found_and_nothing_trained_on() -> None:
    truth, x, _ = truth_of(images)
    nothing = judged(truth, Reconstructed(0, (3,), np.zeros((0, 1, 12, 12), np.float32)))
    assert nothing.recognised is not None
    assert (nothing.recognised.value, nothing.recognised.n, nothing.measures, nothing.pictures) == (0, 6, [], [])
    broken = judged(truth, Reconstructed(0, (3,), np.full((2, 1, 12, 12), np.nan, np.float32)))
    assert broken.measures[0].median.value == -100
    assert broken.recognised is not None
    assert broken.recognised.value == 0
    nobody = Truth(OWNER, MEMBER, np.zeros(80, bool), truth.halves_generator, truth.examples, truth.population)
    found = judged(nobody, Reconstructed(0, (3,), (x[:1] / 255).astype(np.float32)))
    assert found.recognised is None
    with pytest.raises(DataError, match=r"no example is trained on; lower data\.holdout"):
        Reconstruction().require_possible(nobody)


@pytest.mark.parametrize(
    "made",
    [
        {},
        {"one": []},
        {"one": [Reconstructed(0, (3,), None)]},
        {"one": [Reconstructed(0, (), np.zeros((1, 2)))]},
        {"one": [Reconstructed(0, (3,), np.zeros((1, 2)), np.zeros(2, np.int64))]},
    ],
)
def test_a_claim_that_says_nothing_is_refused(made: Any) -> None:
    with pytest.raises(ItemError, match=r"^attack 'mine'"):
        ReconstructionClaim(made).checked("mine", 80)


def test_many_inputs_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, x, y = truth_of(images)
    claimed = [Reconstructed(0, (client,), (x[of(client)] / 255).astype(np.float32), y[of(client)]) for client in range(10)]
    whole = judged(truth, *claimed)
    monkeypatch.setattr(_compared, "_AT_ONCE", 7)
    assert judged(truth, *claimed) == whole
    assert whole.pictures[0].original not in repr(whole)


def test_inputs_of_another_shape_are_refused() -> None:
    truth, _, _ = truth_of(images)
    with pytest.raises(
        DataError, match=r"^attack 'mine': claims inputs of shape \(144,\); those of the data have \(1, 12, 12\)$"
    ):
        judged(truth, Reconstructed(0, (3,), np.zeros((2, 144))))
