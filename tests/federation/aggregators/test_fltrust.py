"""FLTrust: the server's own update decides whom it trusts, and its examples are out of the test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_runs import small

from privfl.errors import ConfigError
from privfl.federation.aggregators.fltrust import trusted
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic

PLAIN: dict[str, Any] = {"privacy": "none", "server": {"kind": "fedavg"}, "cohort": {"kind": "all"}}
FLTRUST = {"kind": "fltrust", "root_rows": 80}


def config_of(**changes: Any) -> Any:
    return small(**{**PLAIN, "aggregator": FLTRUST, **changes})


def test_updates_count_by_their_cosine_and_not_by_their_length() -> None:
    root_D = torch.tensor([3.0, 4.0], dtype=torch.float64)
    rows = torch.tensor([[300.0, 400.0], [0.0, 0.1], [-3.0, -4.0], [4.0, -3.0], [0.0, 0.0]], dtype=torch.float64)
    # Cosines 1, 0.8, -1, 0, 0: (1 · (3, 4) + 0.8 · (0, 5)) / 1.8.
    expected = torch.tensor([3 / 1.8, 8 / 1.8], dtype=torch.float64)
    assert torch.allclose(trusted(rows, root_D), expected, atol=1e-12)
    assert torch.allclose(trusted(rows.flip(0), root_D), expected, atol=1e-12)
    rows[2] *= 1e9
    assert torch.allclose(trusted(rows, root_D), expected, atol=1e-12)


def test_a_server_that_trusts_nobody_moves_nothing() -> None:
    root_D = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert trusted(-root_D.expand(3, -1), root_D).tolist() == [0.0, 0.0]
    assert trusted(root_D.expand(3, -1), root_D * 0).tolist() == [0.0, 0.0]


def test_the_servers_examples_are_taken_out_of_the_test() -> None:
    usual, experiment = assemble(config_of(aggregator="mean")), assemble(config_of())
    root = experiment.root
    assert root is not None
    assert usual.root is None
    assert (len(root.x), len(experiment.test_x)) == (80, len(usual.test_x) - 80)
    both = torch.cat([root.x.kept, experiment.test_x.kept]).flatten(1).numpy()
    whole = usual.test_x.kept.flatten(1).numpy()
    assert np.array_equal(both[np.lexsort(both.T)], whole[np.lexsort(whole.T)])
    labels = torch.cat([root.y, experiment.test_y])
    assert torch.equal(labels.bincount(), usual.test_y.bincount())


def test_a_round_moves_by_the_servers_length() -> None:
    experiment = assemble(config_of())
    state = experiment.initial_state()
    with deterministic():
        outcome = experiment.step(state, observed=True)
        assert experiment.root is not None
        root_D = experiment._root_update(state, experiment.root)
    assert outcome.aggregate is not None
    expected = trusted(outcome.aggregate.seen["updates_KD"].double(), root_D.double())
    assert torch.allclose(outcome.state.global_D - state.global_D, expected.float(), atol=1e-6)
    assert float(root_D.norm()) > 0.1


def test_it_learns_though_most_clients_attack() -> None:
    attack = {"kind": "sign_flip", "share": 0.6, "scale": 4.0}
    found = {}
    for aggregator in (FLTRUST, "mean"):
        experiment = assemble(config_of(aggregator=aggregator, behaviour=attack))
        with deterministic():
            outputs = experiment.logits(experiment.train(), experiment.test_x)
        found[str(aggregator)] = float((outputs.argmax(1) == experiment.test_y).float().mean())
    trusting, mean = found.values()
    assert trusting > 0.6
    assert trusting > mean + 0.3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"aggregator": {"kind": "fltrust", "root_rows": 0}}, r"aggregator\.root_rows = 0: must be greater than 0"),
        (
            {"aggregator": {"kind": "fltrust", "root_rows": 300}},
            r"root_rows = 300: they are taken out of the 359 test",
        ),
        ({"transform": {"kind": "random_k", "share": 0.5}}, r"'fltrust': the server compares whole updates .*'random_k'"),
        (
            {"privacy": {"kind": "client_central", "noise_multiplier": 1.0, "delta": 1e-2, "max_update_norm": 0.5}},
            r"aggregator\.kind = 'fltrust'",
        ),
    ],
)
def test_impossible_settings_are_refused(changes: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        assemble(config_of(**changes))


def test_the_servers_examples_are_the_same_for_shadow_models() -> None:
    experiment = assemble(config_of())
    shadow = experiment.shadow(0, experiment.data.member_N)
    assert shadow.root is experiment.root
