"""LocalWork: start, drift, pull, mask and length mean the same in both engines, and need no data."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from engines import by_autograd, cohort, model, plan, settings, starting_point, works
from small_runs import small
from torch import Tensor

from privfl.errors import ModelError, PrivacyError
from privfl.federation.checks import require_finite
from privfl.learning.training import LocalResult, LocalTask, LocalWork, Trainer
from privfl.learning.training._budget import Limits
from privfl.learning.training.fused import Fused
from privfl.learning.training.opacus import Opacus
from privfl.privacy.plans import Plan, require_planned
from privfl.privacy.plans.none import NoPlan
from privfl.running.assembling import assemble

ENGINES = (Fused, Opacus)
PLANS = pytest.mark.parametrize("of", [plan(), NoPlan()], ids=["private", "plain"])
FIELDS = ("start_D", "drift_D", "centre_D", "mu", "mask_D", "steps")
NAME = "residual"


def tasks_of(given: Sequence[LocalWork], dtype: torch.dtype = torch.float64) -> list[LocalTask]:
    return [replace(task, work=work) for task, work in zip(cohort(NAME, dtype=dtype), given, strict=True)]


def run(engine: type[Trainer], of: Plan, tasks: Sequence[LocalTask], **changes: float) -> list[LocalResult]:
    dtype = tasks[0].x.kept.dtype
    return engine(model(NAME, dtype), settings(of, **changes), of).train(starting_point(model(NAME, dtype)), tasks)


@PLANS
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fields", [*((name,) for name in FIELDS if name != "centre_D"), ("centre_D", "mu"), FIELDS])
def test_each_client_does_its_own_work(fields: tuple[str, ...], engine: type[Trainer], of: Plan) -> None:
    """To 1e-10 what a plain loop over autograd does, with momentum and weight decay."""
    start_D = starting_point(model(NAME, torch.float64))
    tasks = tasks_of(works(start_D, 3, *fields))
    found = run(engine, of, tasks, momentum=0.5, weight_decay=0.1)
    plain = run(engine, of, tasks_of([LocalWork()] * 3), momentum=0.5, weight_decay=0.1)
    config = settings(of, momentum=0.5, weight_decay=0.1)
    for task, one, other in zip(tasks, found, plain, strict=True):
        expected_D = by_autograd(model(NAME, torch.float64), start_D, task, of, config)
        assert float((one.delta_D - expected_D).norm() / expected_D.norm()) < 1e-10
        assert float((one.delta_D - other.delta_D).norm()) > 1e-3
        assert one.steps == (task.work.steps or 3)


@PLANS
@pytest.mark.parametrize("limits", [Limits(1, 100), Limits(4, 2)], ids=["few clients", "few examples"])
def test_work_goes_with_its_client_where_a_cohort_is_cut(limits: Limits, of: Plan) -> None:
    start_D = starting_point(model(NAME, torch.float64))
    tasks = tasks_of(works(start_D, 3, *FIELDS))
    trainer = Fused(model(NAME, torch.float64), settings(of), of)
    trainer._limits = limits
    for one, other in zip(trainer.train(start_D, tasks), run(Opacus, of, tasks), strict=True):
        assert float((one.delta_D - other.delta_D).norm() / other.delta_D.norm()) < 1e-10
    assert Limits(12, 9).clients_with(0) == 12
    assert Limits(12, 9).clients_with(3) == 6
    assert Limits(1, 9).clients_with(4) == 1


@pytest.mark.parametrize("fields", [(name,) for name in FIELDS] + [FIELDS])
def test_the_engines_agree_under_noise(fields: tuple[str, ...]) -> None:
    of, start_D = plan(noise_multiplier=0.8, local_steps=5, batch_size=3), starting_point(model(NAME))
    tasks = tasks_of(works(start_D, 3, *fields), torch.float32)
    for one, other in zip(run(Fused, of, tasks), run(Opacus, of, tasks), strict=True):
        assert float((one.delta_D - other.delta_D).norm() / other.delta_D.norm()) < 1e-5
        assert (one.event, one.steps, one.clipped_share) == (other.event, other.steps, other.clipped_share)
        assert one.gradient_weight == other.gradient_weight


@pytest.mark.parametrize("of", [plan(noise_multiplier=0.8), NoPlan()], ids=["private", "plain"])
@pytest.mark.parametrize("engine", ENGINES)
def test_work_that_says_nothing_new_changes_no_bit(engine: type[Trainer], of: Plan) -> None:
    start_D = starting_point(model(NAME))
    nothing = LocalWork(start_D.clone(), torch.zeros_like(start_D), start_D.clone(), 0.0, torch.ones_like(start_D).bool(), 3)
    found, plain = (run(engine, of, tasks_of([work] * 3, torch.float32)) for work in (nothing, LocalWork()))
    assert all(torch.equal(one.delta_D, other.delta_D) for one, other in zip(found, plain, strict=True))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_client_without_terms_of_its_own_trains_as_ever_beside_one_that_has_them(engine: type[Trainer]) -> None:
    start_D = starting_point(model(NAME, torch.float64))
    given = works(start_D, 3, *FIELDS)
    mixed, plain = (run(engine, plan(), tasks_of(some)) for some in ([given[0], LocalWork(), given[2]], [LocalWork()] * 3))
    assert torch.allclose(mixed[1].delta_D, plain[1].delta_D, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("engine", ENGINES)
def test_drift_is_neither_clipped_nor_divided(engine: type[Trainer]) -> None:
    """A thousand times as long as the clip, and one step moves by just that more; the noise that was measured is the same."""
    of, start_D = plan(noise_multiplier=0.8, local_steps=1), starting_point(model(NAME))
    drift_D = torch.linspace(-600, 600, len(start_D))
    moved, still = (run(engine, of, tasks_of([LocalWork(drift_D=of_D)] * 3, torch.float32)) for of_D in (drift_D, None))
    for one, other in zip(moved, still, strict=True):
        assert torch.allclose(one.delta_D - other.delta_D, -0.3 * drift_D, atol=1e-3)
        assert (one.event, one.clipped_share, one.zeroed) == (other.event, other.clipped_share, other.zeroed)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_drift_that_is_not_finite_ends_the_round(engine: type[Trainer]) -> None:
    start_D = starting_point(model(NAME))
    drift_D = torch.zeros_like(start_D)
    drift_D[3] = torch.inf
    results = run(engine, plan(noise_multiplier=0.8), tasks_of([LocalWork(drift_D=drift_D)] * 3, torch.float32))
    with pytest.raises(ModelError, match="not finite"):
        require_finite(results)


@pytest.mark.parametrize("engine", ENGINES)
def test_steps_that_were_not_planned_are_in_the_event_and_are_refused(engine: type[Trainer]) -> None:
    """Nobody's account is charged for fewer steps than were taken."""
    of = plan(noise_multiplier=0.8)
    tasks = tasks_of([LocalWork(), LocalWork(steps=7), LocalWork(steps=1)], torch.float32)
    results = run(engine, of, tasks)
    assert [result.event.steps for result in results if result.event] == [3, 7, 1]
    require_planned(results[0].event, of.planned(tasks[0].size), "client 0")
    for task, result in list(zip(tasks, results, strict=True))[1:]:
        with pytest.raises(PrivacyError, match="was planned; nothing was sent"):
            require_planned(result.event, of.planned(task.size), f"client {task.client}")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("momentum", "mu", "closed"),
    [(0.0, 0.0, 5.0), (0.5, 0.0, (5 - 0.5 * (1 - 0.5**5) / 0.5) / 0.5), (0.0, 0.4, (1 - 0.88**5) / 0.12), (0.5, 0.4, None)],
)
def test_the_gradients_weight_in_an_update(engine: type[Trainer], momentum: float, mu: float, closed: float | None) -> None:
    """Gradients that are clipped to nothing leave a drift, as a gradient that is the same in each step."""
    of, start_D = plan(noise_multiplier=1e-13, max_grad_norm=1e-13), starting_point(model(NAME, torch.float64))
    drift_D = torch.linspace(1, 2, len(start_D), dtype=torch.float64)
    tasks = tasks_of([LocalWork(drift_D=drift_D, mu=mu, steps=5)] * 3)
    for result in run(engine, of, tasks, momentum=momentum):
        assert result.gradient_weight is not None
        assert torch.allclose(result.delta_D, -0.3 * result.gradient_weight * drift_D, rtol=1e-9)
        assert closed is None or result.gradient_weight == pytest.approx(closed, rel=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_vectors_of_another_model_are_refused(engine: type[Trainer]) -> None:
    with pytest.raises(ValueError, match="drift_D has shape"):
        run(engine, NoPlan(), tasks_of([LocalWork(drift_D=torch.zeros(3))] * 3))


@pytest.mark.parametrize("wrong", [{"mu": -0.1}, {"mu": float("inf")}, {"steps": 0}])
def test_work_that_nobody_can_do_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LocalWork(**wrong)  # type: ignore[arg-type]


def test_fedprox_is_a_pull_to_the_global_model() -> None:
    def update(mu: float) -> Tensor:
        training = {"local_steps": 3, "batch_size": 16, "lr": 0.5}
        experiment = assemble(small(training=training, algorithm={"kind": "fedprox", "mu": mu}))
        task = experiment.cohort(experiment.initial_state()).task(0)
        assert task.work.mu == mu
        assert not task.work.vectors
        return experiment.trainer.train(experiment.initial_D, [replace(task, seed=task.seed / "same")])[0].delta_D

    assert not torch.equal(update(0.5), update(0.0))
