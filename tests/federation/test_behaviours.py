"""Clients that depart from the protocol: who they are, what they hand to the plan, and that the plan still binds them."""

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
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic
from privfl.running.experiment import Experiment
from privfl.running.recording import run
from privfl.seeding import Seed
from privfl.shelves import SHELVES

PLAIN: dict[str, Any] = {"privacy": "none", "aggregator": "mean", "server": {"kind": "fedavg"}, "cohort": {"kind": "all"}}


def config_of(behaviour: Any, **changes: Any) -> ExperimentConfig:
    return small(**{**PLAIN, "behaviour": behaviour, **changes})


def sent(experiment: Experiment) -> Tensor:
    """The updates of the first round, as the server sees them."""
    with deterministic():
        aggregate = experiment.step(experiment.initial_state(), observed=True).aggregate
    assert aggregate is not None
    return aggregate.seen["updates_KD"]


@pytest.mark.parametrize("kind", ["label_flip", "sign_flip"])
def test_a_share_of_clients_is_drawn_from_a_stream_of_its_own(kind: str) -> None:
    def behaviour(share: float) -> Any:
        return SHELVES["behaviour"].find(kind).model_validate({"kind": kind, "share": share})

    for share, count in ((0.01, 1), (0.3, 3), (1.0, 10)):
        chosen = behaviour(share).chosen(10, Seed(0) / "behaviour")
        assert len(chosen) == count
        assert chosen <= set(range(10))
        assert chosen == assemble(config_of({"kind": kind, "share": share})).misbehaving
    assert len({behaviour(0.3).chosen(100, Seed(seed)) for seed in range(20)}) == 20
    # Nothing else is drawn anew.
    one, other = (assemble(config_of(of)) for of in ("honest", {"kind": kind, "share": 0.3}))
    assert torch.equal(one.initial_D, other.initial_D)
    assert one.cohorts == other.cohorts


def test_a_client_that_flips_its_sign_sends_the_opposite_of_an_honest_one() -> None:
    honest, experiment = (assemble(config_of(of)) for of in ("honest", {"kind": "sign_flip", "share": 0.2, "scale": 3.0}))
    assert honest.misbehaving == frozenset()
    expected, found = sent(honest), sent(experiment)
    for client in range(10):
        factor = -3.0 if client in experiment.misbehaving else 1.0
        assert torch.equal(found[client], factor * expected[client])


def test_a_client_that_flips_labels_trains_on_the_opposite_class() -> None:
    experiment = assemble(config_of({"kind": "label_flip", "share": 0.2}))
    cohort = experiment.cohort(experiment.initial_state())
    for client in range(10):
        expected_y = 9 - experiment.y if client in experiment.misbehaving else experiment.y
        assert torch.equal(cohort.task(client).y, expected_y)
    expected, found = sent(assemble(config_of("honest"))), sent(experiment)
    differing = {client for client in range(10) if not torch.equal(found[client], expected[client])}
    assert differing == experiment.misbehaving


@pytest.mark.parametrize("kind", ["label_flip", "sign_flip"])
def test_many_of_them_spoil_the_model_and_the_record_says_who(kind: str, tmp_path: Path) -> None:
    honest = run(config_of("honest"), tmp_path / "honest")
    spoilt = run(config_of({"kind": kind, "share": 0.6}), tmp_path / kind)
    assert spoilt.partition.misbehaving == tuple(sorted(assemble(config_of({"kind": kind, "share": 0.6})).misbehaving))
    assert "misbehaving" not in (honest.path / "partition.json").read_text()
    one, other = (folder.result.evaluation.headline.value for folder in (honest, spoilt))
    assert other < one - 0.2


def test_whatever_a_client_does_its_message_is_clipped() -> None:
    privacy = {"kind": "client_central", "noise_multiplier": 1.0, "delta": 1e-2, "max_update_norm": 0.5}
    behaviour = {"kind": "sign_flip", "share": 1.0, "scale": 1e6}
    for algorithm in ("fedavg", "scaffold"):
        experiment = assemble(config_of(behaviour, privacy=privacy, algorithm=algorithm))
        with deterministic():
            outcome = experiment.step(experiment.initial_state(), observed=True)
        assert outcome.aggregate is not None
        seen = outcome.aggregate.seen
        rows = torch.cat([value for name, value in seen.items() if name.endswith("updates_KD")], dim=1)
        assert torch.allclose(rows.norm(dim=1), torch.tensor(0.5), atol=1e-4)


def test_shadows_have_the_same_clients_misbehave() -> None:
    experiment = assemble(config_of({"kind": "label_flip", "share": 0.3}))
    shadow = experiment.shadow(1, experiment.data.member_N)
    assert shadow.misbehaving == experiment.misbehaving != frozenset()
    with deterministic():
        assert not torch.equal(shadow.train(), replace(shadow, misbehaving=frozenset()).train())


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ({"kind": "sign_flip"}, r"behaviour\.share: is missing"),
        ({"kind": "sign_flip", "share": 0.0}, r"behaviour\.share = 0\.0: must be greater than 0"),
        ({"kind": "honest", "share": 0.1}, r"behaviour\.share = 0\.1: is unknown"),
        ("sign_flop", r"behaviour\.kind = 'sign_flop': did you mean 'sign_flip'"),
    ],
)
def test_settings_that_are_wrong_are_refused(behaviour: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        small(**{**SMALL, "behaviour": behaviour})


def test_labels_that_are_no_classes_cannot_be_flipped() -> None:
    flip = SHELVES["behaviour"].find("label_flip").model_validate({"kind": "label_flip", "share": 0.1})
    for y, what in ((torch.zeros(4), "float32"), (torch.zeros(4, 2, dtype=torch.int64), r"shape \(N, \.\.\.\)")):
        with pytest.raises(ConfigError, match=what):
            flip.labels(y, 2)
