"""Property inference: planted properties are found in updates and sums, none in noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attacks._local import LocalTraining
from attacks._run import run_attacks
from attacks.inference.property import Property
from privfl.auditing.questions import AttackClaim, Claims, Truth
from privfl.auditing.questions.property import Asked, PropertyClaim, PropertyFinding, PropertyRecord
from privfl.auditing.questions.property import Property as PropertyQuestion
from privfl.errors import ConfigError, ItemError
from privfl.loading import loads
from privfl.report import attacks_tables, write_report
from privfl.running.assembling import assemble
from privfl.running.knowledge import Knowledge
from privfl.running.recording import run
from privfl.running.run_folder import RunFolder
from privfl.running.views import open_view

ATTACK = {"kind": "inference/property", "label": 1, "rounds": 2, "simulated": 60}
PLANTED: dict[str, Any] = {
    "name": "property",
    "rounds": 2,
    "data": {"kind": "own_attacks.class_shares", "partition": {"kind": "natural"}, "holdout": 0.2},
    "model": {"kind": "mlp", "hidden": [16]},
    "cohort": {"kind": "all"},
    "training": {"local_epochs": 2, "batch_size": 10, "lr": 0.1},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
    "attacks": {"run": [ATTACK], "shadow_models": 0},
}


def attacked(path: Path, **changes: Any) -> tuple[RunFolder, PropertyRecord]:
    folder = run(loads({**PLANTED, **changes}), path)
    (found,) = run_attacks(folder)
    assert isinstance(found, PropertyFinding)
    (record,) = found.attacks
    return folder, record


def test_a_planted_property_is_found_in_updates(tmp_path: Path) -> None:
    folder, record = attacked(tmp_path / "run")
    assert (record.targets, record.clients, record.having, record.majority) == (40, 1, 20, 0.5)
    assert record.right.low > 0.8
    assert record.auc is not None
    assert record.auc.low > 0.8
    findings = RunFolder.open(folder.path).findings
    assert run_attacks(folder) == findings
    page = write_report([folder], folder.path / "report.html").read_text(encoding="utf-8")
    assert "<h3>Property, by the server</h3>" in page
    assert "more than 50 % of the examples are of class 1" in page
    two = write_report([folder, folder], folder.path.parent / "two.html").read_text(encoding="utf-8")
    assert "property of clients told rightly" in two
    assert "property, by the server" in str(attacks_tables(folder)[0].title)


def test_updates_that_are_noise_tell_no_property(tmp_path: Path) -> None:
    """The 95 % interval holds a half, as a constant answer; it would miss it for one seed of twenty at most."""
    privacy = {"kind": "example", "noise_multiplier": 300.0, "delta": 1e-5, "max_grad_norm": 1.0}
    _, record = attacked(tmp_path / "run", privacy=privacy)
    assert record.right.low < record.majority < record.right.high


def test_a_property_is_found_in_secure_sums(tmp_path: Path) -> None:
    """A cohort of four has it if most of its examples together are of the class; sums are all that the server sees."""
    _, record = attacked(
        tmp_path / "run",
        rounds=40,
        cohort={"kind": "fixed", "size": 4},
        aggregator={"kind": "secure_sum"},
        training={"local_epochs": 1, "batch_size": 40, "lr": 0.1},
        attacks={"run": [{**ATTACK, "of": "sum", "rounds": 40, "simulated": 20}], "shadow_models": 0},
    )
    assert (record.variant, record.clients) == ("sum", 4)
    assert record.targets > 30
    assert record.right.low > record.majority


def test_single_updates_are_refused_under_secure_aggregation(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs the update of each client") as raised:
        run(loads({**PLANTED, "aggregator": {"kind": "secure_sum"}}), tmp_path / "run")
    assert 'attacks.run=[{kind="inference/property",of="sum"}]' in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    attacks = {"run": [{**ATTACK, "column": 10}], "shadow_models": 0}
    with pytest.raises(ConfigError, match=r"column = 10, and an example's inputs have the shape \(10,\)"):
        run(loads({**PLANTED, "attacks": attacks}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_property_that_all_fresh_examples_share_is_refused(tmp_path: Path) -> None:
    attacks = {"run": [{**ATTACK, "label": 7}], "shadow_models": 0}
    folder = run(loads({**PLANTED, "rounds": 1, "attacks": attacks}), tmp_path / "run")
    with pytest.raises(ConfigError, match="examples are of class 7, and all fresh examples are alike in that"):
        run_attacks(folder)


# --- the question -----------------------------------------------------------------------------------------------------


def test_the_truth_is_that_of_all_examples_that_the_clients_trained_on() -> None:
    owner_N, label_N = np.array([0, 0, 0, 1, 1, 2]), np.array([1, 1, 0, 0, 0, 1])
    member_N = np.array([True, True, True, True, True, False])
    x_N = np.arange(6.0)[:, None]
    truth = Truth(owner_N, member_N, member_N, np.random.default_rng, *[lambda: (x_N, label_N)] * 2)

    def judged(asked: Asked) -> PropertyRecord:
        claim = PropertyClaim(asked, [(0,), (1,), (0, 1)], {"x": np.array([0.9, 0.6, 0.1])})
        again = PropertyClaim.from_arrays("x", claim.checked("x", 6).arrays("x"))
        assert again.asked == asked
        assert [tuple(one) for one in again.clients] == list(claim.clients)
        question = PropertyQuestion(kind="property")
        question.require_possible(truth)
        return question.evaluate(Claims("server", 0, {"x": AttackClaim(again)}), truth, None).attacks[0]

    record = judged(Asked(label=1, column=None, above=0.5, share=0.5))
    # Two of three; none of two; two of five.
    assert (record.having, record.clients) == (1, 2)
    assert [record.right.value, record.majority] == pytest.approx([2 / 3, 2 / 3])
    assert record.auc is not None
    assert record.auc.value == 1.0
    record = judged(Asked(label=0, column=0, above=2.5, share=0.3))
    # None of three; two of two; two of five.
    assert record.having == 2
    assert record.right.value == pytest.approx(1 / 3)


def test_a_claim_of_another_form_is_refused() -> None:
    asked = Asked(label=0, column=None, above=0.5, share=0.5)
    for clients, scores, why in (
        ([], {"x": np.zeros(0)}, "claimed nothing"),
        ([(1,)], {}, "claimed nothing"),
        ([(1,)], {"x": np.zeros(2)}, "a probability from 0 to 1 for each of 1 targets"),
        ([(1,)], {"x": np.array([2.0])}, "a probability from 0 to 1"),
    ):
        with pytest.raises(ItemError, match=why):
            PropertyClaim(asked, clients, scores).checked("x", 3)


# --- simulated training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_simulated_client_is_a_real_one(momentum: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch holds all of a client's examples, so that no order of them can differ."""
    told: list[Knowledge] = []
    original = Property.run

    def look(self: Property, view: Any, knowledge: Knowledge) -> PropertyClaim:
        told.append(knowledge)
        return original(self, view, knowledge)

    monkeypatch.setattr(Property, "run", look)
    training = {"local_epochs": 3, "batch_size": 64, "lr": 0.1, "momentum": momentum, "weight_decay": 0.01}
    config = loads({**PLANTED, "training": training, "attacks": {"run": [{**ATTACK, "simulated": 20}], "shadow_models": 0}})
    folder = run(config, tmp_path / "run")
    run_attacks(folder)
    experiment = assemble(config)
    view = open_view(folder, "server", experiment.layout)
    updates_KD, weights_K = view.updates(1)  # type: ignore[attr-defined]
    simulated = LocalTraining(told[0], 1, view.model_before(1))  # type: ignore[attr-defined]
    rows = torch.from_numpy(experiment.data.members_of(3))
    y_n = torch.from_numpy(experiment.data.pool.y[rows.numpy()])
    owned = simulated.owned(float(weights_K[3]))
    assert owned == 40
    found_D = simulated.update(experiment.x[rows], y_n, owned, torch.Generator().manual_seed(0))
    assert torch.allclose(found_D, updates_KD[3], atol=1e-6)
