"""Algorithms in whole runs: equal to FedAvg when they should be, under every plan and aggregator, and resumable."""

from __future__ import annotations

from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SMALL, small

from privfl.errors import ConfigError, ItemError
from privfl.federation.algorithms import State, Terms, Trained
from privfl.federation.algorithms.fedavg import FedAvg
from privfl.federation.algorithms.feddyn import FedDyn
from privfl.federation.algorithms.fedprox import FedProx
from privfl.federation.algorithms.scaffold import Scaffold
from privfl.federation.client_states import ClientState, stacked, unstacked
from privfl.federation.payload import Payload, PayloadLayout
from privfl.federation.server_state import ServerState
from privfl.learning.training import LocalWork
from privfl.records import RoundRecord
from privfl.report import write_report
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic
from privfl.running.experiment import Experiment
from privfl.running.recording import run
from privfl.storage import write_atomic
from privfl.vectors import Layout

PRIVACY: dict[str, dict[str, Any]] = {
    "none": {},
    "example": {"noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 1.0},
    "client_local": {"noise_multiplier": 1.0, "delta": 1e-2, "max_update_norm": 0.5},
    "client_central": {"noise_multiplier": 1.0, "delta": 1e-2, "max_update_norm": 0.5},
    "client_dpftrl": {"noise_multiplier": 1.0, "delta": 1e-2, "max_update_norm": 0.5},
    "client_distributed": {"noise_multiplier": 1.0, "delta": 1e-2, "max_update_norm": 0.5, "survivors": 2},
}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedprox": {"mu": 0.1},
    "scaffold": {},
    "fednova": {},
    "feddyn": {},
    "ditto": {},
    "fine_tuning": {},
    "fedrep": {"head": ["1.bias"]},
    "fedper": {"head": ["1.bias"]},
    "pfedme": {},
    "apfl": {},
    "perfedavg": {},
    "mr_mtl": {},
    "centred_clipping": {"tau": 0.5},
}
PLAIN = {"privacy": "none", "aggregator": "mean", "server": {"kind": "fedavg"}}


def config_of(algorithm: str, privacy: str = "none", **changes: Any) -> Any:
    table: dict[str, Any] = {"server": {"kind": "fedavg"}, "rounds": 3, "aggregator": {"kind": "secure_sum"}}
    table |= {"algorithm": {"kind": algorithm, **ALGORITHMS[algorithm]}, "privacy": {"kind": privacy, **PRIVACY[privacy]}}
    if privacy == "client_dpftrl":
        table["cohort"] = {"kind": "separated", "size": 3, "separation": 3}
    return small(**{**table, **changes})


def trained(experiment: Experiment) -> ServerState:
    state = experiment.initial_state()
    with deterministic():
        while state.round < experiment.config.rounds:
            state = experiment.step(state).state
    return state


# --- when it is FedAvg -----------------------------------------------------------------------------------------------


class Uniform(FedAvg):
    weighted = False


class Still(Scaffold):
    """SCAFFOLD whose control variates stay at zero."""

    def upload(self, told: State, client: State, trained: Trained) -> tuple[Payload, State]:
        payload, _ = super().upload(told, client, trained)
        return {**payload, "control": torch.zeros_like(trained.delta_D)}, client


def test_fedprox_without_a_pull_is_fedavg_to_the_bit() -> None:
    one, other = (trained(assemble(small(**PLAIN, algorithm=of))) for of in ("fedavg", {"kind": "fedprox", "mu": 0.0}))
    assert torch.equal(one.global_D, other.global_D)


def test_scaffold_without_control_variates_is_fedavg_to_the_bit() -> None:
    experiment = assemble(small(**PLAIN))
    one, other = (trained(replace(experiment, algorithm=of)) for of in (Uniform(kind="own"), Still(kind="own")))
    assert torch.equal(one.global_D, other.global_D)
    real = trained(replace(experiment, algorithm=Scaffold(kind="scaffold")))
    assert not torch.equal(one.global_D, real.global_D)


class Undriven(FedDyn):
    """FedDyn without its pull, and whose server adds nothing."""

    def work(self, told: State, client: State) -> LocalWork:
        return LocalWork()

    def apply(self, server: State, mean: Payload, share: float, terms: Terms) -> tuple[torch.Tensor, State]:
        return mean["update"], server


def test_feddyn_without_its_terms_is_fedavg_to_the_bit_and_begins_as_fedprox() -> None:
    experiment = assemble(small(**PLAIN))
    one, other = (trained(replace(experiment, algorithm=of)) for of in (Uniform(kind="own"), Undriven(kind="own")))
    assert torch.equal(one.global_D, other.global_D)
    seen = []
    for algorithm in (FedDyn(kind="feddyn", alpha=0.5), FedProx(kind="fedprox", mu=0.5)):
        run_of = replace(experiment, algorithm=algorithm)
        with deterministic():
            aggregate = run_of.step(run_of.initial_state(), observed=True).aggregate
        assert aggregate is not None
        seen.append(aggregate.seen["updates_KD"])
    assert torch.equal(*seen)


def test_fednova_with_equal_steps_is_fedavg_to_the_bit() -> None:
    training = {"local_steps": 3, "batch_size": 16, "lr": 0.5}
    one, other = (trained(assemble(small(**PLAIN, training=training, algorithm=of))) for of in ("fedavg", "fednova"))
    assert torch.equal(one.global_D, other.global_D)


def test_the_global_model_of_ditto_is_fedavg_s_to_the_bit(tmp_path: Path) -> None:
    one, other = (trained(assemble(small(**PLAIN, algorithm=of))) for of in ("fedavg", "ditto"))
    assert torch.equal(one.global_D, other.global_D)
    skewed = {**SMALL["data"], "partition": {"kind": "dirichlet", "alpha": 0.1}}
    folder = run(small(**PLAIN, data=skewed, algorithm="ditto"), tmp_path / "run")
    found = folder.rounds()[-1].evaluation
    assert found is not None
    assert found.personal is not None
    assert found.clients is not None
    # Most clients have a few of the classes only: 0.82 and 0.14 when this was written.
    assert found.personal.median > found.clients.median + 0.3
    assert found == type(found).model_validate_json(found.model_dump_json())
    page = unescape(write_report([folder], tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "The median client's own model ends at" in page


def test_the_page_says_that_a_personal_model_is_in_no_promise_and_who_misbehaves(tmp_path: Path) -> None:
    behaviour = {"kind": "label_flip", "share": 0.2}
    folder = run(config_of("ditto", "example", behaviour=behaviour, rounds=1), tmp_path / "run")
    page = write_report([folder], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Each client also has a model of its own, trained on its data without noise." in page
    assert "In this run 2 of 10 clients did (label_flip)." in page


def test_a_personal_model_that_diverges_stays_as_it_was() -> None:
    state = trained(assemble(small(**PLAIN, algorithm={"kind": "ditto", "strength": 1e30}, rounds=1)))
    initial_D = assemble(small(**PLAIN)).initial_D
    assert all(torch.equal(one.personal["model"], initial_D) for one in state.clients.values())
    assert not torch.equal(state.global_D, initial_D)


@pytest.mark.parametrize("privacy", ["example", "client_local"])
def test_a_promise_covers_the_uploads_of_ditto_and_they_are_those_of_fedavg(privacy: str) -> None:
    """The personal model is trained, without noise, and nothing that is sent depends on it."""
    experiment = assemble(config_of("ditto", privacy, aggregator="mean"))
    alone = replace(experiment, algorithm=FedAvg(kind="fedavg"), personal=None)
    one, other = trained(experiment), trained(alone)
    assert torch.equal(one.global_D, other.global_D)
    assert all(state.personal and not state.kept for state in one.clients.values())
    assert experiment.personal is not None
    assert not experiment.personal.plan.promises


# --- every plan, in the clear and hidden -----------------------------------------------------------------------------


@pytest.mark.parametrize("aggregator", ["mean", "secure_sum"])
@pytest.mark.parametrize("privacy", PRIVACY)
@pytest.mark.parametrize("algorithm", [kind for kind in ALGORITHMS if kind != "fedavg"])
def test_an_algorithm_runs_under_each_plan_at_the_price_of_fedavg(algorithm: str, privacy: str, aggregator: str) -> None:
    if (privacy, aggregator) == ("client_distributed", "mean"):
        return
    if algorithm == "fednova" and privacy.startswith("client"):
        with pytest.raises(ConfigError, match=r"algorithm\.kind = 'fednova': uploads each client's number of steps"):
            config_of(algorithm, privacy, aggregator=aggregator)
        return
    experiment = assemble(config_of(algorithm, privacy, aggregator=aggregator, rounds=2))
    state = experiment.initial_state()
    with deterministic():
        outcome = experiment.step(experiment.step(state).state, observed=True)
    planned = assemble(config_of("fedavg", privacy, aggregator=aggregator, rounds=2)).planned(1)
    if privacy == "client_distributed":
        # Rounding in more dimensions costs a little; the noise is sized for it.
        assert outcome.events == experiment.planned(1)
        return
    assert {who: event.without_norm() for who, event in outcome.events.items()} == {
        who: event.without_norm() for who, event in planned.items()
    }
    assert outcome.aggregate is not None
    seen, parts = outcome.aggregate.seen, list(experiment.payload.parts)
    name = "updates_KD" if aggregator == "mean" else "sum_D"
    length = len(state.global_D)
    lengths = {part: 1 if part == "steps" else length for part in parts}
    assert {key: value.shape[-1] for key, value in seen.items() if key.endswith(name)} == {
        name if part == "update" else f"{part}:{name}": lengths[part] for part in parts
    }
    # A head stays at the client: ten biases are not sent.
    assert experiment.message_layout.size == sum(lengths.values()) - 10 * ("head" in ALGORITHMS[algorithm])
    assert bool(outcome.state.global_D.isfinite().all())


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"algorithm": "scaffold", "training": {**SMALL["training"], "optimizer": "adam"}},
        r"training\.optimizer = 'adam': algorithm 'scaffold' needs updates that are linear",
    ),
    (
        {
            "algorithm": "scaffold",
            "privacy": {"kind": "client_central", **PRIVACY["client_central"]},
            "cohort": {"kind": "fixed", "size": 5},
        },
        r"cohort\.kind = 'fixed': algorithm 'scaffold' keeps state at clients, so that their later uploads reveal",
    ),
    ({"algorithm": "fedprox"}, r"algorithm\.mu: is missing"),
    ({"algorithm": "fedprx"}, r"algorithm\.kind = 'fedprx': did you mean 'fedprox'"),
    ({"algorithm": {"kind": "fedprox", "mu": -1.0}}, r"algorithm\.mu = -1\.0: must be greater than or equal to 0"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED)
def test_settings_that_do_not_go_together_are_refused_when_they_are_loaded(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        small(**changes)


def test_a_payload_of_another_shape_is_an_error_of_the_item() -> None:
    layout = PayloadLayout(Scaffold(kind="scaffold").parts(Layout(("w",), ((3,),))), Layout(("w",), ((3,),)))
    assert layout.joined.names == ("w", "control:w")
    with pytest.raises(ItemError, match=r"upload\(\) returned the shapes"):
        layout.join({"update": torch.zeros(3)})


# --- state that goes on --------------------------------------------------------------------------------------------------


def test_states_are_stacked_and_read_back_equal() -> None:
    assert stacked({}) == {}
    states = {
        client: ClientState({"a": torch.full((3,), client / 7)}, {"b": torch.full((2,), client / 9)}) for client in (7, 2)
    }
    rows = stacked(states)
    assert rows["clients"].tolist() == [2, 7]
    assert rows["kept.a"].shape == (2, 3)
    found = unstacked(rows)
    for client, state in states.items():
        assert torch.equal(found[client].kept["a"], state.kept["a"])
        assert torch.equal(found[client].personal["b"], state.personal["b"])


class KilledError(Exception):
    pass


def killed_after(rounds_done: int) -> Any:
    def observe(record: RoundRecord, timing: object) -> None:
        if record.round + 1 == rounds_done:
            raise KilledError

    return observe


@pytest.mark.parametrize("algorithm", ["scaffold", "ditto"])
def test_a_run_that_is_killed_between_rounds_goes_on_to_the_same_bytes(algorithm: str, tmp_path: Path) -> None:
    config = config_of(algorithm, "example", rounds=4)
    whole = run(config, tmp_path / "whole")
    with pytest.raises(KilledError):
        run(config, tmp_path / "cut", observer=killed_after(2))
    resumed = run(config, tmp_path / "cut", resume=True)
    for name in ("state.safetensors", "model.safetensors", "rounds.jsonl", "ledger.jsonl", "views/round_00003.safetensors"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes(), name


def test_a_run_that_is_killed_before_the_state_is_written_computes_the_round_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round's messages were written down already; the same ones are made again, of the state before."""
    config = config_of("scaffold", "example", rounds=3)
    whole = run(config, tmp_path / "whole")
    written = list[Path]()

    def dying(path: Path, content: Any) -> None:
        if path.name == "state.safetensors" and len(written) == 1:
            raise KilledError
        written.extend([path] if path.name == "state.safetensors" else [])
        write_atomic(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("privfl.running.kept_state.write_atomic", dying)
        with pytest.raises(KilledError):
            run(config, tmp_path / "cut")
    resumed = run(config, tmp_path / "cut", resume=True)
    for name in ("state.safetensors", "model.safetensors", "rounds.jsonl", "ledger.jsonl", "views/round_00001.safetensors"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes(), name


def test_shadows_train_by_the_same_algorithm() -> None:
    experiment = assemble(config_of("scaffold"))
    shadow = experiment.shadow(0, experiment.data.member_N)
    assert isinstance(shadow.algorithm, Scaffold)
    other = replace(shadow, algorithm=Uniform(kind="own"))
    with deterministic():
        assert not torch.equal(shadow.train(), other.train())
