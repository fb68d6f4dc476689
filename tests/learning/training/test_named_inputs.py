"""Several inputs by name: packed without a loss, given to a model as it asks for them, and trained by both engines."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from engines import by_autograd, plan, settings, starting_point
from numpy.typing import NDArray
from own_tasks.two_inputs import Both, TwoInputs
from torch import Tensor, nn

from privfl.data.federated import Examples, LoadedData
from privfl.data.input_store import InputStore
from privfl.data.named_inputs import packed, unpacked
from privfl.errors import DataError, ModelError
from privfl.learning.models import Model
from privfl.learning.models._build import built, sound
from privfl.learning.models.logistic import Logistic
from privfl.learning.training import LocalTask
from privfl.learning.training.fused import Fused
from privfl.learning.training.opacus import Opacus
from privfl.privacy.plans import Plan
from privfl.privacy.plans.none import NoPlan
from privfl.seeding import Seed
from privfl.vectors import trained

DRAW = np.random.default_rng(0)
INPUTS: dict[str, NDArray[Any]] = {
    "words": DRAW.integers(6, size=(18, 4)),
    "measured": DRAW.normal(size=(18, 2, 2)).astype(np.float32),
}
LABELS = DRAW.integers(3, size=18)
ROWS, FIELDS = packed(INPUTS)


def test_what_was_packed_comes_out_as_it_was() -> None:
    large = {"a": np.array([2**24, -(2**24), 7]), "b": np.zeros((3, 0), np.float32), "c": np.ones((3, 2, 2), np.float32)}
    rows, fields = packed(large)
    assert rows.shape == (3, 5)
    found = unpacked(torch.from_numpy(rows), fields, ("c", "a", "b"))
    assert list(found) == ["c", "a", "b"]
    for name, values in large.items():
        assert np.array_equal(found[name].numpy(), values)
        assert found[name].numpy().dtype == values.dtype


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"a": np.zeros(3)}, r"input 'a' is float64; .*\.astype\(np\.float32\)"),
        ({"a": np.zeros(3, bool)}, "input 'a' is bool; it must be float32 or int64"),
        ({"a": [1, 2]}, "input 'a' is a list"),
        ({"a b": np.zeros(3, np.float32)}, "input 'a b': its name is no Python name"),
        ({"a": np.array([2**24 + 1])}, "integers beyond 16777216"),
        ({"a": np.zeros(3, np.float32), "b": np.zeros(4, np.float32)}, r"other numbers of examples \(a: 3, b: 4\)"),
        ({}, "an empty dictionary"),
    ],
)
def test_inputs_that_cannot_be_packed_are_refused_in_one_line(inputs: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        Examples.of(inputs, LABELS[:3])
    assert "\n" not in str(caught.value)


def test_both_parts_have_the_same_inputs_and_a_bare_dictionary_is_told_the_way() -> None:
    one, other = Examples.of(INPUTS, LABELS), Examples.of({**INPUTS, "words": ROWS[:, :4]}, LABELS)
    with pytest.raises(DataError, match="inputs of other names, shapes or types"):
        LoadedData(one, other, ("a", "b", "c"), "made up")
    with pytest.raises(DataError, match=r"x of dict; .* Examples\.of\(x, y\)"):
        LoadedData(Examples(INPUTS, LABELS), one, ("a", "b", "c"), "made up")  # type: ignore[arg-type]
    renamed = Examples.of({"notes": INPUTS["words"], "measured": INPUTS["measured"]}, LABELS)
    digests = {LoadedData(part, part, ("a", "b", "c"), "made up").digest() for part in (one, renamed)}
    assert len(digests) == 2


class OneDictionary(TwoInputs):
    """The same, which takes a dictionary."""

    as_dictionary: ClassVar[bool] = True

    def build(self, input_shape: Any, outputs: int) -> nn.Module:
        """With the same weights by the same names."""
        return AsDictionary(4, outputs)


class AsDictionary(Both):
    """One argument."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        """A dictionary."""
        return super().forward(**batch)


def module_of(item: Model, dtype: torch.dtype = torch.float64) -> nn.Module:
    return built(item, torch.from_numpy(ROWS[:2]), (3,), Seed(1), FIELDS).to(dtype)


def tasks() -> list[LocalTask]:
    x, y = InputStore(torch.from_numpy(ROWS).double()), torch.from_numpy(LABELS)
    rows = torch.split(torch.from_numpy(np.random.default_rng(1).permutation(18)), [9, 3, 6])
    return [LocalTask(k, len(rows_n), x, y, rows_n, Seed(3) / "client" / k) for k, rows_n in enumerate(rows)]


@pytest.mark.parametrize("of", [plan(), NoPlan()], ids=["private", "plain"])
@pytest.mark.parametrize("kind", [TwoInputs, OneDictionary])
@pytest.mark.parametrize("engine", [Fused, Opacus])
def test_the_engines_train_what_autograd_finds(engine: type[Fused] | type[Opacus], kind: type[TwoInputs], of: Plan) -> None:
    item, config, cohort = kind(kind="mine"), settings(of, momentum=0.5), tasks()
    start_D = starting_point(module_of(item))
    for task in cohort:
        model = module_of(item)
        (found,) = engine(model, config, of).train(start_D, [task])
        weights = torch.cat([value.detach().flatten() for value in trained(model).values()])
        found_D = found.delta_D if engine is Fused else weights - start_D
        expected_D = by_autograd(module_of(item), start_D, task, of, config)
        assert float((found_D - expected_D).norm() / expected_D.norm()) < 1e-10


class Mixing(Both):
    """One input is centred over the batch."""

    def forward(self, measured: Tensor, words: Tensor) -> Tensor:
        """Of the others' too."""
        return super().forward(measured - measured.mean(0), words)


@pytest.mark.parametrize("engine", [Fused, Opacus])
def test_mixing_of_one_input_is_found_out(engine: type[Fused] | type[Opacus]) -> None:
    class Mine(TwoInputs):
        def build(self, input_shape: Any, outputs: int) -> nn.Module:
            return Mixing(4, outputs)

    with pytest.raises(ModelError, match="depends on the other examples"):
        engine(module_of(Mine(kind="mine")), settings(plan()), plan()).train(
            starting_point(module_of(Mine(kind="mine"))), tasks()
        )


def test_a_trained_module_takes_its_inputs_by_name_and_has_its_own_names() -> None:
    module, alone = module_of(TwoInputs(kind="mine"), torch.float32), Both(4, 3)
    alone.load_state_dict(module.state_dict())
    by_name = {name: torch.from_numpy(values) for name, values in INPUTS.items()}
    assert torch.equal(module(**by_name), module(torch.from_numpy(ROWS)))
    assert torch.equal(module(**by_name), alone(**by_name))


class Other(TwoInputs):
    """Takes what the data have not."""

    inputs: ClassVar[tuple[str, ...]] = ("measured", "age")


@pytest.mark.parametrize(
    ("item", "named", "says"),
    [
        (Logistic(kind="logistic"), True, "takes one tensor, and the data have measured, words; set `inputs`"),
        (Other(kind="mine"), True, "takes measured, age, and the data have measured, words"),
        (TwoInputs(kind="mine"), False, r"have one without a name; give them as Examples\.of"),
    ],
)
def test_a_model_that_takes_other_inputs_is_refused(item: Model, named: bool, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        sound(item, torch.from_numpy(ROWS[:2]), (3,), Seed(1), FIELDS if named else ())
