"""The plan: what training and accounting both read."""

import pytest
from small_runs import SMALL, plan_for, small

from privfl.privacy.plans import Federation
from privfl.privacy.plans.example import Example, ExamplePlan
from privfl.privacy.plans.none import NoPlan


def plan(**changes: object) -> ExamplePlan:
    training = {"local_epochs": 2, "batch_size": 32, "lr": 0.1, **changes}
    made = plan_for(small(privacy={**SMALL["privacy"], "max_grad_norm": 0.5}, training=training), Federation(10, 5, 650))
    assert isinstance(made, ExamplePlan)
    return made


def test_no_privacy_has_no_plan() -> None:
    assert plan_for(small(privacy={"kind": "none"}), Federation(10, 5, 650)) == NoPlan()


@pytest.mark.parametrize(
    ("examples", "rate", "steps", "expected"),
    [(320, 0.1, 20, 32.0), (100, 0.32, 8, 32.0), (32, 1.0, 2, 32.0), (5, 1.0, 2, 5.0), (1, 1.0, 2, 1.0)],
)
def test_local_training(examples: int, rate: float, steps: int, expected: float) -> None:
    event = plan().planned(examples)
    assert event.sample_rate == pytest.approx(rate)
    assert event.steps == steps
    assert event.expected_batch_size == pytest.approx(expected)


def test_local_steps_are_taken_as_given() -> None:
    assert plan(local_epochs=None, local_steps=7).planned(1000).steps == 7


def test_budget_is_the_target_unless_given() -> None:
    base = {"kind": "example", "delta": 1e-5, "max_grad_norm": 1.0}
    assert Example(**base, target_epsilon=3.0).budget == 3.0  # type: ignore[arg-type]
    assert Example(**base, target_epsilon=3.0, max_epsilon=2.0).budget == 2.0  # type: ignore[arg-type]
    assert Example(**base, noise_multiplier=1.0).budget is None  # type: ignore[arg-type]
