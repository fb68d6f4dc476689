"""The contracts of plans and cohort samplers, held by every item of their shelves and by items of one's own.

The one statistical check fails a correct sampler for fewer than one seed in 10,000; it is seeded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixed_updates import CLIP, POPULATION, D
from small_runs import SMALL, plan_for, small
from test_client_plans import check_sensitivity, moved

from privfl.config import ExperimentConfig
from privfl.errors import ConfigError, PrivacyError
from privfl.privacy.client_plans import ClientPlan
from privfl.privacy.cohorts import CohortSampler, draw_cohorts
from privfl.privacy.plans import Federation, Plan, PlanSettings
from privfl.report import write_report
from privfl.running.assembling import assemble
from privfl.running.recording import run
from privfl.seeding import Seed
from privfl.shelves import SHELVES
from privfl.tables import narrow

OWN = "own_items.smooth"
SEPARATED = {"kind": "separated", "size": 3, "separation": 3}
PLANS: dict[str, dict[str, Any]] = {
    "none": {"privacy": "none"},
    "example": {"privacy": {**SMALL["privacy"], "kind": "example"}},
    "client_central": {},
    "client_local": {},
    "client_dpftrl": {"cohort": SEPARATED},
    "client_distributed": {"cohort": {"kind": "fixed", "size": 6}, "survivors": 3, "noise_multiplier": 0.5, "bits": 24},
    OWN: {},
}
"""The configuration of each; a new plan needs a line here, and is then held to the contract."""


def config_of(kind: str, **settings: Any) -> ExperimentConfig:
    """A run under the plan, with noise too small to be seen if it is client-level."""
    given = dict(PLANS.get(kind, {}))
    cohort = given.pop("cohort", SMALL["cohort"])
    privacy = {"kind": kind, "noise_multiplier": 1e-9, "delta": 1e-3, "max_update_norm": CLIP, **given, **settings}
    return small(cohort=cohort, privacy=given.get("privacy", privacy), attacks={"shadow_models": 0})


def plan_of(kind: str) -> Plan:
    return plan_for(config_of(kind), Federation(POPULATION, POPULATION, D))


def test_every_plan_is_here() -> None:
    assert {*SHELVES["privacy"].names(), OWN} == set(PLANS)


@pytest.mark.parametrize("kind", PLANS)
def test_a_plan_clips_or_promises_nothing(kind: str) -> None:
    """Each has its clip in one place: in training, which the engines' tests hold to, or at the client, held here."""
    plan = plan_of(kind)
    assert (
        (plan.dp_sgd is not None) + plan.clips_updates
        == plan.promises
        == narrow(config_of(kind).privacy, PlanSettings).promises
    )
    if isinstance(plan, ClientPlan) and kind != "client_distributed":
        check_sensitivity(plan)


def test_a_plan_of_one_s_own_that_does_not_clip_is_found() -> None:
    plan = plan_of("own_items.unclipped")
    assert isinstance(plan, ClientPlan)
    with pytest.raises(AssertionError):
        check_sensitivity(plan)
    assert moved(plan, {}, torch.full((D,), 1e30), None) > 1e30


@pytest.mark.parametrize("kind", [kind for kind in PLANS if kind != "none"])
def test_accounts_and_words_fit_the_plan(kind: str) -> None:
    config = config_of(kind)
    plan, words = plan_of(kind), narrow(config.privacy, PlanSettings).words("none")
    assert plan.accounts((1, 2)) == (("everybody",) if plan.trusts_server else (1, 2))
    assert plan.planned(20).unit == plan.unit
    assert words.noise.format(clip=1, noise=2).endswith(".")
    assert words.public.endswith(".")
    assert plan.without_terms() == plan_for(config, Federation(POPULATION, POPULATION, D)).without_terms()


def test_a_run_under_a_plan_of_one_s_own(tmp_path: Path) -> None:
    privacy = {"kind": OWN, "target_epsilon": 200.0, "delta": 1e-3, "max_update_norm": CLIP}
    folder = run(small(privacy=privacy, rounds=2, attacks={"shadow_models": 0}), tmp_path / "run")
    result = folder.result.privacy
    assert result is not None
    assert 0 < result.epsilon <= 200.0
    assert "shrunk to less than 0.5" in write_report([folder], tmp_path / "page.html").read_text(encoding="utf-8")


# --- cohorts ----------------------------------------------------------------------------------------------------------

COHORTS: dict[str, dict[str, Any]] = {"poisson": {"size": 4}, "fixed": {"size": 4}, "all": {}, "separated": SEPARATED}


@pytest.mark.parametrize("kind", SHELVES["cohort"].names())
def test_cohorts_are_of_the_size_that_is_said(kind: str) -> None:
    sampler: CohortSampler = SHELVES["cohort"].find(kind).model_validate({"kind": kind, **COHORTS[kind]})
    cohorts = draw_cohorts(sampler, POPULATION, 300, Seed(1))
    sizes = np.array([len(cohort) for cohort in cohorts])
    assert all(list(cohort) == sorted(set(cohort)) and set(cohort) <= set(range(POPULATION)) for cohort in cohorts)
    assert sizes.max() <= sampler.largest(POPULATION)
    # 300 sums of at most 12 coins: a standard deviation of at most 0.1 of the mean, four of which are allowed.
    assert abs(sizes.mean() - sampler.expected(POPULATION)) <= (0.4 if sampler.accounted == "poisson" else 0)
    assert cohorts[:5] == draw_cohorts(sampler, POPULATION, 5, Seed(1))
    if sampler.min_separation is not None:
        plan_of("client_dpftrl").require_cohorts(cohorts)
    assert sampler.words()


def test_cohorts_that_are_not_as_far_apart_as_they_say_end_the_run_before_it_begins() -> None:
    table = {**config_of("client_dpftrl").model_dump(exclude_none=True), "cohort": {"kind": "own_items.crowded"}}
    with pytest.raises(PrivacyError, match="round 1: client 0 took part 1 rounds before"):
        assemble(small(**table))


def test_cohorts_of_one_s_own_are_counted_on_by_no_price() -> None:
    table = {**config_of("client_central").model_dump(exclude_none=True), "cohort": {"kind": "own_items.crowded"}}
    with pytest.raises(ConfigError, match=r"cohort\.kind = 'own_items\.crowded': .* draws cohorts in secret"):
        small(**table)
