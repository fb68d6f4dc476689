"""Assembling a run: what is fixed before anything is trained."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import SMALL, small

from privfl.data.input_store import InputStore
from privfl.errors import ConfigError, DataError, ModelError, ProcessError
from privfl.federation.aggregators.mean import Mean
from privfl.federation.aggregators.secure_sum import SecureSum
from privfl.federation.outcome import RoundOrder
from privfl.federation.rounds import Round
from privfl.learning.training import LocalTask, _choice
from privfl.privacy.accounting import epsilon
from privfl.privacy.mechanisms import History, PoissonGaussian
from privfl.privacy.plans.example import ExamplePlan
from privfl.privacy.plans.none import NoPlan
from privfl.processes import Alone
from privfl.running import assembling
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic
from privfl.running.pricing import account, format_epsilon
from privfl.vectors import to_vector

ADAPTIVE: dict[str, Any] = {
    "kind": "client_central",
    "noise_multiplier": 0.4,
    "delta": 1e-4,
    "max_update_norm": 1.0,
    "clipping": {"kind": "adaptive"},
}


def test_target_epsilon_fixes_the_noise_for_the_very_cohorts_that_will_be_drawn() -> None:
    privacy = {"kind": "example", "target_epsilon": 3.0, "delta": 1e-4, "max_grad_norm": 1.0}
    config = small(privacy=privacy)
    prices = account(config)
    assert 2.95 < prices.epsilon <= 3.0
    assert max(prices.epsilon_clients) == prices.epsilon < prices.price("rdp") < prices.price("papers")
    less = account(small(privacy={**privacy, "target_epsilon": None, "noise_multiplier": prices.plan.noise_multiplier - 0.001}))  # type: ignore[operator]
    assert less.epsilon > 3.0


def test_schedule_counts_each_client_s_rounds_and_not_the_skipped_ones() -> None:
    config = small(rounds=40, cohort={"kind": "poisson", "size": 2})
    experiment = assemble(config)
    prices = account(config)
    trained = [cohort for cohort in experiment.cohorts if len(cohort) >= 3]
    assert len(trained) < 40
    plan = experiment.plan
    assert isinstance(plan, ExamplePlan)
    for client in range(10):
        event = plan.planned(int(experiment.data.sizes()[client]))
        rounds = sum(client in cohort for cohort in trained)
        spent = History({PoissonGaussian(event.sample_rate, event.noise_multiplier): event.steps * rounds})
        assert prices.epsilon_clients[client] == epsilon(spent, 1e-4)


def test_no_promise_has_no_price() -> None:
    with pytest.raises(ConfigError, match="nothing is promised"):
        account(small(privacy={"kind": "none"}))
    assert assemble(small(privacy={"kind": "none"})).plan == NoPlan()


def test_the_same_seed_is_the_same_experiment_and_another_is_not() -> None:
    first, second, other = assemble(small()), assemble(small()), assemble(small(seed=1))
    assert torch.equal(first.initial_D, second.initial_D)
    assert first.cohorts == second.cohorts != other.cohorts
    assert np.array_equal(first.data.member_N, second.data.member_N)
    assert not torch.equal(first.initial_D, other.initial_D)
    assert not np.array_equal(first.data.owner_N, other.data.owner_N)


def test_a_shadow_is_the_same_procedure_with_other_members_and_other_randomness() -> None:
    experiment = assemble(small())
    members = experiment.data.redrawn(np.random.default_rng(0)).member_N
    shadow, sibling = experiment.shadow(0, members), experiment.shadow(1, members)
    assert shadow.plan == experiment.plan
    assert np.array_equal(shadow.data.owner_N, experiment.data.owner_N)
    assert shadow.cohorts != experiment.cohorts != sibling.cohorts
    with deterministic():
        target_D, first_D, second_D, again_D = (one.train() for one in (experiment, shadow, sibling, shadow))
    assert torch.equal(first_D, again_D)
    assert not torch.equal(first_D, second_D)
    assert not torch.equal(first_D, target_D)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"algorithm": {"kind": "scaffold"}, "server": {"kind": "fedavg"}}, {"control", "used"}),
        ({"privacy": ADAPTIVE}, {"norm"}),
        ({}, set()),
    ],
)
def test_whatever_clients_are_told_beside_the_model_is_in_what_their_keys_are_derived_from(
    changes: dict[str, Any], names: set[str]
) -> None:
    experiment = assemble(small(**changes))
    state = experiment.initial_state()
    context = experiment._context(state, observed=False, transcript=None)
    assert set(context.told) == names
    assert isinstance(experiment.aggregator, SecureSum)
    found = experiment.aggregator.parameters(context, 5).context
    for name in names:
        other = replace(context, told={**context.told, name: context.told[name] + 1})
        assert experiment.aggregator.parameters(other, 5).context != found


def test_training_reads_members_only() -> None:
    """Hold-out examples may be anything at all: the model is the same to the bit."""
    experiment = assemble(small())
    x = experiment.x.kept.clone()
    x[torch.from_numpy(~experiment.data.member_N)] = torch.nan
    with deterministic():
        assert torch.equal(replace(experiment, x=InputStore(x)).train(), experiment.train())


def test_two_settings_with_one_seed_do_not_share_their_noise() -> None:
    """Were the noise the same but for its scale, 2 Δ(σ) − Δ(2σ) would have none."""
    deltas = []
    for noise in (5.0, 10.0):
        experiment = assemble(small(privacy={**SMALL["privacy"], "noise_multiplier": noise}))
        task = experiment.cohort(experiment.initial_state()).task(experiment.cohorts[0][0])
        deltas.append(experiment.trainer.train(experiment.initial_D, [task])[0].delta_D)
    cancelled = 2 * deltas[0] - deltas[1]
    assert float(cancelled.norm()) > float(deltas[0].norm())


def test_a_shadow_of_other_members_has_another_noise_domain() -> None:
    experiment = assemble(small())
    members = [experiment.data.redrawn(np.random.default_rng(seed)).member_N for seed in (0, 1)]
    assert experiment.shadow(0, members[0]).noise_domain != experiment.shadow(0, members[1]).noise_domain


class Second(Alone):
    """The second of two processes, as far as it can tell."""

    rank, size = 1, 2

    def __init__(self, order: RoundOrder) -> None:
        self.orders: list[RoundOrder | None] = [order, None]
        self.told: list[Any] = []

    def broadcast(self, value: Any = None) -> Any:
        """See the contract."""
        assert value is None, "the first shares"
        return self.orders.pop(0)

    def all_gather(self, value: Any) -> list[Any]:
        """See the contract."""
        self.told.append(value)
        return [value]


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("privacy", [SMALL["privacy"], {"kind": "none"}], ids=["example", "none"])
def test_a_process_that_read_other_data_says_so_to_all_and_trains_nobody(same: bool, privacy: dict[str, Any]) -> None:
    """Its clients' updates would be of other examples, in silence."""
    config = small(privacy=privacy)
    processes = Second(RoundOrder(0, {}, assemble(config if same else small(privacy=privacy, seed=1)).noise_domain, {}, {}))
    # Nobody else is there to train the rest of the cohort.
    with deterministic(), suppress(ProcessError):
        replace(assemble(config), processes=processes, aggregator=Mean(kind="mean")).assist()
    done, failed = processes.told[0]
    if same:
        assert failed is None
        return
    assert not done.clients
    assert isinstance(failed, DataError)
    assert str(failed).startswith("process 1 read other data, or built another model, than process 0; ")


def test_training_learns() -> None:
    """Without privacy the small run beats chance by far; a broken sign or a frozen model would not."""
    config = small(rounds=15, privacy={"kind": "none"}, server={"kind": "fedavg"})
    experiment = assemble(config)
    with deterministic():
        final_D = experiment.train()
    logits = experiment.logits(final_D, experiment.test_x)
    assert (logits.argmax(1).numpy() == experiment.data.test.y).mean() > 0.85


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"model": {"kind": "cnn"}}, ModelError, "at least 16x16"),
        ({"data": {"kind": "digits", "partition": {"kind": "natural"}}}, DataError, "natural"),
        ({"data": {"kind": "digits", "clients": 3000}, "cohort": {"kind": "all"}}, DataError, "3000|no example"),
        ({"data": {"kind": "digits", "clients": 200, "partition": {"kind": "dirichlet", "alpha": 0.01}}}, DataError, "client"),
        ({"device": "cuda"}, ConfigError, "no GPU"),
    ],
)
def test_what_does_not_fit_is_one_line(changes: dict[str, object], error: type[Exception], words: str) -> None:
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(error, match=words) as caught:
        assemble(small(**changes))
    assert "\n" not in str(caught.value)


def test_a_diverged_client_is_named() -> None:
    config = small(privacy={"kind": "none"}, training={**SMALL["training"], "lr": 1e30}, model={"kind": "mlp"})
    with deterministic(), pytest.raises(ModelError, match=r"client \d+: its loss or update is not finite.*lower training.lr"):
        assemble(config).train()


def test_the_engine_is_chosen_at_the_runs_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of each process' own could make each choose another engine, where a model's way depends on its numbers."""
    seen: list[torch.Tensor] = []
    real = _choice.choose

    def spy(config: Any, plan: Any, model: torch.nn.Module, *rest: Any) -> object:
        seen.append(to_vector(model))
        return real(config, plan, model, *rest)

    monkeypatch.setattr(assembling, "choose", spy)
    assert torch.equal(assemble(small()).initial_D, seen[0])


@pytest.mark.parametrize("times", [0, 2])
def test_a_client_that_is_not_trained_exactly_once_ends_the_run(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By two processes it would count twice, and be twice as long as it was clipped to."""
    experiment, real = assemble(small()), Round._parts

    def parts(self: Round, *args: Any) -> list[list[LocalTask]]:
        first, *rest = real(self, *args)
        return [*[first] * times, *rest]

    monkeypatch.setattr(Round, "_parts", parts)
    with pytest.raises(ProcessError, match=r"of .* clients were trained, .* times in all"):
        experiment.train()


def test_what_a_notebook_prints_is_short() -> None:
    prices = account(small())
    said = f"<RunPrice of 'small': ε = {prices.epsilon:.6g} at δ = 0.0001 per example, noise multiplier 1; more in .rows(), "
    assert repr(prices).startswith(said)
    assert len(repr(prices)) < 200
    assert "<Experiment 'small': 4 rounds, 650 parameters, <FederatedData: 1,1" in repr(prices.experiment)
    assert len(repr(prices.experiment)) < 300


@pytest.mark.parametrize(("epsilon", "words"), [(0.0, "0.000"), (4e-4, "0.0004"), (3.2e-7, "3e-07"), (7.9996, "8.000")])
def test_a_small_price_is_not_printed_as_nothing(epsilon: float, words: str) -> None:
    assert format_epsilon(epsilon) == words
