"""Compressors in whole runs: when they are FedAvg, under every plan and aggregator, and resumable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SMALL, small
from torch import Tensor

from privfl.config import ExperimentConfig
from privfl.errors import ConfigError
from privfl.federation.client_states import ClientState, stacked, unstacked
from privfl.federation.server_state import ServerState
from privfl.records import RoundRecord
from privfl.report import write_report
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic
from privfl.running.experiment import Experiment
from privfl.running.recording import run

CLIENT = {"noise_multiplier": 1.0, "delta": 1e-2, "max_update_norm": 0.5}
PRIVACY: dict[str, dict[str, Any]] = {
    "none": {},
    "example": {"noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 1.0},
    "client_local": CLIENT,
    "client_central": CLIENT,
    "client_dpftrl": CLIENT,
    "client_distributed": {**CLIENT, "survivors": 2},
}
TRANSFORMS: dict[str, dict[str, Any]] = {
    "random_k": {"share": 0.1},
    "power_sgd": {"rank": 1},
    "count_sketch": {},
    "top_k": {"share": 0.1},
    "qsgd": {},
    "scaled_sign": {},
    "eden": {},
}
LINEAR = ("random_k", "power_sgd", "count_sketch")
PLAIN: dict[str, Any] = {"privacy": "none", "aggregator": "mean", "server": {"kind": "fedavg"}, "rounds": 3}


def config_of(kind: str, privacy: str = "none", **changes: Any) -> ExperimentConfig:
    table: dict[str, Any] = {**PLAIN, "transform": {"kind": kind, **TRANSFORMS[kind]}}
    table["privacy"] = {"kind": privacy, **PRIVACY[privacy]}
    if privacy == "client_dpftrl":
        table["cohort"] = {"kind": "separated", "size": 3, "separation": 3}
    return small(**{**table, **changes})


def trained(config: ExperimentConfig) -> ServerState:
    experiment = assemble(config)
    state = experiment.initial_state()
    with deterministic():
        while state.round < config.rounds:
            state = experiment.step(state).state
    return state


# --- when it is FedAvg -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain() -> Tensor:
    return trained(small(**PLAIN)).global_D


@pytest.mark.parametrize(
    "transform",
    [{"kind": "random_k", "share": 1.0}, {"kind": "top_k", "share": 1.0}, {"kind": "power_sgd", "rank": 10}],
    ids=lambda table: table["kind"],
)
def test_a_compressor_that_leaves_nothing_out_is_fedavg_to_the_bit(transform: dict[str, Any], plain: Tensor) -> None:
    assert torch.equal(trained(small(**PLAIN, transform=transform)).global_D, plain)


def test_rounding_to_very_many_levels_is_fedavg_to_its_rounding(plain: Tensor) -> None:
    """Each of three rounds moves an entry by at most ‖v‖ · 2⁻²⁴ and a rounding of float32."""
    found_D = trained(small(**PLAIN, transform={"kind": "qsgd", "levels": 2**24})).global_D
    assert float((found_D - plain).abs().max()) < 1e-5
    assert not torch.equal(found_D, plain)


def test_one_bit_is_not_fedavg(plain: Tensor) -> None:
    assert not torch.allclose(trained(config_of("eden")).global_D, plain, atol=1e-3)


# --- under masks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LINEAR)
def test_a_linear_message_goes_through_a_secure_sum(kind: str) -> None:
    """Masks cancel exactly: the secure sum is the sum of its words in the clear, and near the mean in floating point."""
    cohort = {"kind": "all"}
    hidden, words, clear = (
        trained(config_of(kind, aggregator=aggregator, cohort=cohort, rounds=2))
        for aggregator in ("secure_sum", "plain_sum", "mean")
    )
    assert torch.equal(hidden.global_D, words.global_D)
    assert torch.allclose(hidden.global_D, clear.global_D, atol=1e-3)
    assert not torch.equal(hidden.global_D, clear.global_D)


@pytest.mark.parametrize("aggregator", ["secure_sum", "plain_sum"])
@pytest.mark.parametrize("kind", [kind for kind in TRANSFORMS if kind not in LINEAR])
def test_other_messages_are_refused_under_masks_with_what_would_work(kind: str, aggregator: str) -> None:
    said = rf"transform\.kind = '{kind}': its messages cannot be added up .*'random_k', 'power_sgd' or 'count_sketch'"
    with pytest.raises(ConfigError, match=said):
        config_of(kind, aggregator=aggregator)


# --- under plans --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("privacy", PRIVACY)
@pytest.mark.parametrize("kind", TRANSFORMS)
def test_a_compressor_runs_under_a_plan_at_the_price_of_fedavg_or_is_refused(kind: str, privacy: str) -> None:
    aggregator = "secure_sum" if privacy == "client_distributed" else "mean"
    if kind not in LINEAR and privacy in ("client_local", "client_distributed"):
        with pytest.raises(ConfigError, match=rf"transform\.kind = '{kind}': "):
            config_of(kind, privacy, aggregator=aggregator)
        return
    experiment = assemble(config_of(kind, privacy, aggregator=aggregator, rounds=2))
    with deterministic():
        outcome = experiment.step(experiment.step(experiment.initial_state()).state, observed=True)
    assert bool(outcome.state.global_D.isfinite().all())
    assert outcome.aggregate is not None
    # The view has whole payloads, whatever was sent.
    lengths = {name: value.shape[-1] for name, value in outcome.aggregate.seen.items() if name in ("sum_D", "updates_KD")}
    assert set(lengths.values()) == {len(outcome.state.global_D)}
    if privacy == "client_distributed":
        assert outcome.events == experiment.planned(1)
        assert experiment.plan.planned(1).dimension < len(outcome.state.global_D)  # type: ignore[union-attr]
        return
    planned = assemble(small(**{**PLAIN, "rounds": 2, "privacy": {"kind": privacy, **PRIVACY[privacy]}, **_cohort(privacy)}))
    assert {who: event.without_norm() for who, event in outcome.events.items()} == {
        who: event.without_norm() for who, event in planned.planned(1).items()
    }


def _cohort(privacy: str) -> dict[str, Any]:
    return {"cohort": {"kind": "separated", "size": 3, "separation": 3}} if privacy == "client_dpftrl" else {}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"transform": "random_k"}, r"transform\.share: is missing"),
    ({"transform": {"kind": "random_k", "share": 0.0}}, r"transform\.share = 0\.0: must be greater than 0"),
    ({"transform": {"kind": "top_k", "share": float("nan")}}, r"transform\.share = nan"),
    ({"transform": "topk"}, r"transform\.kind = 'topk': did you mean 'top_k'"),
    ({"transform": {"kind": "eden", "bits": 9}}, r"transform\.bits = 9: must be less than or equal to 8"),
    ({"transform": {"kind": "power_sgd", "rank": 0}}, r"transform\.rank = 0"),
    (
        {"transform": "scaled_sign", "privacy": {"kind": "client_central", **CLIENT}, "cohort": {"kind": "fixed", "size": 5}},
        r"cohort\.kind = 'fixed': transform 'scaled_sign' keeps state at clients",
    ),
    (
        {"transform": "eden", "privacy": {"kind": "client_local", **CLIENT}},
        r"transform\.kind = 'eden': the noise that 'client_local' adds at the client .*'random_k', .*'client_central'",
    ),
    (
        {"transform": "eden", "privacy": {"kind": "client_central", "clipping": "per_layer", **CLIENT}},
        r"privacy\.clipping\.kind = 'per_layer': .* set 'flat'",
    ),
    (
        {"transform": "eden", "algorithm": "fednova"},
        r"transform\.kind = 'eden': algorithm 'fednova' uploads a number \(steps\)",
    ),
    ({"transform": "eden", "algorithm": {"kind": "ifca", "clusters": 2}}, r"algorithm 'ifca' has several global models"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED)
def test_settings_that_do_not_go_together_are_refused_when_they_are_loaded(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        small(**{**PLAIN, **changes})


# --- the memory -----------------------------------------------------------------------------------------------------------


def test_memories_are_stacked_and_read_back_equal() -> None:
    states = {7: ClientState({}, {}, torch.arange(3.0)), 2: ClientState({}, {}, torch.zeros(3))}
    found = unstacked(stacked(states))
    assert {client: state.error_D.tolist() for client, state in found.items() if state.error_D is not None} == {
        2: [0.0, 0.0, 0.0],
        7: [0.0, 1.0, 2.0],
    }


class KilledError(Exception):
    pass


@pytest.mark.parametrize("kind", ["top_k", "power_sgd", "count_sketch", "qsgd"])
def test_a_run_that_is_killed_goes_on_to_the_same_bytes_and_records_the_compressed_size(kind: str, tmp_path: Path) -> None:
    def killed(record: RoundRecord, timing: object) -> None:
        if record.round == 1:
            raise KilledError

    config = config_of(kind, "example", rounds=3)
    whole = run(config, tmp_path / "whole")
    with pytest.raises(KilledError):
        run(config, tmp_path / "cut", observer=killed)
    cut = run(config, tmp_path / "cut", resume=True)
    for name in ("state.safetensors", "rounds.jsonl", "ledger.jsonl", "views/round_00002.safetensors"):
        assert (cut.path / name).read_bytes() == (whole.path / name).read_bytes(), name
    experiment = assemble(config)
    size = experiment.transform.message_bytes(experiment.payload.joined) + 4
    assert size < 0.8 * 4 * (experiment.layout.size + 1)
    assert [record.bytes_up for record in whole.rounds()] == [size * len(record.survivors) for record in whole.rounds()]
    assert whole.result.bytes_plain == whole.result.bytes_up
    uploads = sum(len(record.survivors) for record in whole.rounds())
    assert whole.result.bytes_uncompressed == uploads * 4 * (experiment.layout.size + 1)
    page = write_report([cut], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "the same in the clear, uncompressed" in page


def test_a_memory_is_part_of_the_name_of_a_client_s_noise() -> None:
    """Two messages with the same noise would differ by what the client remembers, without any noise."""
    experiment: Experiment = assemble(config_of("top_k", "example"))
    state, zero_D = experiment.initial_state(), torch.zeros(experiment.layout.size)
    client = experiment.cohorts[0][0]
    seeds = {
        experiment.cohort(replace(state, clients={client: ClientState(error_D=error_D)})).task(client).seed
        for error_D in (zero_D, zero_D + 1)
    }
    assert len(seeds) == 2


def test_bases_are_part_of_what_clients_agree_on_and_of_the_name_of_the_noise() -> None:
    experiment = assemble(config_of("power_sgd", "example", aggregator="secure_sum"))
    state = experiment.initial_state()
    assert set(experiment._told(state)) == {"transform.left.0", "transform.right.0"}
    other = replace(state, transform={name: -value for name, value in state.transform.items()})
    assert experiment.stream(state) != experiment.stream(other)


def test_scaffold_s_two_vectors_are_compressed_together() -> None:
    config = config_of("random_k", algorithm="scaffold", aggregator="secure_sum", data={**SMALL["data"], "clients": 5})
    experiment = assemble(config)
    assert experiment.message_layout.size == round(0.1 * 2 * experiment.layout.size)
    with deterministic():
        outcome = experiment.step(experiment.initial_state(), observed=True)
    assert bool(outcome.state.algorithm["control"].any())
