"""Local optimizers, schedules and gradient clipping are the same in both engines, and PyTorch's own."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import by_autograd, cohort, model, plan, settings, starting_point
from small_runs import SMALL, small
from torch.optim import SGD, lr_scheduler

from privfl.config import TrainingConfig
from privfl.errors import ConfigError
from privfl.federation.noise_domain import RunFacts, noise_domain
from privfl.learning.optimizers.adam import Adam
from privfl.learning.optimizers.adamw import AdamW
from privfl.learning.optimizers.sgd import Sgd
from privfl.learning.schedules import Schedule
from privfl.learning.schedules.constant import Constant
from privfl.learning.schedules.cosine import Cosine
from privfl.learning.schedules.linear import Linear
from privfl.learning.schedules.step import Step
from privfl.learning.training import LocalTask, LocalWork, Trainer, _cohort
from privfl.learning.training._budget import Limits
from privfl.learning.training.fused import Fused
from privfl.learning.training.opacus import Opacus
from privfl.loading import loads
from privfl.privacy.plans import Plan
from privfl.privacy.plans.none import NoPlan
from privfl.running.assembling import assemble
from privfl.seeding import Seed

ENGINES = pytest.mark.parametrize("engine", [Fused, Opacus])
# Noise that a second moment would see: it comes before the moments.
PLANS = pytest.mark.parametrize("of", [plan(noise_multiplier=0.8), NoPlan()], ids=["private", "plain"])
NAME = "residual"
SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9},
    "adam": {"optimizer": Adam(kind="adam", beta1=0.8, beta2=0.95)},
    "adam with decay": {"optimizer": Adam(kind="adam"), "weight_decay": 0.1},
    "adamw": {"optimizer": AdamW(kind="adamw", eps=1e-3), "weight_decay": 0.1},
    "clipped": {"max_grad_norm": 0.2},
    "clipped adam": {"optimizer": Adam(kind="adam"), "max_grad_norm": 0.2},
    "cosine": {"step_schedule": Cosine(kind="cosine")},
    "cosine adamw": {"optimizer": AdamW(kind="adamw"), "weight_decay": 0.1, "step_schedule": Cosine(kind="cosine")},
}


def tasks_of(*works: LocalWork) -> list[LocalTask]:
    tasks = cohort(NAME, dtype=torch.float64)
    return [replace(task, work=work) for task, work in zip(tasks, works or [LocalWork()] * 3, strict=True)]


def train(engine: type[Trainer], of: Plan, tasks: Sequence[LocalTask], **changes: Any) -> Iterator[tuple[LocalTask, Any]]:
    trainer = engine(model(NAME, torch.float64), settings(of, **changes), of)
    return zip(tasks, trainer.train(starting_point(model(NAME, torch.float64)), tasks), strict=True)


@PLANS
@ENGINES
@pytest.mark.parametrize("name", SETTINGS)
def test_an_optimizer_is_pytorch_s_own(name: str, engine: type[Trainer], of: Plan) -> None:
    """To 1e-10 in float64, for clients that take different numbers of steps at rates of their own."""
    if engine is Opacus and of != NoPlan():
        # It draws other noise in float64 than in float32.
        of = plan()
    tasks = tasks_of(LocalWork(steps=2), LocalWork(steps=6), LocalWork(steps=4, mu=0.3))
    tasks[1] = replace(tasks[1], lr_scale=0.5)
    start_D, config = starting_point(model(NAME, torch.float64)), settings(of, **SETTINGS[name])
    plain = [one.delta_D for _, one in train(engine, of, tasks)]
    for (task, found), usual_D in zip(train(engine, of, tasks, **SETTINGS[name]), plain, strict=True):
        expected_D = by_autograd(model(NAME, torch.float64), start_D, task, of, config)
        assert float((found.delta_D - expected_D).norm() / expected_D.norm()) < 1e-10
        assert float((found.delta_D - usual_D).norm() / usual_D.norm()) > 1e-3


@pytest.mark.parametrize("name", SETTINGS)
def test_the_engines_agree_under_noise(name: str) -> None:
    of, start_D, tasks = plan(noise_multiplier=0.8, local_steps=5), starting_point(model(NAME)), cohort(NAME)
    config = settings(of, **SETTINGS[name])
    fused, reference = (engine(model(NAME), config, of).train(start_D, tasks) for engine in (Fused, Opacus))
    for one, other in zip(fused, reference, strict=True):
        assert float((one.delta_D - other.delta_D).norm() / other.delta_D.norm()) < 1e-5
        assert one.event == other.event


@PLANS
@ENGINES
def test_an_optimizer_s_state_is_fresh_in_each_round(engine: type[Trainer], of: Plan) -> None:
    trainer = engine(model(NAME, torch.float64), settings(of, optimizer=Adam(kind="adam")), of)
    start_D, tasks = starting_point(model(NAME, torch.float64)), tasks_of()
    first, again = (trainer.train(start_D, tasks) for _ in range(2))
    assert all(torch.equal(one.delta_D, other.delta_D) for one, other in zip(first, again, strict=True))


def test_moments_are_counted_in_the_memory_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """A momentum is counted always."""
    begin, groups = _cohort.CohortState.begin, list[int]()

    def counting(self: Any, global_D: torch.Tensor, works: Sequence[LocalWork]) -> None:
        groups.append(len(works))
        begin(self, global_D, works)

    monkeypatch.setattr(_cohort.CohortState, "begin", counting)
    for optimizer in (Sgd(kind="sgd"), Adam(kind="adam")):
        trainer = Fused(model(NAME, torch.float64), settings(plan(), optimizer=optimizer), plan())
        trainer._limits = Limits(3, 100)
        trainer.train(starting_point(model(NAME, torch.float64)), tasks_of())
    assert groups == [3, 2, 1]


def test_an_optimizer_of_somebody_s_own_trains_in_both_engines_and_its_source_is_in_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lab_of_steps").mkdir()
    names, updates = set[str](), list[torch.Tensor]()
    for version, scale in enumerate((1.0, 1.0, 0.5)):
        body = f"weights.sub_(lr * {scale} * gradients)"
        (tmp_path / "lab_of_steps" / f"step{version}.py").write_text(OWN.replace("BODY", body))
        for engine in ("fused", "opacus"):
            training = {**SMALL["training"], "engine": engine, "optimizer": f"lab_of_steps.step{version}"}
            experiment = assemble(small(training=training))
            task = experiment.cohort(experiment.initial_state()).task(0)
            (result,) = experiment.trainer.train(experiment.initial_D, [replace(task, seed=Seed(0))])
            updates.append(result.delta_D)
        # As if it were the same file, edited.
        optimizer = experiment.config.training.optimizer.model_copy(update={"kind": "lab_of_steps.step"})
        renamed = experiment.config.training.model_copy(update={"optimizer": optimizer})
        config = experiment.config.model_copy(update={"training": renamed})
        names.add(noise_domain(config, RunFacts("opacus", "cpu", ""), experiment.plan, experiment.data))
    assert len(names) == 2
    assert torch.allclose(updates[0], updates[1], rtol=1e-4, atol=1e-6)
    assert torch.equal(updates[0], updates[2])
    assert not torch.allclose(updates[0], updates[4], rtol=1e-2)


OWN = """
from privfl.learning.optimizers import LocalOptimizer

class Own(LocalOptimizer):
    def slots(self, training):
        return ()

    def step(self, training, weights, gradients, state, lr, taken):
        BODY
"""


@ENGINES
def test_an_update_s_weight_counts_the_rates(engine: type[Trainer]) -> None:
    """Gradients that are clipped to nothing leave a drift, as a gradient that is the same in each step."""
    of = plan(noise_multiplier=1e-13, max_grad_norm=1e-13)
    drift_D = torch.linspace(1, 2, len(starting_point(model(NAME))), dtype=torch.float64)
    tasks = [replace(task, lr_scale=0.7) for task in tasks_of(*[LocalWork(drift_D=drift_D, mu=0.4, steps=5)] * 3)]
    for _, result in train(engine, of, tasks, momentum=0.5, step_schedule=Step(kind="step", every=2, gamma=0.5)):
        assert torch.allclose(result.delta_D, -0.3 * result.gradient_weight * drift_D, rtol=1e-9)
    assert all(result.gradient_weight is None for _, result in train(engine, of, tasks, optimizer=Adam(kind="adam")))


@pytest.mark.parametrize(
    ("item", "made"),
    [
        (Constant(kind="constant"), lambda one: lr_scheduler.ConstantLR(one, factor=1.0)),
        (Step(kind="step", every=3, gamma=0.5), lambda one: lr_scheduler.StepLR(one, 3, 0.5)),
        (Cosine(kind="cosine"), lambda one: lr_scheduler.CosineAnnealingLR(one, 10)),
        (Cosine(kind="cosine", floor=0.2), lambda one: lr_scheduler.CosineAnnealingLR(one, 10, eta_min=0.2)),
        (Linear(kind="linear", over=4, floor=0.2), lambda one: lr_scheduler.LinearLR(one, 1.0, 0.2, 4)),
    ],
    ids=["constant", "step", "cosine", "cosine to a floor", "linear"],
)
def test_a_schedule_is_pytorch_s_own(item: Schedule, made: Any) -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = made(optimizer)
    for at in range(10):
        assert item.factor(at, 10) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("kind", [Constant, Step, Linear, Cosine])
def test_a_warm_up_rises_linearly_to_the_schedule(kind: type[Schedule]) -> None:
    name = kind.__name__.lower()
    cold, warm = kind(kind=name), kind(kind=name, warmup=3)
    assert [warm.factor(at, 13) for at in range(3)] == [0.25, 0.5, 0.75]
    assert [warm.factor(at, 13) for at in range(3, 13)] == [cold.factor(at, 10) for at in range(10)]
    # Longer than the run, it is never left.
    assert 0 < kind(kind=name, warmup=20).factor(4, 5) < 1


def test_the_round_s_factor_is_in_its_tasks() -> None:
    training = {**SMALL["training"], "round_schedule": {"kind": "step", "every": 1, "gamma": 0.5}}
    experiment = assemble(small(training=training, rounds=3))
    states = [replace(experiment.initial_state(), round=number) for number in range(3)]
    assert [experiment.cohort(state).task(0).lr_scale for state in states] == [1.0, 0.5, 0.25]
    assert experiment.shadow(0, experiment.data.member_N).cohort(states[2]).task(0).lr_scale == 0.25


def test_settings_that_are_not_given_are_not_written() -> None:
    """So that they are in no run's name: runs from before these settings have the same noise."""
    written = small().training.model_dump()
    assert not {"optimizer", "round_schedule", "step_schedule", "max_grad_norm"} & set(written)
    chosen = small(training={**SMALL["training"], "optimizer": "adam", "step_schedule": {"kind": "cosine", "warmup": 2}})
    assert chosen.training.model_dump()["optimizer"] == {"kind": "adam", "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    assert TrainingConfig.model_validate(chosen.training.model_dump()) == chosen.training


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"momentum": 0.9, "optimizer": "adam"}, "training.momentum = 0.9: belongs to training.optimizer = 'sgd'"),
        ({"optimizer": "adm"}, "training.optimizer.kind = 'adm': did you mean 'adam'?"),
        ({"optimizer": {"kind": "adam", "beta1": 1.0}}, "training.optimizer.beta1 = 1.0: must be less than 1"),
        ({"round_schedule": "cos"}, "training.round_schedule.kind = 'cos'"),
        ({"step_schedule": {"kind": "step", "every": 0}}, "training.step_schedule.every = 0: must be greater than 0"),
        ({"max_grad_norm": 0.0}, "training.max_grad_norm = 0.0: must be greater than 0"),
        ({"max_grad_norm": 1.0}, "training.max_grad_norm = 1.0: must be absent, as privacy.kind = 'example' clips each"),
    ],
)
def test_mistakes_are_told_in_a_line(changes: dict[str, Any], said: str) -> None:
    table = {**SMALL, "privacy": {"kind": "example", "noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 1.0}}
    with pytest.raises(ConfigError) as caught:
        loads({**table, "training": {**SMALL["training"], **changes}})
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
