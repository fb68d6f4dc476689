"""Images are kept as bytes; nothing that is computed from them may tell."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from privfl.config import TrainingConfig
from privfl.data.federated import Examples, Pixels
from privfl.data.input_store import InputStore
from privfl.learning import evaluation
from privfl.learning.models.cnn import Cnn
from privfl.learning.training import LocalTask, Trainer
from privfl.learning.training.fused import Fused
from privfl.learning.training.opacus import Opacus
from privfl.privacy.plans import Plan
from privfl.privacy.plans.example import ExamplePlan
from privfl.privacy.plans.none import NoPlan
from privfl.seeding import Seed
from privfl.vectors import to_vector

CPU = torch.device("cpu")
PIXELS = Pixels((0.1, 0.5, 0.9), (0.2, 0.3, 0.4))
BYTES = np.random.default_rng(0).integers(256, size=(8, 3, 4, 4)).astype(np.uint8)


def images() -> InputStore:
    return InputStore.of(Examples(BYTES, np.zeros(8, np.int64)), PIXELS, CPU)


def test_pixels_become_numbers_by_the_textbook_formula() -> None:
    expected = (BYTES / 255 - np.reshape(PIXELS.mean_C, (3, 1, 1))) / np.reshape(PIXELS.std_C, (3, 1, 1))
    found = images()[:]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    "rows", [torch.tensor([5, 0, 5]), torch.tensor([], dtype=torch.int64), torch.arange(8) > 2, slice(2, 5), slice(7, 99)]
)
def test_some_are_the_same_numbers_as_in_all(rows: torch.Tensor | slice) -> None:
    assert torch.equal(images()[rows], images()[:][rows])


def test_what_is_kept_stays_what_it_was() -> None:
    kept = images()
    kept[:].zero_()
    kept[torch.tensor([0])].zero_()
    assert torch.equal(kept.kept, torch.from_numpy(BYTES))


def test_what_a_model_writes_into_its_input_is_not_the_data() -> None:
    numbers = InputStore(torch.ones(4, 2))
    for rows in (slice(0, 2), torch.tensor([0, 1]), torch.tensor([True, True, False, False])):
        numbers[rows].zero_()
    assert bool((numbers.kept == 1).all())


def test_arrays_that_run_backwards_are_taken() -> None:
    backwards = Examples(BYTES[..., ::-1], np.zeros(8, np.int64))
    assert torch.equal(InputStore.of(backwards, PIXELS, CPU)[:], images()[:].flip(3))


def test_bytes_that_cannot_be_written_to_are_taken_without_a_warning() -> None:
    frozen = np.frombuffer(BYTES.tobytes(), np.uint8).reshape(BYTES.shape)
    assert torch.equal(InputStore.of(Examples(frozen, np.zeros(8, np.int64)), PIXELS, CPU)[:], images()[:])


def test_joined_are_all_of_them_whatever_each_stands_for() -> None:
    one, other = images(), InputStore(torch.from_numpy(BYTES), Pixels((0.0,) * 3, (1.0,) * 3))
    alike = InputStore.joined([one, one])
    assert alike.kept.dtype == torch.uint8
    assert torch.equal(alike[:], torch.cat([one[:], one[:]]))
    assert torch.equal(InputStore.joined([one, other])[:], torch.cat([one[:], other[:]]))


def grey(count: int) -> InputStore:
    some = np.random.default_rng(1).integers(256, size=(count, 1, 28, 28)).astype(np.uint8)
    return InputStore(torch.from_numpy(some), Pixels((0.3,), (0.4,)))


@pytest.mark.parametrize("engine", [Fused, Opacus])
@pytest.mark.parametrize("of", [ExamplePlan(0.8, 0.5, 1e-5, None, 8, None, 2), NoPlan()], ids=["private", "plain"])
def test_training_on_bytes_is_training_on_their_numbers(engine: type[Trainer], of: Plan) -> None:
    stored, y = grey(60), torch.arange(60) % 10

    def deltas(x: InputStore) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = Cnn(kind="cnn").build((1, 28, 28), 10)
        tasks = [LocalTask(k, 20, x, y, torch.arange(k, 60, 3), Seed(k)) for k in range(3)]
        trainer = engine(model, TrainingConfig(local_steps=2, batch_size=8, lr=0.1), of)
        return [one.delta_D for one in trainer.train(to_vector(model), tasks)]

    for one, other in zip(deltas(stored), deltas(InputStore(stored[:])), strict=True):
        assert torch.equal(one, other)


def test_logits_of_bytes_are_those_of_their_numbers() -> None:
    """Of more than one batch, and of none."""
    model, many = Cnn(kind="cnn").build((1, 28, 28), 10), grey(600)
    vector_D = to_vector(model)
    assert torch.equal(evaluation.logits(model, vector_D, many), evaluation.logits(model, vector_D, many[:]))
    assert evaluation.logits(model, vector_D, InputStore(many[:0])).shape == (0, 10)
