"""Which settings leave a run's randomness as it is: those that leave every message as it is, and no other.

Two runs that share a name must be one release; two that are not must share neither noise, nor batches, nor secret cohorts.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from small_runs import SMALL, plan_for, small

from privfl.config import DataConfig, ExperimentConfig
from privfl.data.federated import FederatedData
from privfl.errors import ConfigError
from privfl.federation import noise_domain as noise_domain_module
from privfl.federation.noise_domain import RunFacts, noise_domain, with_members
from privfl.federation.server_state import ServerState
from privfl.learning.models._build import constants
from privfl.privacy.plans import Federation
from privfl.privacy.plans.none import NoPlan
from privfl.running import experiment as experiment_module
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic
from privfl.running.experiment import Experiment
from privfl.shelves import SHELVES
from privfl.tables import Item

DOCS = Path(__file__).parents[2] / "docs" / "privacy.md"
Table = dict[str, Any]

PRIVACY: dict[str, Table] = {
    "example": {"noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 1.0},
    "client_local": {"noise_multiplier": 1.0, "delta": 1e-2, "max_update_norm": 0.5},
    "client_central": {"noise_multiplier": 1.0, "delta": 1e-2, "max_update_norm": 0.5},
    "client_dpftrl": {"noise_multiplier": 1.0, "delta": 1e-2, "max_update_norm": 0.5},
    "client_distributed": {"noise_multiplier": 1.0, "delta": 1e-2, "max_update_norm": 0.5, "survivors": 2},
}
OWN_NOISE = ("example", "client_local")
"""Plans whose messages have their noise when they leave a client."""

SEPARATED = {"kind": "separated", "size": 3, "separation": 3}


def table(kind: str, **changes: Any) -> Table:
    """The small run under that plan; ``changes`` replace what stands at dotted keys, with ``__`` for the dot."""
    made = {**SMALL, "privacy": {"kind": kind, **PRIVACY.get(kind, {})}, "server": {"kind": "fedavg"}}
    if kind == "client_dpftrl":
        made["cohort"] = SEPARATED
    for key, value in changes.items():
        made = with_value(made, key.split("__"), value)
    return made


def with_value(one: Table, path: list[str], value: Any) -> Table:
    key, *rest = path
    inner = one.get(key)
    if not rest or not isinstance(inner, dict | str):
        return {**one, key: value if not rest else {"kind": inner, rest[0]: value}}
    return {**one, key: with_value(inner if isinstance(inner, dict) else {"kind": inner}, rest, value)}


def config_of(kind: str, **changes: Any) -> ExperimentConfig:
    return small(**table(kind, **changes))


@pytest.fixture(scope="module")
def data() -> FederatedData:
    return assemble(small()).data


FUSED, OPACUS = RunFacts("fused", "cpu", ""), RunFacts("opacus", "cpu", "")


def name_of(config: ExperimentConfig, data: FederatedData, facts: RunFacts = FUSED, noise: float = 0.3) -> str:
    """The run's name where its settings come to that noise."""
    plan = plan_for(config, Federation(10, 5, 650))
    assert not isinstance(plan, NoPlan)
    return noise_domain(config, facts, plan.calibrated(noise), data)


# --- every setting is one kind or the other ----------------------------------------------------------------------------


def tables_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for inner in typing.get_args(annotation):
        yield from tables_in(inner)


def fields(model: type[BaseModel], at: str = "") -> Iterator[str]:
    """Every setting, by its dotted key; an item of a shelf counts whole, but for the settings of all data
    sets, and those of partitions, cohorts and plans, item by item."""
    for name, field in model.model_fields.items():
        inside = [one for one in tables_in(field.annotation) if not issubclass(one, Item) or issubclass(one, DataConfig)]
        if (shelf := f"{at}{name}") in ("data.partition", "cohort", "privacy"):
            inside = [SHELVES[shelf].find(kind) for kind in SHELVES[shelf].names()]
        if not inside:
            yield at + name
        for one in inside:
            yield from fields(one, f"{at}{name}.")


ALL = set(fields(ExperimentConfig))

NEVER = {
    "name",
    "seed",
    "rounds",
    "privacy.delta",
    "evaluation.every",
    "records.views",
    "attacks.run",
    "attacks.shadow_models",
    "attacks.exposed",
    "privacy.max_epsilon",
}
AS_FOUND = {"device", "training.engine"}
BY_ENGINE = {"training.parts", "training.memory_budget"}
REFUSED = {f"training.early_stopping.{name}" for name in ("patience", "tolerance", "validation")}
REFUSED |= {"evaluation.until.metric", "evaluation.until.value"}
BY_NOISE = {"privacy.noise_multiplier", "privacy.target_epsilon"}
BY_PLAN = {"aggregator"}
ALWAYS: dict[str, tuple[str, Table]] = {
    "data.kind": ("example", {"data__kind": "adult"}),
    "data.clients": ("example", {"data__clients": 9}),
    "data.holdout": ("example", {"data__holdout": 0.3}),
    "data.rotations": ("example", {"data__rotations": [180, 0]}),
    "data.partition.kind": ("example", {"data__partition": {"kind": "iid"}}),
    "data.partition.alpha": ("example", {"data__partition__alpha": 2.0}),
    "data.partition.balanced": ("example", {"data__partition__balanced": True}),
    "data.partition.share": ("example", {"data__partition": {"kind": "similarity", "share": 0.5}}),
    "data.partition.classes_per_client": ("example", {"data__partition": {"kind": "classes", "classes_per_client": 3}}),
    "data.partition.spread": ("example", {"data__partition": {"kind": "classes", "spread": 0.5}}),
    "data.partition.shards_per_client": ("example", {"data__partition": {"kind": "shards", "shards_per_client": 3}}),
    "data.transforms": ("example", {"data__transforms": [{"kind": "group_norm", "groups": 1}]}),
    "task": ("example", {"task": {"kind": "classification", "label_smoothing": 0.1}}),
    "model": ("example", {"model": {"kind": "mlp"}}),
    "behaviour": ("example", {"behaviour": {"kind": "sign_flip", "share": 0.2}}),
    "algorithm": ("example", {"algorithm": {"kind": "fedprox", "mu": 0.1}}),
    "transform": ("example", {"transform": {"kind": "random_k", "share": 0.5}}),
    "clock": ("example", {"clock": {"kind": "lognormal"}}),
    "pace": ("example", {"training__local_epochs": 2, "pace": {"kind": "stragglers", "share": 0.5}}),
    "server": ("example", {"server": {"kind": "fedadam", "lr": 0.1}}),
    "canaries": ("example", {"canaries": {"kind": "mislabelled", "count": 20}}),
    "cohort.kind": ("example", {"cohort": {"kind": "fixed", "size": 5}}),
    "cohort.size": ("example", {"cohort__size": 6}),
    "cohort.separation": ("client_dpftrl", {"cohort__separation": 2}),
    "training.local_epochs": ("example", {"training__local_epochs": 2}),
    "training.local_steps": ("example", {"training": {"local_steps": 3, "batch_size": 16, "lr": 0.5}}),
    "training.batch_size": ("example", {"training__batch_size": 8}),
    "training.lr": ("example", {"training__lr": 0.25}),
    "training.momentum": ("example", {"training__momentum": 0.5}),
    "training.weight_decay": ("example", {"training__weight_decay": 0.1}),
    "training.optimizer": ("example", {"training__optimizer": "adam"}),
    "training.round_schedule": ("example", {"training__round_schedule": "step"}),
    "training.step_schedule": ("example", {"training__step_schedule": "cosine"}),
    "training.max_grad_norm": ("client_local", {"training__max_grad_norm": 1.0}),
    "training.precision": ("example", {"training__precision": "bfloat16"}),
    "privacy.kind": ("client_central", {"privacy__kind": "client_local"}),
    "privacy.randomness": ("example", {"privacy__randomness": "secure"}),
    "privacy.max_grad_norm": ("example", {"privacy__max_grad_norm": 2.0}),
    "privacy.sampler": ("example", {"privacy__sampler": "shuffle"}),
    "privacy.clipping.kind": ("example", {"privacy__clipping": "per_layer"}),
    "privacy.clipping.quantile": ("client_central", {"privacy__clipping": {"kind": "adaptive", "quantile": 0.7}}),
    "privacy.clipping.lr": ("client_central", {"privacy__clipping": {"kind": "adaptive", "lr": 0.3}}),
    "privacy.max_update_norm": ("client_central", {"privacy__max_update_norm": 0.6}),
    "privacy.imagined.population": ("client_central", {"privacy__imagined": {"population": 90, "cohort": 50}}),
    "privacy.imagined.cohort": ("client_central", {"privacy__imagined": {"population": 80, "cohort": 60}}),
    "privacy.factorization": ("client_dpftrl", {"privacy__factorization": "tree"}),
    "privacy.bands": ("client_dpftrl", {"privacy__bands": 2}),
    "privacy.mechanism": ("client_distributed", {"privacy__mechanism": "discrete_gaussian"}),
    "privacy.bits": ("client_distributed", {"privacy__bits": 20}),
    "privacy.survivors": ("client_distributed", {"privacy__survivors": 3}),
}
"""A plan under which a setting applies, and a change of it."""

ADAPTIVE: Table = {"privacy__clipping": {"kind": "adaptive"}, "privacy__noise_multiplier": 0.3}
BASES: dict[str, Table] = {
    "data.partition.share": {"data__partition": {"kind": "similarity", "share": 0.1}},
    "data.partition.classes_per_client": {"data__partition": "classes"},
    "data.partition.spread": {"data__partition": "classes"},
    "data.partition.shards_per_client": {"data__partition": {"kind": "shards", "shards_per_client": 2}},
    "privacy.clipping.quantile": ADAPTIVE,
    "privacy.clipping.lr": ADAPTIVE,
    "privacy.imagined.population": {"privacy__imagined": {"population": 80, "cohort": 50}},
    "privacy.imagined.cohort": {"privacy__imagined": {"population": 80, "cohort": 50}},
    "pace": {"training__local_epochs": 2},
    "training.local_steps": {"training": {"local_steps": 2, "batch_size": 16, "lr": 0.5}},
}
"""Where a change is of something that the small run has not."""


def test_every_setting_is_sorted_and_stands_in_the_docs() -> None:
    """A new setting is in the name until somebody thinks about it; this test asks them to."""
    assert NEVER | AS_FOUND | REFUSED | BY_ENGINE | BY_NOISE | BY_PLAN | set(ALWAYS) == ALL
    section = DOCS.read_text(encoding="utf-8").split("## Which runs are paired")[1].split("\n## ")[0]
    rows = [row.split("|")[1:3] for row in section.splitlines() if row.startswith("| `")]
    kinds = {answer.strip(): set(re.findall(r"`([\w.]+)`", settings)) for settings, answer in rows}
    assert kinds == {
        "never": NEVER,
        "as resolved": AS_FOUND,
        "refused with a promise": REFUSED,
        "with the fused engine": BY_ENGINE,
        "as the resulting noise": BY_NOISE,
        "if the noise protects only its result": BY_PLAN,
        "always": set(ALWAYS),
    }


@pytest.mark.parametrize("kind", PRIVACY)
def test_an_end_that_depends_on_the_data_is_refused_with_every_promise(kind: str) -> None:
    with pytest.raises(ConfigError, match="which no ε covers"):
        config_of(kind, training__early_stopping={"patience": 3})
    with pytest.raises(ConfigError, match="which no ε covers"):
        config_of(kind, evaluation={"until": {"value": 0.9}})


@pytest.mark.parametrize("key", ALWAYS)
def test_what_moves_a_message_or_the_mechanism_is_in_the_name(key: str, data: FederatedData) -> None:
    kind, change = ALWAYS[key]
    base = BASES.get(key, {})
    one, other = config_of(kind, **base), config_of(kind, **{**base, **change})
    assert one != other
    assert name_of(one, data) != name_of(other, data)


KEPT: list[Table] = [
    {"name": "another"},
    {"evaluation": {"every": 3}},
    {"records": {"views": "final"}},
    {"attacks": {"run": ["membership/loss"], "shadow_models": 2}},
    {"privacy__max_epsilon": 90.0},
    {"training__engine": "fused"},
    {"device": "cpu"},
    {"rounds": 3},
    {"privacy__delta": 1e-5},
]


@pytest.mark.parametrize("kind", PRIVACY)
@pytest.mark.parametrize("change", KEPT, ids=lambda change: "".join(change))
def test_what_leaves_every_message_as_it_is_is_not_in_the_name(kind: str, change: Table, data: FederatedData) -> None:
    kept = name_of(config_of(kind), data) == name_of(config_of(kind, **change), data)
    # Correlated noise is made for a number of rounds.
    assert kept == (kind != "client_dpftrl" or "rounds" not in change)


@pytest.mark.parametrize("kind", PRIVACY)
def test_the_noise_is_in_the_name_whatever_fixed_it(kind: str, data: FederatedData) -> None:
    given, asked = config_of(kind), config_of(kind, privacy__noise_multiplier=None, privacy__target_epsilon=2.0)
    assert name_of(given, data) == name_of(asked, data) != name_of(asked, data, noise=0.301)


@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_the_number_of_rounds_is_in_the_name_where_the_learning_rate_follows_it(schedule: str, data: FederatedData) -> None:
    """A longer run would send other messages under the same noise."""
    names = {name_of(config_of("example", training__round_schedule=schedule, rounds=rounds), data) for rounds in (2, 3)}
    assert len(names) == 2
    names = {name_of(config_of("example", training__step_schedule=schedule, rounds=rounds), data) for rounds in (2, 3)}
    assert len(names) == 1


def test_secret_cohorts_are_of_the_whole_name() -> None:
    """Cohorts that two runs share, under noise of their own, cost more than both prices add up to."""
    changes: list[Table] = [{}, {"training__engine": "opacus"}, {"training__lr": 0.25}, {"privacy__noise_multiplier": 1.1}]
    runs = [assemble(config_of("client_central", rounds=30, **change)) for change in changes]
    runs.append(runs[0].shadow(0, runs[0].data.member_N))
    assert len({run.cohorts for run in runs}) == len(runs)
    # And a release is whole: the very cohorts where the noise is the same.
    assert assemble(config_of("client_central", rounds=20, name="again")).cohorts == runs[0].cohorts[:20]


def test_how_a_cohort_is_cut_is_in_the_name_where_it_moves_bits(data: FederatedData) -> None:
    """Opacus trains one client after another; fused, a result may depend in its last bits on who is trained beside it."""
    configs = [config_of("example", **change) for change in ({}, {"training__parts": 2}, {"training__memory_budget": 100})]
    assert len({name_of(config, data, OPACUS) for config in configs}) == 1
    assert len({name_of(config, data, FUSED) for config in configs}) == 3


def test_what_was_found_is_in_the_name(data: FederatedData) -> None:
    """The engine that was chosen, the kind of device, and the constants of the model."""
    made = [FUSED, OPACUS, replace(FUSED, device="cuda"), replace(FUSED, constants="others")]
    for kind in PRIVACY:
        assert len({name_of(config_of(kind), data, one) for one in made}) == 4


@pytest.mark.parametrize("kind", PRIVACY)
@pytest.mark.parametrize(
    "aggregator",
    [
        {"kind": "mean"},
        {"kind": "secure_sum", "bits": 24},
        {"kind": "secure_sum", "dropout": {"masked_input": 0.1}},
        {"kind": "secure_sum", "graph": "complete"},
    ],
    ids=["mean", "bits", "losses", "graph"],
)
def test_the_aggregator_is_in_the_name_where_the_noise_covers_what_comes_of_it(
    kind: str, aggregator: Table, data: FederatedData
) -> None:
    """Rounding, and who is lost, come before a trusted server's noise; shares of noise are lost with their clients."""
    if kind == "client_distributed" and aggregator["kind"] == "mean":
        return
    same = name_of(config_of(kind), data) == name_of(config_of(kind, aggregator=aggregator), data)
    assert same == (kind in OWN_NOISE)


def test_code_of_somebodys_own_is_in_the_name(tmp_path: Path, data: FederatedData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever edits forward() and runs again with the same seed would otherwise get the same noise on another message."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lab_of_pairing").mkdir()
    names = []
    for version, text in enumerate(("Tanh", "Tanh", "ReLU")):
        path = tmp_path / "lab_of_pairing" / f"net{version}.py"
        path.write_text(f"from privfl.learning.models.mlp import Mlp\n\nclass Net(Mlp):\n    _layer = '{text}'\n")
        config = small(model={"kind": f"lab_of_pairing.net{version}"})
        # As if it were the same file, edited.
        renamed = config.model.model_copy(update={"kind": "lab_of_pairing.net"})
        names.append(name_of(config.model_copy(update={"model": renamed}), data))
    assert names[0] == names[1] != names[2]


# --- what a name is worth ------------------------------------------------------------------------------------------------


def trained(config: ExperimentConfig) -> list[torch.Tensor]:
    """The global model after each of the first rounds."""
    experiment, models = assemble(config), list[torch.Tensor]()
    with deterministic():
        state = experiment.initial_state()
        while state.round < config.rounds:
            state = experiment.step(state).state
            models.append(state.global_D)
    return models


@pytest.mark.parametrize("kind", PRIVACY)
def test_runs_of_one_name_are_one_release(kind: str) -> None:
    """To the bit, and a shorter one is the beginning of a longer: together they tell what the longer tells."""
    change = {key: value for change in KEPT for key, value in change.items() if key != "rounds"}
    if kind in OWN_NOISE:
        change["aggregator"] = {"kind": "secure_sum", "graph": "complete", "adversary": "active", "threads": 2}
    rounds = 3 if kind == "client_dpftrl" else 2
    one, other = trained(config_of(kind, rounds=3)), trained(config_of(kind, **change, rounds=rounds))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=False))
    assert len(other) == rounds


def message(experiment: Experiment, state: ServerState) -> torch.Tensor:
    """What the first client of the round hands in."""
    task = experiment.cohort(state).task(experiment.cohorts[state.round][0])
    with deterministic():
        (result,) = experiment.trainer.train(state.global_D, [task])
        if experiment.config.privacy.kind == "client_local":
            return experiment.plan.at_client(result.delta_D, experiment.layout, state.plan, task.seed).delta_D
    return result.delta_D


def apart(kind: str) -> tuple[float, float]:
    """How far a client's messages in two runs are apart that differ in their aggregator alone; in the first round and the
    second, over what a message's noise and all else in it are long.
    """
    runs = [assemble(config_of(kind, aggregator={"kind": "secure_sum", "bits": bits})) for bits in (32, 24)]
    assert runs[0].noise_domain == runs[1].noise_domain
    states = [run.initial_state() for run in runs]
    found = []
    for _ in range(2):
        one, other = (message(run, state) for run, state in zip(runs, states, strict=True))
        found.append(float((one - other).norm() / one.norm()))
        with deterministic():
            states = [run.step(state).state for run, state in zip(runs, states, strict=True)]
    return found[0], found[1]


@pytest.mark.parametrize("kind", OWN_NOISE)
def test_one_noise_is_never_on_two_messages(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first messages are the same. The aggregators' rounding makes the models differ that the second begin with: under
    one noise the difference of these would be the client's own, with nothing to hide it.
    """
    first, second = apart(kind)
    assert first == 0.0
    # Two independent noises are √2 apart.
    assert second > 1.0
    monkeypatch.setattr(experiment_module, "with_model", lambda name, *_: name)
    first, second = apart(kind)
    assert first == 0.0
    assert 0.0 < second < 0.02


def test_under_a_central_plan_rounding_would_be_laid_bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """The difference of two noised sums of the same updates, differently rounded, is of the size of the noise; with the
    aggregator out of the name it is rounding alone.
    """

    def difference() -> float:
        secure = [{"kind": "secure_sum", "bits": bits} for bits in (32, 64)]
        runs = [config_of("client_central", rounds=1, aggregator=aggregator) for aggregator in secure]
        (one,), (other,) = (trained(run) for run in runs)
        return float((one - other).norm())

    assert difference() > 0.5
    real = noise_domain_module._excluded
    monkeypatch.setattr(noise_domain_module, "_excluded", lambda *args: real(*args) | {"aggregator": True})
    assert difference() < 1e-4


@pytest.mark.parametrize("kind", PRIVACY)
def test_neighbouring_data_with_one_seed_share_neither_noise_nor_batches(kind: str) -> None:
    """Were they the same, the difference of two releases on neighbouring data would be all signal."""
    experiment = assemble(config_of(kind))
    found = {name: set(keys_of(replace(experiment, noise_domain=name))) for name in neighbours(experiment)}
    assert experiment.noise_domain in found
    assert len(found) == 5
    assert len(set().union(*found.values())) == sum(map(len, found.values()))


def neighbours(experiment: Experiment) -> Iterator[str]:
    """The names of the run, and of the same on data in which one thing is another."""
    data = experiment.data
    x, y, owner_N, member_N = data.pool.x.copy(), data.pool.y.copy(), data.owner_N.copy(), data.member_N.copy()
    x[0] += 1
    y[0] = (y[0] + 1) % 10
    owner_N[0] = (owner_N[0] + 1) % 10
    member_N[np.flatnonzero(member_N)[0]] = False
    value, label = replace(data, pool=replace(data.pool, x=x)), replace(data, pool=replace(data.pool, y=y))
    for one in (data, value, label, replace(data, owner_N=owner_N), replace(data, member_N=member_N)):
        yield with_members(noise_domain(experiment.config, facts_of(experiment), experiment.plan, one), one.member_N)


def facts_of(experiment: Experiment) -> RunFacts:
    return RunFacts(experiment.engine.partition(":")[0], experiment.x.device.type, constants(experiment.model))


def keys_of(experiment: Experiment) -> Iterator[bytes]:
    """Of every stream of a round that a promise rests on."""
    state = experiment.initial_state()
    for name in ("noise", "batches", "layers"):
        yield (experiment.cohort(state).task(3).seed / name).key()
    for name in ("noise", "count"):
        yield (experiment._round(state).stream / name).key()
    yield (experiment.stream(state) / "shares").key()


# --- without a promise ---------------------------------------------------------------------------------------------------


def test_without_a_promise_runs_are_paired_by_their_seed_alone() -> None:
    """The ablation of secure aggregation is then of its rounding; other noise and batches moved 10 % of the answers."""
    # Of a size that a secure sum takes: a smaller cohort it would skip.
    cohort = {"kind": "fixed", "size": 5}
    secure, plain = (assemble(config_of("none", aggregator=kind, rounds=6, cohort=cohort)) for kind in ("secure_sum", "mean"))
    with deterministic():
        rounded, exact = secure.train(), plain.train()
    assert torch.allclose(rounded, exact, atol=1e-4)
    assert not torch.equal(rounded, exact)
    slower = assemble(config_of("none", training__lr=0.1, model={"kind": "mlp"}))
    later = replace(slower.initial_state(), round=2)
    assert slower.stream(later) == secure.stream(replace(secure.initial_state(), round=2))
    assert slower.stream(later) != assemble(config_of("none", seed=1)).stream(later)
