"""Rules that end a run that promises nothing: a loss on examples that nobody trains on, and a target on the test part."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import SMALL, small

from attacks import _shadows as attacking
from privfl.config import EarlyStopping, ExperimentConfig, Target
from privfl.data.datasets.digits import Digits
from privfl.data.federated import FederatedData
from privfl.data.partitions.iid import Iid
from privfl.errors import ConfigError, DataError
from privfl.learning.tasks.classification import CLASSIFICATION
from privfl.records import Interval
from privfl.running.assembling import assemble
from privfl.running.experiment import Experiment
from privfl.running.recording import run
from privfl.running.stopping import reached, stop_reason
from privfl.seeding import Seed


@pytest.mark.parametrize(
    ("losses", "tolerance", "ends_with"),
    [
        # The first round with which the run ends, or None.
        ([3.0, 2.0, 1.0, 0.5], 0.0, None),
        ([3.0, 2.0, 2.5, 2.0], 0.0, 3),
        ([3.0, 2.0, 2.5, 1.9, 1.9, 1.9], 0.0, 5),
        ([3.0, 3.0, 3.0], 0.0, 2),
        ([3.0, 2.9, 2.8], 0.5, 2),
        ([3.0, 2.9, 2.4, 2.3], 0.5, None),
        # A round in which the model did not move counts for nothing.
        ([3.0, None, None, 2.0, None, 2.0], 0.0, None),
        ([None, None, None], 0.0, None),
    ],
)
def test_a_run_ends_after_so_many_rounds_without_a_better_loss(
    losses: list[float | None], tolerance: float, ends_with: int | None
) -> None:
    rule = EarlyStopping(patience=2, tolerance=tolerance)
    ends = [number for number in range(len(losses)) if stop_reason(losses[: number + 1], rule) is not None]
    assert (ends[0] if ends else None) == ends_with


def data(holdout: float = 0.2, clients: int = 10) -> FederatedData:
    item = Digits(kind="digits", clients=clients, holdout=holdout, partition=Iid(kind="iid"))
    return FederatedData.build(item.load(), item, Seed(0))


def test_examples_for_validation_are_neither_members_nor_held_out() -> None:
    """Their number is binomial: within four standard deviations, which other seeds would miss at 6e-5."""
    before = data()
    after = before.validating(0.25, np.random.default_rng(0))
    kept_N = after.validation_N
    assert kept_N is not None
    fixed = int((~before.candidate_N).sum())
    assert abs(kept_N.sum() - fixed / 4) < 4 * np.sqrt(fixed * 0.25 * 0.75)
    assert not (kept_N & (after.candidate_N | after.member_N | after.held_out())).any()
    assert np.array_equal(after.candidate_N, before.candidate_N)
    assert np.array_equal(after.member_N | kept_N, before.member_N)
    assert np.array_equal(after.held_out(), before.held_out())
    rows = np.flatnonzero(kept_N)
    for client in range(10):
        assert not np.intersect1d(after.members_of(client), rows).size
        assert not np.intersect1d(after.holdout_of(client), rows).size
        assert after.members_of(client).size
    assert not after.redrawn(np.random.default_rng(1)).member_N[kept_N].any()


def test_a_client_always_has_something_to_train_on() -> None:
    """With half of all examples held out, one of each client's is no candidate."""
    for seed in range(20):
        kept = data(holdout=0.4, clients=300).validating(0.5, np.random.default_rng(seed))
        fixed_N = ~kept.candidate_N & ~kept.validation_N  # type: ignore[operator]
        assert (np.bincount(kept.owner_N[fixed_N], minlength=300) > 0).all()
    with pytest.raises(DataError, match=r"early_stopping\.validation = 0\.5: keeps none of the 10 examples"):
        data(holdout=0.5).validating(0.5, np.random.default_rng(0))


def stopping(**changes: Any) -> ExperimentConfig:
    """A model that hardly moves: no round is better than the first that counts."""
    training = {**SMALL["training"], "lr": 1e-20, "early_stopping": {"patience": 2}}
    cohort = {"kind": "fixed", "size": 5}
    return small(
        **{"privacy": {"kind": "none"}, "training": training, "rounds": 9, "cohort": cohort, "server": "fedavg"} | changes
    )


class CrashError(Exception):
    """A crash."""


def test_a_run_that_stops_early_says_so_and_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    config = stopping()
    whole = run(config, tmp_path / "whole")
    assert whole.result.rounds == 3
    assert whole.result.stopped is not None
    assert whole.result.stopped.startswith("no validation loss in 2 rounds was better than")
    assert "depends on the clients' examples" in whole.result.stopped
    losses = [record.validation_loss for record in whole.rounds()]
    assert losses[0] == losses[1] == losses[2] == pytest.approx(np.log(10), rel=0.2)

    def crash(record: Any, _: Any) -> None:
        if record.round == 1:
            raise CrashError

    with pytest.raises(CrashError):
        run(config, tmp_path / "crashed", observer=crash)
    again = run(config, tmp_path / "crashed", resume=True)
    for name in ("rounds.jsonl", "result.json", "model.safetensors"):
        assert (again.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_a_run_that_gets_better_goes_on_and_one_without_the_rule_writes_no_loss(tmp_path: Path) -> None:
    training = {**SMALL["training"], "early_stopping": {"patience": 2, "validation": 0.5}}
    found = run(stopping(training=training, rounds=4), tmp_path / "better")
    assert (found.result.rounds, found.result.stopped) == (4, None)
    losses = [record.validation_loss or 0.0 for record in found.rounds()]
    assert losses == sorted(losses, reverse=True)
    plain = run(stopping(training=SMALL["training"], rounds=1), tmp_path / "plain")
    assert "validation_loss" not in json.loads((plain.path / "rounds.jsonl").read_text().splitlines()[0])


def test_shadow_models_stop_by_the_same_rule_and_leave_the_same_examples_out(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = assemble(stopping())
    data, step, seen = experiment.data, Experiment.step, list[Experiment]()

    def watching(self: Experiment, state: Any, **options: Any) -> Any:
        seen.append(self)
        return step(self, state, **options)

    monkeypatch.setattr(Experiment, "step", watching)
    coins = np.random.default_rng(0).random(int(data.candidate_N.sum())) < 0.5
    attacking._train_group(experiment, attacking._Job((0,), coins[None], experiment.noise_domain))
    assert len(seen) == 3
    assert data.validation_N is not None
    for shadow in seen:
        assert not shadow.data.member_N[data.validation_N].any()
        assert np.array_equal(shadow.data.member_N[data.candidate_N], coins)
        assert shadow.data.member_N[~data.candidate_N & ~data.validation_N].all()


def test_a_loss_that_is_not_finite_is_a_large_one() -> None:
    experiment = assemble(stopping())
    outcome = experiment.step(experiment.initial_state())
    usual = experiment.validation_loss(outcome)
    assert usual is not None
    far = replace(outcome, state=replace(outcome.state, global_D=outcome.state.global_D + float("nan")))
    assert experiment.validation_loss(far) == pytest.approx(3.4e38, rel=0.01)
    assert experiment.validation_loss(replace(outcome, skipped="nobody came")) is None


# --- a target on the test part ----------------------------------------------------------------------------------------


def to_target(**changes: Any) -> ExperimentConfig:
    data = {**SMALL["data"], "holdout": 0.0}
    plain = {"privacy": {"kind": "none"}, "cohort": {"kind": "all"}, "server": "fedavg", "data": data, "rounds": 6}
    training = {**SMALL["training"], "lr": 0.1}
    return small(**plain | {"evaluation": {"until": {"value": 0.7}}, "training": training} | changes)


def test_a_run_ends_with_the_first_evaluation_that_reaches_its_target(tmp_path: Path) -> None:
    whole = run(to_target(evaluation={}), tmp_path / "whole")
    values = [record.evaluation.metrics["accuracy"].value for record in whole.rounds() if record.evaluation]
    assert max(values[:2]) < values[2], "the third round is the first that is as good as itself"
    target = {"until": {"value": values[2]}}
    found = run(to_target(evaluation=target), tmp_path / "target")
    assert found.result.rounds == 3
    assert found.result.stopped == f"the test part's accuracy is {values[2]:.4g}, and the target was {values[2]:g}"
    # Until then it is the same run.
    assert [record.evaluation for record in found.rounds()] == [record.evaluation for record in whole.rounds()[:3]]
    # A round without an evaluation ends nothing.
    later = run(to_target(evaluation={"every": 4, **target}), tmp_path / "later")
    assert later.result.rounds == 4


def test_a_target_for_a_loss_is_reached_from_above() -> None:
    figures, target = CLASSIFICATION.figures, Target(metric="loss", value=0.5)

    def at(value: float) -> dict[str, Interval]:
        return {"loss": Interval(value=value, low=value, high=value, n=9, level=0.95)}

    assert reached(at(0.4), target, figures) == "the test part's loss is 0.4, and the target was 0.5"
    assert reached(at(0.6), target, figures) is None
    assert reached({}, target, figures) is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"privacy": SMALL["privacy"]}, "which no ε covers; remove it and set rounds"),
        ({"data": SMALL["data"]}, "shadow models are not evaluated and would go on; set data.holdout = 0"),
        (
            {"evaluation": {"until": {"metric": "AUC", "value": 0.9}}},
            "evaluation.until.metric = 'AUC': allowed: accuracy, loss",
        ),
        ({"evaluation": {"until": {"value": float("inf")}}}, "evaluation.until.value"),
    ],
)
def test_a_target_that_a_run_cannot_have_is_refused_before_training(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        to_target(**changes)
