"""Backdoors: what attackers train on, what they send, and how often the trigger works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import small
from torch import Tensor

from privfl.data.federated import Pixels
from privfl.data.input_store import InputStore
from privfl.errors import ConfigError
from privfl.federation.behaviours._backdoor import BackdoorBehaviour
from privfl.federation.behaviours._colluding import JointBehaviour
from privfl.learning.training import LocalResult, LocalTask, Trainer
from privfl.report.page import run_page
from privfl.report.run_records import RunRecords
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic
from privfl.running.poisoning import success
from privfl.running.recording import run
from privfl.seeding import Seed
from privfl.shelves import SHELVES
from privfl.tables import narrow

PLAIN: dict[str, Any] = {"privacy": "none", "aggregator": "mean", "server": {"kind": "fedavg"}, "cohort": {"kind": "all"}}


def attack(kind: str, **settings: Any) -> BackdoorBehaviour:
    return narrow(SHELVES["behaviour"].find(kind).model_validate({"kind": kind, "share": 0.3, **settings}), BackdoorBehaviour)


def config_of(behaviour: Any, **changes: Any) -> Any:
    return small(**{**PLAIN, "behaviour": behaviour, **changes})


@pytest.mark.parametrize("pixels", [None, Pixels((0.5,), (0.25,))])
def test_attackers_see_the_trigger_on_a_share_of_their_images_and_nobody_else_does(pixels: Pixels | None) -> None:
    dtype = torch.float32 if pixels is None else torch.uint8
    x, y = InputStore((torch.arange(20 * 16).reshape(20, 1, 4, 4) % 7).to(dtype), pixels), torch.arange(20) % 3 + 1
    before, rows = x.kept.clone(), [torch.arange(0, 10), torch.arange(12, 13)]
    found_x, found_y = attack("model_replacement", size=2, poisoned=0.4).poisoned_pool(x, y, rows, 5, Seed(3))
    assert torch.equal(x.kept, before)
    changed = (found_y == 0).nonzero().flatten().tolist()
    assert sum(row < 10 for row in changed) == 4
    assert [row for row in changed if row >= 10] == [12]
    stamped = before.clone()
    stamped[changed, :, 2:, 2:] = 6 if pixels is None else 255
    assert torch.equal(found_x.kept, stamped)
    kept = [row for row in range(20) if row not in changed]
    assert torch.equal(found_y[kept], y[kept])
    assert pixels is None or float(found_x[:][12, 0, 3, 3]) == pytest.approx(2.0)


def test_four_attackers_of_a_distributed_backdoor_show_the_trigger_together() -> None:
    x, y = InputStore(torch.zeros(8, 2, 8, 8, dtype=torch.uint8)), torch.ones(8, dtype=torch.int64)
    behaviour = attack("dba", poisoned=1.0)
    rows = [torch.tensor([place]) for place in range(5)]
    found_x, _ = behaviour.poisoned_pool(x, y, rows, 2, Seed(0))
    shown = found_x.kept[:5] > 0
    assert shown.flatten(1).sum(1).tolist() == [8] * 5
    assert torch.equal(shown[0], shown[4])
    found = behaviour.triggered(x, y * 0 + torch.arange(8))
    whole = found.x
    assert (found.target, found.counted_N.tolist()) == (0, [False] + [True] * 7)
    assert torch.equal(shown[:4].any(0), whole.kept[0] > 0)
    assert int((whole.kept[0, 0] > 0).sum()) == 16


class _Silent(Trainer):
    """Trains attackers; all others have an update of zero."""

    def __init__(self, by: Trainer, attackers: frozenset[int]) -> None:
        super().__init__(by.model, by.config, by.plan, by.task)
        self.by, self.attackers, self.bad = by, attackers, dict[int, Tensor]()

    def train(self, global_D: Tensor, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        results = self.by.train(global_D, tasks)
        self.bad |= {one.client: global_D + one.delta_D for one in results if one.client in self.attackers}
        return [one if one.client in self.attackers else replace(one, delta_D=one.delta_D * 0) for one in results]

    def parts(self, clients: int, global_D: Tensor, x: Tensor) -> int:
        return self.by.parts(clients, global_D, x)


def test_edge_cases_are_images_of_a_class_upside_down_in_a_ball() -> None:
    x, y = InputStore(torch.arange(6 * 6, dtype=torch.uint8).reshape(6, 1, 2, 3)), torch.tensor([2, 1, 2, 0, 2, 1])
    behaviour = narrow(
        SHELVES["behaviour"]
        .find("edge_case")
        .model_validate({"kind": "edge_case", "share": 0.3, "source": 2, "target": 1, "max_norm": 2.0}),
        JointBehaviour,
    )
    found_x, found_y = behaviour.poisoned_pool(x, y, [torch.tensor([0, 1]), torch.tensor([3, 4])], 3, Seed(0))
    assert found_y.tolist() == [1, 1, 2, 0, 1, 1]
    assert found_x.kept[0].flatten().tolist() == [5, 4, 3, 2, 1, 0]
    assert found_x.kept[4].flatten().tolist() == [29, 28, 27, 26, 25, 24]
    assert torch.equal(found_x.kept[[1, 2, 3, 5]], x.kept[[1, 2, 3, 5]])
    shown = behaviour.triggered(x, y)
    assert shown is not None
    assert shown.counted_N.tolist() == [True, False, True, False, True, False]
    assert torch.equal(shown.x.kept, x.kept.flip(2, 3))
    sent = behaviour.uploads({0: torch.tensor([3.0, 4.0]), 4: torch.tensor([0.6, 0.8])}, 5)
    assert torch.allclose(sent[0], torch.tensor([1.2, 1.6]))
    assert torch.equal(sent[4], torch.tensor([0.6, 0.8]))


def test_if_the_others_send_nothing_the_new_global_model_is_the_bad_one() -> None:
    sizes = assemble(config_of({"kind": "model_replacement", "share": 0.1})).data.sizes()
    (attacker,) = assemble(config_of({"kind": "model_replacement", "share": 0.1})).misbehaving
    behaviour = {"kind": "model_replacement", "share": 0.1, "scale": float(sizes.sum() / sizes[attacker])}
    experiment = assemble(config_of(behaviour))
    trainer = _Silent(experiment.trainer, experiment.misbehaving)
    with deterministic():
        after = replace(experiment, trainer=trainer).step(experiment.initial_state()).state.global_D
    assert torch.allclose(after, trainer.bad[attacker], atol=1e-6)
    assert float((after - experiment.initial_D).norm()) > 0.1


def test_without_a_scale_attackers_take_the_places_of_all() -> None:
    sent = attack("model_replacement").uploads({1: torch.tensor([2.0]), 5: torch.tensor([-4.0])}, 10)
    assert {client: one_D.tolist() for client, one_D in sent.items()} == {1: [10.0], 5: [-20.0]}


def test_success_is_the_share_of_other_classes_that_get_the_target_label() -> None:
    experiment = assemble(config_of({"kind": "model_replacement", "share": 0.1, "target": 4}))
    others = int((experiment.test_y != 4).sum())
    weights = experiment.layout.unflatten(torch.zeros_like(experiment.initial_D))
    (bias,) = (value for value in weights.values() if value.ndim == 1)
    for answer, expected in ((4, 1.0), (3, 0.0)):
        bias.zero_()[answer] = 1.0
        vector_D = torch.cat([value.flatten() for value in weights.values()])
        found = success(experiment, replace(experiment.initial_state(), global_D=vector_D), None)
        assert found is not None
        assert (found.value, found.n) == (expected, others)
    assert success(assemble(config_of("honest")), experiment.initial_state(), None) is None


@pytest.mark.parametrize(("kind", "share"), [("model_replacement", 0.1), ("dba", 0.4)])
def test_a_backdoor_works_on_a_mean_and_is_recorded_and_shown(kind: str, share: float, tmp_path: Path) -> None:
    folder = run(config_of({"kind": kind, "share": share, "poisoned": 0.5, "size": 4}), tmp_path / "run")
    found = folder.result.evaluation.attack_success
    assert found is not None
    clean = assemble(config_of("honest"))
    test_x = attack(kind, size=4).triggered(clean.test_x, clean.test_y).x
    with deterministic():
        outputs = clean.logits(clean.train(), test_x)
    without = float((outputs.argmax(1) == 0)[clean.test_y != 0].float().mean())
    assert found.value > without + 0.4
    assert folder.rounds()[-1].evaluation == folder.result.evaluation
    page = run_page(RunRecords.read(folder)).html
    assert "Attack success" in page
    assert "get the attackers&#39; target label" in page


def test_records_without_a_backdoor_are_as_before(tmp_path: Path) -> None:
    folder = run(config_of({"kind": "sign_flip", "share": 0.1}, rounds=1), tmp_path / "run")
    assert "attack_success" not in (folder.path / "result.json").read_text()
    assert "attack_success" not in (folder.path / "rounds.jsonl").read_text()


@pytest.mark.parametrize(
    ("behaviour", "changes", "said"),
    [
        ({"target": 10}, {}, r"behaviour\.target = 10: there are 10 classes, from 0 to 9"),
        ({"size": 9}, {}, r"behaviour\.size = 9: an image has 8 by 8 pixels; lower it"),
        ({"size": 0}, {}, r"behaviour\.size = 0: must be greater than 0"),
        ({"kind": "dba", "size": 3}, {}, r"behaviour\.size = 3: must be even"),
        ({"poisoned": 0.0}, {}, r"behaviour\.poisoned = 0\.0: must be greater than 0"),
        ({"kind": "edge_case", "source": 3, "target": 3}, {}, r"behaviour\.source = 3: is the target too"),
        ({"kind": "edge_case", "source": 10}, {}, r"behaviour\.source = 10: there are 10 classes"),
        ({"kind": "edge_case", "max_norm": 0.0}, {}, r"behaviour\.max_norm = 0\.0: must be greater than 0"),
        ({"share": 1.0}, {}, r"behaviour\.share = 1\.0: must be less than 1"),
    ],
)
def test_impossible_settings_are_refused(behaviour: Any, changes: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        assemble(config_of({"kind": "model_replacement", "share": 0.1, **behaviour}, **changes))


def test_inputs_that_are_no_images_are_refused() -> None:
    x, rows = InputStore(torch.zeros(6, 5)), [torch.from_numpy(np.arange(3))]
    with pytest.raises(ConfigError, match=r"'dba': a backdoor needs images of one class each, .* has the shape \(5,\); set"):
        attack("dba").poisoned_pool(x, torch.zeros(6, dtype=torch.int64), rows, 2, Seed(0))
