"""Every protection of a client-level plan, taken away once: a check that guards it must turn red.

A mutant is an edit of a function's source, made in memory; the tree is left as it is. The text that it replaces must be
there exactly once, so that a mutant cannot outlive the code that it was made for. The same is done to the engine of
example-level plans in ``tests/learning/training/test_opacus_engine.py``.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import test_adaptive_norms as of_norms
import test_client_plans as of_plans
import test_known_pitfalls as of_traps
import test_named_streams as of_streams
import test_recorded_plans as of_runs

from privfl.errors import PrivacyError, ProtocolError
from privfl.federation import rounds
from privfl.privacy import client_plans, clipping, distributed, events, ledger
from privfl.privacy.plans import client_central, client_dpftrl, client_local
from privfl.running import assembling, experiment, timing
from privfl.seeding import Seed

RED = (AssertionError, PrivacyError, ProtocolError)

Check = Callable[[], object]


class Edit(NamedTuple):
    owner: Any
    name: str
    old: str
    new: str


def mutate(monkeypatch: pytest.MonkeyPatch, edit: Edit) -> None:
    found = inspect.getattr_static(edit.owner, edit.name)
    wrapped = {property: lambda one: one.fget, classmethod: lambda one: one.__func__}.get(type(found), lambda one: one)(found)
    function = inspect.unwrap(wrapped)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(edit.old) == 1, f"{edit.name} has changed: {edit.old!r} is not there exactly once"
    namespace: dict[str, Any] = {}
    # ``super()`` without arguments needs the class that a method was written in.
    text = source.replace(edit.old, edit.new).replace("super().", f"super({getattr(edit.owner, '__name__', '')}, self).")
    exec(text, {**vars(inspect.getmodule(function)), "property": property}, namespace)
    monkeypatch.setattr(edit.owner, edit.name, namespace[edit.name])


Central, Local = client_central.CentralPlan, client_local.LocalPlan

EVERY_ROUND = Edit(experiment.Experiment, "stream", '"round" / state.round', '"round"')
PUBLIC_SEED = Edit(experiment.Experiment, "stream", "self.secret", "self.seed")

MUTANTS: list[tuple[str, Check, Edit]] = [
    (
        "drop the clip",
        of_plans.check_sensitivity,
        Edit(client_plans.ClientPlan, "at_client", "clipped.delta_D,", "delta_D.nan_to_num(),"),
    ),
    (
        "halve the central noise",
        of_plans.check_noise,
        Edit(Central, "at_server", "self._update_noise() * self.scale, norm", "self._update_noise() * self.scale / 2, norm"),
    ),
    (
        "halve the clients' noise",
        of_plans.check_noise,
        Edit(Local, "at_client", "self._noise(), self.max_update_norm", "self._noise() / 2, self.max_update_norm"),
    ),
    (
        "divide by the realised cohort",
        of_plans.check_denominator_is_fixed,
        Edit(Central, "at_server", "noised_D / event.denominator", "noised_D / max(total.weight, 1.0)"),
    ),
    (
        "weight by the number of examples",
        of_plans.check_weights_are_uniform,
        Edit(client_plans.ClientPlan, "weight", "return 1.0", "return size / largest"),
    ),
    (
        "skip an empty cohort",
        of_plans.check_an_empty_cohort_is_a_round,
        Edit(rounds, "skip_reason", "plan.trusts_server", "plan.trusts_server and cohort"),
    ),
    (
        "reuse a seed over clients",
        of_plans.check_noise_is_independent,
        Edit(Local, "at_client", 'stream / "noise"', 'Seed(0) / "noise"'),
    ),
    (
        "reuse a seed over rounds",
        of_plans.check_noise_is_independent,
        Edit(Central, "at_server", 'stream / "noise"', 'Seed(0) / "noise"'),
    ),
    (
        "shares for the cohort and not for the survivors",
        of_plans.check_shares_suffice_for_the_survivors,
        Edit(distributed.DistributedCodec, "fit", "clip / math.sqrt(survivors)", "clip / math.sqrt(clients)"),
    ),
    (
        "shares larger than the survivors need",
        of_plans.check_shares_suffice_for_the_survivors,
        Edit(distributed.DistributedCodec, "fit", "clip / math.sqrt(survivors)", "clip"),
    ),
    (
        "a stale accumulator",
        of_plans.check_sensitivity,
        Edit(
            rounds.Round,
            "_total",
            "WeightedSum(aggregate.sum_D.to(state.global_D.device),",
            "WeightedSum(STALE.setdefault(0, torch.zeros_like(aggregate.sum_D)).add_(aggregate.sum_D).clone(),",
        ),
    ),
    (
        "clip to another norm than the noise is scaled to",
        of_plans.check_sensitivity,
        Edit(client_plans.ClientPlan, "_norm", "else self.max_update_norm", "else 2 * self.max_update_norm"),
    ),
    (
        "clip in two places, to two norms: the wider one is handed in",
        of_plans.check_sensitivity,
        Edit(
            client_plans.ClientPlan,
            "at_client",
            "Contribution(clipped.delta_D,",
            "Contribution(clip_update(delta_D, 2 * norm, layout, self.scheme).delta_D,",
        ),
    ),
    (
        "clip in two places, to two norms: a narrower one follows",
        of_plans.check_a_plan_only_clips_and_adds,
        Edit(
            client_plans.ClientPlan,
            "at_client",
            "Contribution(clipped.delta_D,",
            "Contribution(clip_update(clipped.delta_D, norm / 2, layout, self.scheme).delta_D,",
        ),
    ),
    (
        "rounding is not covered by the noise",
        of_plans.check_rounding_is_covered,
        Edit(
            rounds.Round,
            "_hand_in",
            "self.aggregator.rounding_norm(context) if self.plan.trusts_server else 0.0",
            "0.0",
        ),
    ),
    (
        "one participation too few",
        of_plans.check_participations_are_counted,
        Edit(client_dpftrl.DpftrlPlan, "planned", "-(-self.rounds // self.separation)", "self.rounds // self.separation"),
    ),
    (
        "a client's streams are those of every round",
        of_streams.check_clients_streams_are_apart,
        EVERY_ROUND,
    ),
    (
        "all clients have one stream",
        of_streams.check_clients_streams_are_apart,
        Edit(experiment.Experiment, "tasks", 'stream / "client" / client', 'stream / "client"'),
    ),
    (
        "clients' streams are the public seed's",
        of_streams.check_clients_streams_are_apart,
        PUBLIC_SEED,
    ),
    (
        "the server's noise is that of every round",
        of_streams.check_server_streams_are_apart,
        EVERY_ROUND,
    ),
    (
        "the server's noise is the public seed's",
        of_streams.check_server_streams_are_apart,
        PUBLIC_SEED,
    ),
    (
        "shares are those of every round",
        of_streams.check_shares_are_apart,
        EVERY_ROUND,
    ),
    (
        "shares are the public seed's",
        of_streams.check_shares_are_apart,
        PUBLIC_SEED,
    ),
    (
        "secret cohorts are the public seed's",
        of_streams.check_secret_cohorts_are_of_no_seed,
        Edit(assembling, "_assembled", "config, data, seed, secret, name)", "config, data, seed, seed, name)"),
    ),
    (
        "cohorts are those of every other setting",
        of_runs.check_runs_of_one_seed_draw_cohorts_of_their_own,
        Edit(timing, "planned_turns", "stream / name if", "stream if"),
    ),
    (
        "layers clipped to C each",
        of_plans.check_sensitivity,
        Edit(clipping, "clip_update", "norm / math.sqrt(len(parts))", "norm"),
    ),
    (
        "wrong relation for a fixed cohort",
        of_plans.test_a_fixed_cohort_is_priced_by_replacement,
        Edit(Central, "relation", '"replace_one" if', '"add_or_remove_one" if'),
    ),
    (
        "an event of the wrong relation",
        of_runs.check_prices_are_those_of_the_mechanisms,
        Edit(
            events.CohortSum, "releases", "one = FixedSizeGaussian(self.population, self.size, noise)", "one = Gaussian(noise)"
        ),
    ),
    (
        "amplification against clients that see the roster",
        of_plans.test_who_is_protected_from_whom,
        Edit(Central, "adversaries", 'self.sampler != "all"', "False"),
    ),
    (
        "the executed ε is the imagined one",
        of_plans.test_an_imagined_population_never_lends_its_epsilon_to_the_run,
        Edit(Central, "_event", "self._update_noise() * self.scale,", "self._update_noise(),"),
    ),
    (
        "the count costs nothing",
        of_norms.test_an_adaptive_norm_splits_the_noise_as_andrew_2021,
        Edit(Central, "_update_noise", "if self.adaptive is None:", "if True:"),
    ),
    (
        "halve the noise of the count",
        of_norms.check_count_noise,
        Edit(Central, "_adapted", "noised(count_1, multiplier,", "noised(count_1, multiplier / 2,"),
    ),
    (
        "the count shares the sum's noise",
        of_norms.check_count_noise,
        Edit(Central, "_adapted", 'stream / "count"', 'stream / "noise"'),
    ),
    (
        "a count of those who were lost",
        of_norms.test_the_count_is_of_those_whose_updates_arrived,
        Edit(
            rounds.Round,
            "_outcome",
            "release = plan.at_server(self._total(state, aggregate),",
            "total = self._total(state, aggregate)\n"
            "        total.sum_D[-1] = sum(one.within - 0.5 for one in done.handed_in)\n"
            "        release = plan.at_server(total,",
        ),
    ),
    (
        "an adaptive norm that clips nothing",
        of_traps.test_trap_1_adaptive_clipping_that_clips_nothing,
        Edit(client_plans.ClientPlan, "at_client", "clipped.delta_D,", "delta_D.nan_to_num(),"),
    ),
    (
        "noise of the norm that the run began with",
        of_traps.test_trap_2_noise_that_does_not_follow_the_norm,
        Edit(Central, "at_server", "self.scale, norm,", "self.scale, self.max_update_norm,"),
    ),
    (
        "a non-finite update goes through",
        of_plans.check_sensitivity,
        Edit(clipping, "clip_update", "if not bool(torch.isfinite(delta_D).all()):", "if False:"),
    ),
]


@pytest.fixture(autouse=True)
def _no_price_is_remembered() -> Iterator[None]:
    ledger._history.cache_clear()
    yield
    ledger._history.cache_clear()


@pytest.mark.parametrize(("check", "edit"), [mutant[1:] for mutant in MUTANTS], ids=[mutant[0] for mutant in MUTANTS])
def test_a_broken_plan_is_caught(check: Check, edit: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (client_central, client_local, rounds):
        monkeypatch.setattr(module, "Seed", Seed)
    monkeypatch.setattr(rounds, "STALE", {}, raising=False)
    mutate(monkeypatch, edit)
    if edit.owner is clipping:
        # The plans imported the function by name.
        monkeypatch.setattr(client_plans, edit.name, getattr(clipping, edit.name))
    if edit.owner is timing:
        monkeypatch.setattr(assembling, edit.name, getattr(timing, edit.name))
    if edit.owner is rounds:
        monkeypatch.setattr(of_plans, edit.name, getattr(rounds, edit.name))
    with pytest.raises(RED):
        check()
