"""Several global models: planted groups are found, one model is FedAvg, and no small cluster is summed alone."""

from __future__ import annotations

from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clustered import after, begin, made, opposite, step
from small_runs import SMALL, small

from privfl.errors import ConfigError, ModelError
from privfl.federation.aggregators import Aggregator
from privfl.federation.aggregators.mean import Mean
from privfl.federation.aggregators.secure_sum import SecureSum
from privfl.federation.algorithms import Terms, Trained
from privfl.federation.algorithms.cfl import halves
from privfl.federation.algorithms.kmeans import Kmeans, kmeans
from privfl.federation.clusters import COUNT, Clustered, count_entry, opened
from privfl.federation.outcome import Outcome
from privfl.federation.payload import UPDATE
from privfl.papers import Figure
from privfl.report import write_report
from privfl.running import clusters
from privfl.running.assembling import assemble
from privfl.running.attacking import attack
from privfl.running.determinism import deterministic
from privfl.running.experiment import Experiment
from privfl.running.paper_figures import figure_value
from privfl.running.recording import run
from privfl.running.trained_model import TrainedModel
from privfl.running.views import ClientView, open_view
from privfl.seeding import Seed
from privfl.vectors import Layout

MEAN, SECURE = Mean(kind="mean"), SecureSum(kind="secure_sum")
PLAIN: dict[str, Any] = {"privacy": "none", "aggregator": "mean", "server": {"kind": "fedavg"}, "cohort": "all"}
KINDS = ("ifca", "kmeans", "cfl")
METHODS: list[tuple[Clustered, Aggregator]] = [
    (made("ifca"), MEAN),
    (made("ifca"), SECURE),
    (made("kmeans", warmup=1), MEAN),
    (made("kmeans", warmup=1, steps=2), SECURE),
    (made("kmeans", warmup=1, assigned_by="server"), MEAN),
    (made("cfl", first_round=2, longest_norm=0.5, clusters=2), MEAN),
]


def found_groups(outcome: Outcome, algorithm: Clustered) -> list[int]:
    assert outcome.arrivals is not None
    assert None not in outcome.arrivals.chosen.values()
    return [int(slot or 0) for _, slot in sorted(outcome.arrivals.chosen.items())]


def same_partition(one: list[int], other: list[int]) -> bool:
    return len({*zip(one, other, strict=True)}) == len({*one}) == len({*other})


# --- planted groups ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("algorithm", "aggregator"), METHODS, ids=lambda one: one.kind)
def test_two_opposite_regressions_are_both_recovered(algorithm: Clustered, aggregator: Aggregator) -> None:
    """Each method finds who belongs together, and then both answers."""
    problem, groups = opposite(12)
    outcome = after(problem, algorithm, aggregator, 8)
    slots = found_groups(outcome, algorithm)
    assert same_partition(slots, groups)
    models_MD = outcome.state.global_D.view(algorithm.models, -1)
    # A secure sum rounds each coordinate of an update to a step of 2^-24 at random, and its mean is float32.
    tolerance = 1e-9 if aggregator is MEAN else 1e-6
    for client, slot in enumerate(slots):
        assert models_MD[slot].tolist() == pytest.approx(problem.best_ND[client].tolist(), abs=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_one_model_learns_the_mean_of_the_two(kind: str) -> None:
    problem, _ = opposite(12)
    outcome = after(problem, made(kind, clusters=1), MEAN, 3)
    assert outcome.state.global_D.tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_one_cluster_is_fedavg_to_the_bit(kind: str) -> None:
    one, other = (assemble(small(**PLAIN, algorithm=of)) for of in ("fedavg", {"kind": kind, "clusters": 1}))
    with deterministic():
        assert torch.equal(one.train(), other.train())


def test_a_client_that_comes_late_finds_its_cluster_and_adds_nothing_yet() -> None:
    problem, groups = opposite(12)
    for assigned_by in ("client", "server"):
        algorithm = made("kmeans", warmup=1, assigned_by=assigned_by)
        state = begin(problem, algorithm)
        for _ in range(8):
            state = step(problem, algorithm, MEAN, state, range(10)).state
        outcome = step(problem, algorithm, MEAN, state)
        assert outcome.arrivals is not None
        assert [outcome.arrivals.chosen[client] for client in (10, 11)] == [None, None]
        again = step(problem, algorithm, MEAN, outcome.state)
        assert same_partition(found_groups(again, algorithm), groups)


def test_kmeans_finds_three_groups_six_deviations_apart() -> None:
    """A point is nearer another centre with probability Φ(−17/2), so that no seed of any number would fail for that."""
    for seed in range(8):
        stream = np.random.default_rng(seed)
        centres = np.zeros((3, 50))
        # Centres are √2 · 12 = 17 deviations apart. Six would do for the assignment by centres, if these were known.
        centres[[0, 1, 2], [0, 1, 2]] = 12.0
        group = np.repeat(np.arange(3), 10)
        found = kmeans(centres[group] + stream.normal(size=(30, 50)), 3)
        assert same_partition(found.tolist(), group.tolist())
    assert kmeans(np.eye(2), 3).tolist() == [0, 1]
    assert len(set(kmeans(np.ones((5, 2)), 2).tolist())) >= 1


def test_cfl_splits_by_complete_linkage_and_only_clusters_that_disagree() -> None:
    updates_KD = np.array([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-2.0, -0.1], [3.0, 0.0]])
    assert halves(updates_KD) == [0, 0, 1, 1, 0]
    problem, _ = opposite(6)
    problem = replace(problem, best_ND=problem.best_ND + 0.1)
    for settings in ({"first_round": 50}, {"mean_norm": 1e-20, "first_round": 0}, {"longest_norm": 1e9, "first_round": 0}):
        outcome = after(problem, made("cfl", **settings), MEAN, 3)
        assert found_groups(outcome, made("cfl")) == [0] * 6, settings
    pair, _ = opposite(2)
    assert found_groups(after(pair, made("cfl", first_round=0, longest_norm=0.1), MEAN, 3), made("cfl")) == [0, 0]


def test_a_cluster_that_is_split_goes_on_from_the_model_of_the_whole() -> None:
    """Clients at 1 and -1 around 10: both clusters begin at 10, where the first had come to."""
    problem, _ = opposite(6, 1)
    problem = replace(problem, best_ND=problem.best_ND + 10.0)
    algorithm = made("cfl", first_round=3, longest_norm=0.1, clusters=2)
    before = after(problem, algorithm, MEAN, 3)
    assert float(before.state.global_D[0]) == pytest.approx(10.0, abs=1e-3)
    split = step(problem, algorithm, MEAN, before.state).state
    assert sorted(split.global_D.tolist()) == pytest.approx([9.0, 11.0], abs=1e-3)
    assert split.algorithm["origin"].tolist() == [0, 0]


# --- Lloyd's step through slots ----------------------------------------------------------------------------------------


def test_lloyds_step_through_secure_slots_is_the_plain_step() -> None:
    """Centroids after a step are the means of the updates that were nearest, up to a step of the fixed point."""
    problem, _ = opposite(9)
    stream = Seed(3).torch()
    problem = replace(problem, best_ND=torch.randn(9, 3, dtype=torch.float64, generator=stream))
    algorithm = made("kmeans", warmup=0, steps=9, clusters=3, least_members=1)
    state = after(problem, algorithm, SECURE, 2).state
    assert isinstance(algorithm, Kmeans)
    for _ in range(3):
        before_MD = state.algorithm["centroids"].view(3, -1).double()
        updates_KD = step(problem, made("kmeans", clusters=1), MEAN, begin(problem, made("kmeans", clusters=1))).aggregate
        assert updates_KD is not None
        rows_KD = updates_KD.seen["updates_KD"]
        nearest_K = torch.cdist(rows_KD, before_MD).argmin(1)
        outcome = step(problem, algorithm, SECURE, state)
        assert found_groups(outcome, algorithm) == nearest_K.tolist()
        state = outcome.state
        for slot in range(3):
            if (nearest_K == slot).any():
                plain_D = rows_KD[nearest_K == slot].mean(0).float()
                assert torch.allclose(state.algorithm["centroids"].view(3, -1)[slot], plain_D, rtol=0, atol=1e-6)
    assert torch.equal(state.global_D, torch.zeros(9, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["ifca", "kmeans"])
def test_the_secure_run_is_that_of_the_plain_sum_to_the_bit(kind: str) -> None:
    algorithm = {"kind": kind, "least_members": 3} | ({"warmup": 1, "steps": 1} if kind == "kmeans" else {})
    with deterministic():
        one, other = (
            assemble(small(**{**PLAIN, "aggregator": of}, algorithm=algorithm)).train() for of in ("plain_sum", "secure_sum")
        )
    assert torch.equal(one, other)


# --- no small cluster is summed alone -------------------------------------------------------------------------------------


def test_a_slot_with_too_few_members_is_closed_and_its_clients_go_to_the_next() -> None:
    """Ten clients at w and two at −w: under secure aggregation the two are not summed alone, in the clear they are."""
    problem, _ = opposite(12)
    best_ND = problem.best_ND.clone()
    best_ND[:10], best_ND[10:] = problem.best_ND[0], problem.best_ND[1]
    problem = replace(problem, best_ND=best_ND)
    algorithm = made("ifca")
    open_outcome, hidden = (after(problem, algorithm, aggregator, 2) for aggregator in (MEAN, SECURE))
    few = found_groups(open_outcome, algorithm)[10]
    assert found_groups(open_outcome, algorithm).count(few) == 2
    assert hidden.arrivals is not None
    assert hidden.arrivals.wanted is not None
    assert hidden.arrivals.wanted[few] == 2
    assert hidden.arrivals.closed == (few,)
    assert found_groups(hidden, algorithm) == [1 - few] * 12
    assert hidden.aggregate is not None
    slots_MD = hidden.aggregate.seen["sum_D"].view(2, -1)
    assert not slots_MD[few].any()
    assert hidden.aggregate.seen[f"{COUNT}:sum_D"].tolist()[few] == 0.0


def test_no_sum_of_fewer_clients_than_needed_is_ever_seen() -> None:
    """Random choices of 12 clients in four clusters: each slot that the server sees has none, or enough."""
    problem, _ = opposite(12)
    least = SECURE.minimum_clients + SECURE.allowed(12)[1]
    some_closed = False
    for seed in range(2):
        best_ND = torch.randn(12, 3, dtype=torch.float64, generator=Seed(seed).torch())
        for algorithm in (made("ifca", clusters=4), made("kmeans", clusters=4, warmup=0, steps=2)):
            state = begin(problem, algorithm)
            for _ in range(3):
                outcome = step(replace(problem, best_ND=best_ND), algorithm, SECURE, state)
                assert outcome.arrivals is not None
                some_closed |= bool(outcome.arrivals.closed)
                assert outcome.aggregate is not None
                counts = [round(count) for count in outcome.aggregate.seen[f"{COUNT}:sum_D"].tolist()]
                assert all(count == 0 or count >= least for count in counts), counts
                state = outcome.state
    assert some_closed


def test_members_needed_allow_for_clients_that_are_lost_after_the_count() -> None:
    plan = assemble(small(**PLAIN)).plan
    algorithm = made("ifca")
    assert algorithm.members_needed(plan, SECURE, 40) == 3 + SECURE.allowed(40)[1] > 3
    assert algorithm.members_needed(plan, MEAN, 40) == 1
    assert made("ifca", least_members=9).members_needed(plan, MEAN, 40) == 9
    assert made("ifca", clusters=1).members_needed(plan, SECURE, 40) == 1


def test_slots_that_may_be_summed() -> None:
    assert opened([5, 2, 3], 3, moves=True) == [0, 2]
    assert opened([2, 1, 2], 3, moves=True) == [0]
    assert opened([2, 1, 2], 3, moves=False) == []


def test_a_count_that_is_lost_leaves_everybody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, _ = opposite(12)
    real = SecureSum.aggregate

    def failing(self: SecureSum, updates: Any, context: Any) -> Any:
        found = real(self, updates, context)
        return replace(found, sum_D=None, mean_D=None, failed="lost") if context.layout.names == ("wanted",) else found

    monkeypatch.setattr(SecureSum, "aggregate", failing)
    outcome = after(problem, made("ifca"), SECURE, 1)
    assert outcome.arrivals is not None
    assert set(outcome.arrivals.chosen.values()) == {None}
    assert outcome.arrivals.closed == (0, 1)
    assert torch.equal(outcome.state.global_D, begin(problem, made("ifca")).global_D)


# --- plans -----------------------------------------------------------------------------------------------------------------

CLIENT = {"noise_multiplier": 1.0, "delta": 1e-2, "max_update_norm": 0.5}
PLANS: dict[str, dict[str, Any]] = {
    "example": {"kind": "example", "noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 1.0},
    "client_local": {"kind": "client_local", **CLIENT},
    "client_central": {"kind": "client_central", **CLIENT},
    "client_dpftrl": {"kind": "client_dpftrl", **CLIENT},
    "client_distributed": {"kind": "client_distributed", **CLIENT, "survivors": 2},
}


def under(plan: str, algorithm: dict[str, Any], aggregator: str, **changes: Any) -> Experiment:
    cohort = {"kind": "separated", "size": 3, "separation": 3} if plan == "client_dpftrl" else "all"
    return assemble(
        small(**{**PLAIN, "privacy": PLANS[plan], "aggregator": aggregator, "cohort": cohort, **changes}, algorithm=algorithm)
    )


ALLOWED = [
    ("example", {"kind": "kmeans", "warmup": 0, "steps": 1}, "secure_sum"),
    ("example", {"kind": "kmeans", "warmup": 0, "assigned_by": "server"}, "mean"),
    ("example", {"kind": "cfl", "first_round": 0}, "mean"),
    ("client_local", {"kind": "ifca"}, "secure_sum"),
    ("client_local", {"kind": "cfl", "first_round": 0}, "mean"),
    ("client_central", {"kind": "ifca"}, "mean"),
    ("client_central", {"kind": "kmeans", "warmup": 0, "steps": 1}, "mean"),
    ("client_dpftrl", {"kind": "ifca"}, "mean"),
    ("client_distributed", {"kind": "ifca"}, "secure_sum"),
    ("client_distributed", {"kind": "kmeans", "warmup": 0, "steps": 1}, "secure_sum"),
]


@pytest.mark.parametrize(("plan", "algorithm", "aggregator"), ALLOWED, ids=lambda one: str(one)[:28])
def test_it_runs_under_plans_at_the_price_of_fedavg(plan: str, algorithm: dict[str, Any], aggregator: str) -> None:
    experiment = under(plan, algorithm, aggregator, rounds=3)
    state = experiment.initial_state()
    with deterministic():
        for _ in range(3):
            outcome = experiment.step(state)
            state = outcome.state
            assert outcome.events == experiment.planned(state.round - 1)
    assert bool(state.global_D.isfinite().all())
    assert outcome.arrivals is not None
    # Nobody is asked for counts if the sum is noised; a count without noise would be a release.
    assert (outcome.arrivals.wanted is None) == (plan != "example" or aggregator == "mean")
    if plan != "client_distributed":
        plain = under(plan, {"kind": "fedavg"}, aggregator, rounds=3)
        assert {who: event.without_norm() for who, event in experiment.planned(1).items()} == {
            who: event.without_norm() for who, event in plain.planned(1).items()
        }


def test_slots_and_count_are_clipped_to_one_norm() -> None:
    """The norm of slots and count together is at most C, whatever the update; a member's count is a public number."""
    experiment = under("client_local", {"kind": "ifca", "clusters": 3}, "mean")
    algorithm, terms = experiment.algorithm, experiment.terms
    assert isinstance(algorithm, Clustered)
    assert count_entry(terms) == 0.25
    for length in (1e-3, 0.3, 50.0):
        delta_D = torch.full((experiment.layout.size,), length / experiment.layout.size**0.5)
        payload, _ = algorithm.upload({}, {}, Trained(delta_D, 1.0, terms, delta_D, slot=1))
        joined_D = experiment.payload.join(payload)
        assert float(joined_D.norm()) == pytest.approx((length**2 + 0.25**2) ** 0.5, rel=1e-5)
        central = under("client_central", {"kind": "ifca", "clusters": 3}, "mean").plan
        clipped_D = central.at_client(joined_D, experiment.message_layout, {}, Seed(0)).delta_D
        assert float(clipped_D.norm()) <= 0.5 + 1e-6
        parts = experiment.payload.split(clipped_D)
        # Update and count shrink alike, so that their ratio stays.
        ratio = parts[UPDATE].view(3, -1)[1].norm() / parts[COUNT][1]
        assert float(ratio) == pytest.approx(length / 0.25, rel=1e-4)


def test_a_noised_count_is_never_divided_by_next_to_nothing() -> None:
    algorithm, terms = made("ifca"), Terms(0.1, 1, Layout(("w",), ((1,),)), norm=1.0)
    mean = {UPDATE: torch.tensor([1.0, 1.0]), COUNT: torch.tensor([1e-6, -0.3])}
    assert algorithm.means(mean, terms).flatten().tolist() == [8.0, 0.0]
    exact = {UPDATE: torch.tensor([1.0, 0.0]), COUNT: torch.tensor([0.25, 0.0])}
    assert algorithm.means(exact, Terms(0.1, 1, Layout(("w",), ((1,),)))).flatten().tolist() == [4.0, 0.0]


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"algorithm": "cfl", "aggregator": "secure_sum"},
        r"algorithm\.kind = 'cfl': sorts clients by updates that the server sees",
    ),
    (
        {"algorithm": {"kind": "kmeans", "assigned_by": "server"}, "aggregator": "secure_sum"},
        r"algorithm\.kind = 'kmeans': .* hides them; set algorithm\.assigned_by = 'client'",
    ),
    (
        {"algorithm": "cfl", "privacy": PLANS["client_central"]},
        r"algorithm\.kind = 'cfl': .* no noise yet under 'client_central'",
    ),
    ({"algorithm": "ifca", "privacy": PLANS["example"]}, r"algorithm\.kind = 'ifca': chooses by losses .* 'kmeans'"),
    ({"algorithm": "cfl", "cohort": {"kind": "poisson", "size": 5}}, r"cohort\.kind = 'poisson': algorithm 'cfl' compares"),
    ({"algorithm": "ifca", "aggregator": "median"}, r"aggregator\.kind = 'median': algorithm 'ifca' needs a weighted mean"),
    (
        {"algorithm": "ifca", "transform": {"kind": "top_k", "share": 0.1}},
        r"transform\.kind = 'top_k': algorithm 'ifca' has several global models",
    ),
    (
        {
            "algorithm": "ifca",
            "pace": {"kind": "stragglers", "share": 0.5},
            "training": {**SMALL["training"], "local_epochs": 2},
        },
        r"pace\.kind = 'stragglers': cannot carry the 2 models of algorithm 'ifca'",
    ),
    ({"algorithm": {"kind": "ifca", "clusters": 11}}, r"algorithm\.clusters = 11: must be at most data\.clients = 10"),
    ({"algorithm": {"kind": "ifca", "clusters": 0}}, r"algorithm\.clusters = 0: must be greater than or equal to 1"),
    (
        {"algorithm": "ifca", "privacy": {**PLANS["client_local"], "clipping": "per_layer"}},
        r"privacy\.clipping\.kind = 'per_layer': update and count of 'ifca' are clipped to one norm; set 'flat'",
    ),
    (
        {"algorithm": "ifca", "privacy": PLANS["client_local"], "canaries": {"kind": "client", "count": 10}},
        r"canaries\.kind = 'client': an audit reads one global model",
    ),
    (
        {"algorithm": "ifca", "attacks": {"run": ["membership/loss"]}},
        r"attacks\.run = .*: reads one global model, and 'ifca' has 2",
    ),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED)
def test_impossible_combinations_are_refused_when_they_are_loaded(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        small(**{**PLAIN, **changes})


def test_what_only_the_whole_run_shows_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match=r"aggregator\.kind = 'secure_sum': a cluster of one client would be summed alone"):
        under("client_central", {"kind": "ifca"}, "secure_sum")
    with pytest.raises(ConfigError, match=r"algorithm\.least_members = 2: 'secure_sum' sums at least 3 clients; set 3"):
        assemble(small(**{**PLAIN, "aggregator": "secure_sum"}, algorithm={"kind": "ifca", "least_members": 2}))


# --- whole runs ------------------------------------------------------------------------------------------------------------

TURNED = {**SMALL["data"], "clients": 8, "partition": "iid", "rotations": [0, 180]}


@pytest.mark.parametrize("aggregator", ["mean", "secure_sum"])
def test_a_run_keeps_all_models_and_says_who_is_where_if_the_server_knows(aggregator: str, tmp_path: Path) -> None:
    algorithm = {"kind": "kmeans", "warmup": 0, "steps": 3}
    config = small(**{**PLAIN, "aggregator": aggregator}, data=TURNED, algorithm=algorithm, rounds=8)
    folder = run(config, tmp_path / "run")
    result, rounds = folder.result, folder.rounds()
    assert [one.clients for one in result.clusters] == [4, 4]
    if aggregator == "mean":
        assert same_partition(list(result.cluster_of), [0] * 4 + [1] * 4)
    else:
        assert result.cluster_of == ()
        assert rounds[-1].clusters is not None
        assert rounds[-1].clusters.wanted == [4, 4]
    assert rounds[-1].clusters is not None
    assert rounds[-1].clusters.sizes == [4, 4]
    assert result.in_group == figure_value(Figure(metric="clusters.in_group", claim=1.0, tolerance=0.1), folder) == 1.0
    layout = assemble(config).global_layout
    view = open_view(folder, "client", layout)
    assert isinstance(view, ClientView)
    first_D, second_D = view.final_model().view(2, -1)
    assert not torch.equal(first_D, second_D)
    assert view.model_before(7).shape == (layout.size,)
    with pytest.raises(ConfigError, match=r"attack 'membership/loss': reads one global model, and algorithm 'kmeans' has 2"):
        attack(folder, ["membership/loss"])
    page = unescape(write_report([folder], tmp_path / "page.html").read_text(encoding="utf-8"))
    said = (
        "The server knows who is in which cluster" if aggregator == "mean" else "The secure sum hides who is in which cluster"
    )
    assert said in page
    assert ('<th scope="col">cluster</th>' in page) == (aggregator == "mean")
    assert "clients in the cluster of their group" in page
    plain = run(small(**PLAIN, data=TURNED, rounds=8), tmp_path / "plain")
    assert result.evaluation.headline.value > plain.result.evaluation.headline.value + 0.03
    with pytest.raises(ModelError, match=r"algorithm\.kind = 'kmeans': the run has 2 models, one a cluster"):
        TrainedModel.of(folder)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("algorithm", [{"kind": "kmeans", "warmup": 0, "steps": 1}, {"kind": "cfl", "first_round": 1}])
def test_a_run_that_is_killed_goes_on_to_the_same_bytes(algorithm: dict[str, Any], tmp_path: Path) -> None:
    config = small(**PLAIN, algorithm=algorithm)
    whole = run(config, tmp_path / "whole")

    def killed(record: Any, timing: object) -> None:
        if record.round == 1:
            raise KilledError

    with pytest.raises(KilledError):
        run(config, tmp_path / "cut", observer=killed)
    resumed = run(config, tmp_path / "cut", resume=True)
    for name in ("state.safetensors", "model.safetensors", "rounds.jsonl", "result.json", "views/round_00003.safetensors"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes(), name


def test_clients_that_nobody_placed_are_placed_by_their_training_loss() -> None:
    experiment = assemble(small(**PLAIN, algorithm="ifca"))
    state = experiment.initial_state()
    place_K = clusters.places(experiment, state)
    data = experiment.data
    for client in range(10):
        rows = torch.from_numpy(data.members_of(client))
        found = [
            float(experiment.task.loss(experiment.logits(model_D, experiment.x[rows]), experiment.y[rows]).double().mean())
            for model_D in state.global_D.view(2, -1)
        ]
        assert place_K[client] == int(np.argmin(found))
    rows = torch.arange(50)
    outputs = clusters.outputs(experiment, state, experiment.x, rows, data.owner_N)
    for row in range(50):
        model_D = state.global_D.view(2, -1)[place_K[data.owner_N[row]]]
        assert torch.allclose(outputs[row], experiment.logits(model_D, experiment.x[rows[row : row + 1]])[0], atol=1e-5)


def test_shadows_begin_with_models_of_their_own() -> None:
    experiment = assemble(small(**PLAIN, algorithm="ifca"))
    shadow = experiment.shadow(0, experiment.data.member_N)
    assert shadow.initial_D.shape == experiment.initial_D.shape == (2 * experiment.layout.size,)
    assert not torch.equal(shadow.initial_D, experiment.initial_D)
    first, second = experiment.initial_D.view(2, -1)
    assert not torch.equal(first, second)
    assert experiment.global_layout == Layout(
        tuple(f"cluster {place}:{name}" for place in (1, 2) for name in experiment.layout.names), experiment.layout.shapes * 2
    )
