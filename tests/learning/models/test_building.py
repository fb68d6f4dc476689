"""A model of somebody's own is built once, checked before anything is trained, and copied for every use."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import small
from torch import Tensor, nn

from privfl.config import ExperimentConfig
from privfl.errors import ModelError
from privfl.learning.models import Model
from privfl.learning.models._build import built, constants, sound
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic
from privfl.running.experiment import Experiment
from privfl.seeding import Seed
from privfl.vectors import to_vector

X_B, CLASSES = torch.linspace(-1, 1, 2 * 64).view(2, 1, 8, 8), 10
KIND = "my_lab.mine"
STREAM = Seed(0) / "model"


class Mine(Model):
    """Whatever a test builds."""

    make: Callable[[tuple[int, ...], int], Any]

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """See the class."""
        module: nn.Module = self.make(input_shape, classes)
        return module


def mine(make: Callable[[tuple[int, ...], int], Any]) -> Mine:
    return Mine.model_construct(kind=KIND, make=make)


def linear(width: int = CLASSES) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width))


class Gives(nn.Module):
    """A linear layer, and something done to its output."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.change = linear(), change

    def forward(self, x: Tensor) -> Any:
        """See the class."""
        return self.change(self.inner(x))


class OtherInTraining(Gives):
    """What Inception does: more than the logits, in training alone."""

    def forward(self, x: Tensor) -> Any:
        """See the class."""
        return (self.inner(x), self.inner(x)) if self.training else self.inner(x)


class Features(nn.Module):
    """Fixed random features before a linear layer; they are no parameter."""

    def __init__(self, classes: int, draw: Callable[[], Tensor]) -> None:
        super().__init__()
        self.projection, self.out = draw(), nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        found: Tensor = self.out((x.flatten(1) @ self.projection).relu())
        return found


def by_torch() -> Tensor:
    return torch.randn(64, 128)


def by_numpy() -> Tensor:
    return torch.from_numpy(np.random.standard_normal((64, 128)).astype(np.float32))  # noqa: NPY002


def by_python() -> Tensor:
    return torch.tensor([[random.gauss(0, 1) for _ in range(128)] for _ in range(64)])


def from_nowhere() -> Tensor:
    return torch.from_numpy(np.random.default_rng().standard_normal((64, 128)).astype(np.float32))


def with_a_lock() -> nn.Module:
    module = linear()
    module.lock = threading.Lock()  # type: ignore[assignment]
    return module


def closing_over() -> nn.Module:
    drawn = from_nowhere().sum()
    return Gives(lambda z: z * drawn)


def of_integers() -> nn.Module:
    height, width = torch.Size((1, 8, 8))
    return nn.Linear(height, width)


SLIPS: list[tuple[str, Callable[[], Any], str]] = [
    ("one logit", lambda: linear(1), r"gives 1 output, and the task needs 10 outputs an example: the second argument of build"),
    ("too few logits", lambda: linear(7), r"gives 7 outputs, and the task needs 10 outputs"),
    ("too many logits", lambda: linear(30), r"gives 30 outputs, and the task needs 10 outputs"),
    ("another width", lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), r"\(1, 8, 8\) an example \(RuntimeError: mat1"),
    ("no return", lambda: None, r"build\(\) returned nothing; end it with `return`"),
    ("a class", lambda: nn.Linear, r"build\(\) returned a class; it must return an nn.Module"),
    ("a list", lambda: [nn.Linear(64, 10)], r"build\(\) returned a list; it must return an nn.Module"),
    ("unpacks wrongly", of_integers, r"build\(\) failed \(ValueError: too many values to unpack"),
    ("half", lambda: linear().half(), r"1\.weight is float16; the weights must be float32"),
    ("bfloat16", lambda: linear().bfloat16(), r"1\.weight is bfloat16; the weights must be float32"),
    ("double", lambda: linear().double(), r"cannot take the data's inputs.*dtype"),
    ("TorchScript", lambda: torch.jit.script(linear()), r"build\(\) returned TorchScript"),
    ("nothing to train", nn.Flatten, r"has no parameter that is trained"),
    ("all frozen", lambda: linear().requires_grad_(False), r"has no parameter that is trained"),
    ("a tuple", lambda: Gives(lambda z: (z, z)), r"forward\(\) gives a tuple, not a tensor; return the outputs alone"),
    ("a dictionary", lambda: Gives(lambda z: {"logits": z}), r"forward\(\) gives a dict, not a tensor; return its 'logits'"),
    ("a tuple in training", lambda: OtherInTraining(lambda z: z), r"forward\(\) gives a tuple"),
    ("no rows", lambda: Gives(lambda z: z.sum(0)), r"gives a tensor of shape \(10,\) for 2 examples; it must be \(2, 10\)"),
    ("rows of two examples", lambda: Gives(lambda z: z.repeat(2, 1)), r"shape \(4, 10\) for 2 examples"),
    ("positions", lambda: Gives(lambda z: z[:, None]), r"shape \(2, 1, 10\) for 2 examples"),
    ("half logits", lambda: Gives(lambda z: z.half()), r"gives logits of float16; .*\.float\(\)"),
    ("labels", lambda: Gives(lambda z: z.argmax(1)), r"shape \(2,\) for 2 examples"),
    ("not finite", lambda: Gives(lambda z: z / 0), r"NaN or infinite before it is trained"),
    ("a lock", with_a_lock, r"cannot be copied for evaluation \(copy\.deepcopy\).*\(TypeError: cannot pickle"),
    ("drawn from nowhere", lambda: Features(10, from_nowhere), r"build\(\) gives another model each time"),
    ("closed over", closing_over, r"build\(\) gives another model each time"),
]


@pytest.mark.parametrize(("make", "says"), [slip[1:] for slip in SLIPS], ids=[slip[0] for slip in SLIPS])
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_a_slip_is_one_line_with_the_models_name(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        sound(mine(lambda *_: make()), X_B, (CLASSES,), STREAM)
    assert str(caught.value).startswith(f"model.kind = '{KIND}': ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("privacy", [{"kind": "none"}, None])
def test_a_slip_is_found_before_anything_is_trained_with_privacy_or_without(privacy: dict[str, str] | None) -> None:
    config = small(**({"privacy": privacy} if privacy else {}))
    with pytest.raises(ModelError, match="gives 30 outputs, and the task needs 10 outputs"):
        assemble(of(config, lambda *_: linear(30)))


def of(config: ExperimentConfig, make: Callable[[tuple[int, ...], int], Any]) -> ExperimentConfig:
    return config.model_copy(update={"model": mine(make)})


def lazy(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(classes))


def test_lazy_layers_are_made_whole_by_an_example_and_are_repeatable() -> None:
    whole = sound(mine(lazy), X_B, (CLASSES,), STREAM)
    assert [tuple(value.shape) for value in whole.parameters()] == [(4, 1, 3, 3), (4,), (10, 144), (10,)]
    assert torch.equal(to_vector(whole), to_vector(built(mine(lazy), X_B, (CLASSES,), STREAM)))
    assert not torch.equal(to_vector(whole), to_vector(built(mine(lazy), X_B, (CLASSES,), Seed(1))))
    assert whole.training


@pytest.mark.parametrize("draw", [by_torch, by_numpy, by_python])
def test_what_build_draws_comes_from_the_stream_and_takes_nothing_from_others(draw: Callable[[], Tensor]) -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index] # noqa: NPY002
    item = mine(lambda _, classes: Features(classes, draw))
    one, same, other = (built(item, X_B, (CLASSES,), stream) for stream in (STREAM, STREAM, Seed(1)))
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index] # noqa: NPY002
    assert before[2] == random.getstate()
    assert constants(one) == constants(same) != constants(other)
    assert sound(item, X_B, (CLASSES,), STREAM)


def holding(change: Callable[[nn.Module], None]) -> str:
    module = linear()
    change(module)
    return constants(module)


CONSTANTS: list[Callable[[nn.Module, float], None]] = [
    lambda module, value: setattr(module, "plain", torch.full((2,), value)),
    lambda module, value: setattr(module, "listed", [{"deep": torch.full((2,), value)}]),
    lambda module, value: setattr(module, "array", np.full(2, value)),
    lambda module, value: module.register_buffer("buffer", torch.full((), value)),
    lambda module, value: module.register_buffer("bits", torch.full((2,), value).bfloat16()),
    lambda module, value: module.register_parameter("frozen", nn.Parameter(torch.full((2,), value), requires_grad=False)),
]


@pytest.mark.parametrize("change", CONSTANTS)
def test_the_digest_holds_every_constant_and_no_trained_weight(change: Callable[[nn.Module, float], None]) -> None:
    found = [holding(lambda module, value=value: change(module, value)) for value in (0.5, 0.5, 0.75)]  # type: ignore[misc]
    assert found[0] == found[1] != found[2]
    # The linear layers were drawn anew each time.
    assert constants(linear()) == constants(linear()) != found[0]


FEATURES = of(
    small(rounds=15, privacy={"kind": "none"}, server={"kind": "fedavg"}), lambda _, classes: Features(classes, by_torch)
)


def projections(experiment: Experiment) -> list[Tensor]:
    return [module.projection for module in (experiment.trainer.model, experiment.model)]  # type: ignore[misc]


def test_trainer_evaluation_and_shadows_have_the_constants_of_one_build() -> None:
    experiment = assemble(FEATURES)
    trained, evaluated = projections(experiment)
    assert torch.equal(trained, evaluated)
    assert trained.data_ptr() != evaluated.data_ptr()
    shadow = experiment.shadow(0, experiment.data.member_N)
    assert all(torch.equal(one, trained) for one in projections(shadow))
    assert not torch.equal(shadow.initial_D, experiment.initial_D)
    # Another process, or an attack later, builds the same.
    assert torch.equal(projections(assemble(FEATURES))[0], trained)
    assert not torch.equal(projections(assemble(FEATURES.model_copy(update={"seed": 1})))[0], trained)


def test_random_features_are_learned_from() -> None:
    """With other features in training than in evaluation the accuracy was that of guessing."""
    experiment = assemble(FEATURES)
    with deterministic():
        final_D = experiment.train()
    right = experiment.logits(final_D, experiment.test_x).argmax(1).numpy() == experiment.data.test.y
    assert right.mean() > 0.8


def test_initial_weights_can_be_those_of_a_seed_of_pytorch() -> None:
    """As another project's script draws them; the run's own generators are left as they were."""
    item = Mine.model_construct(kind=KIND, make=lambda *_: linear(), torch_seed=42)
    before = torch.get_rng_state()
    found = to_vector(built(item, X_B, (CLASSES,), STREAM))
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(42)
        assert torch.equal(found, to_vector(linear()))
    assert torch.equal(found, to_vector(built(item, X_B, (CLASSES,), Seed(1) / "model")))
    assert not torch.equal(found, to_vector(built(mine(lambda *_: linear()), X_B, (CLASSES,), STREAM)))
