"""Inputs whose gradient is like the one that was seen: the simulated training is the client's, and the searches find images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reconstruction_runs import attacked, began, owning, psnr
from torch import nn

from attacks._run import _prepared, run_attacks
from attacks.reconstruction import Target
from attacks.reconstruction._matching import total_variation
from attacks.reconstruction._simulation import Simulation, gradient_seen
from privfl.auditing.questions.reconstruction import ReconstructionFinding
from privfl.errors import ConfigError
from privfl.running.assembling import assemble
from privfl.running.views import ServerView, open_view

INVERTING = "reconstruction/inverting_gradients"
SMOOTH = {"kind": "own_models.smooth", "width": 8}


@pytest.mark.parametrize(
    "training",
    [
        {"local_steps": 1, "batch_size": 64, "lr": 0.5, "weight_decay": 0.1},
        {"local_steps": 4, "batch_size": 64, "lr": 0.5, "momentum": 0.7, "weight_decay": 0.05, "step_schedule": "cosine"},
        {"local_epochs": 3, "batch_size": 64, "lr": 0.5},
    ],
)
def test_the_simulated_training_is_that_of_the_client(training: dict[str, Any], tmp_path: Path) -> None:
    """From the true examples it yields the very update that the client sent, and from others it does not."""
    folder = began(tmp_path / "run", training=training, **owning(5))
    experiment = assemble(folder.config)
    knowledge = _prepared(folder, folder.config, [], None)
    view = open_view(folder, "server", experiment.layout)
    assert isinstance(view, ServerView)
    updates_KD, weights_K = view.updates(0)
    for k, client in enumerate(view.survivors(0)):
        target = Target(0, (client,), view.model_before(0), updates_KD[k], float(weights_K[k]))
        rows = torch.from_numpy(experiment.data.members_of(client))
        assert target.size(knowledge) == len(rows)
        steps = training.get("local_steps") or training["local_epochs"]
        simulation = Simulation.of(target, knowledge, steps, torch.float64)
        x_n, y_n = experiment.x[rows].double(), experiment.y[rows]

        def loss(outputs: torch.Tensor, places_B: torch.Tensor, y_n: torch.Tensor = y_n) -> torch.Tensor:
            return nn.functional.cross_entropy(outputs, y_n[places_B])

        seen_D = gradient_seen(target, simulation)
        assert (simulation.gradient(x_n, loss) - seen_D).norm() < 1e-5 * seen_D.norm()
        assert (simulation.gradient(x_n + 0.1, loss) - seen_D).norm() > 1e-2 * seen_D.norm()


def test_total_variation_is_the_mean_step_between_neighbours() -> None:
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    assert total_variation(ramp) == 1
    assert total_variation(ramp + ramp.transpose(2, 3)) == 2
    assert total_variation(torch.rand(2, 5)) == 0


def test_dlg_finds_inputs_and_labels_together(tmp_path: Path) -> None:
    found = attacked(tmp_path / "run", {"kind": "reconstruction/dlg", "steps": 300, "most": 3, "restarts": 3})["dlg: joint"]
    assert found.exact is not None
    assert found.labels is not None
    assert found.exact.value == 1
    assert found.labels.right.value == 1


@pytest.mark.parametrize(
    ("name", "settings", "least"), [("inverting_gradients", {}, 30.0), ("see_through", {"alpha": 1.0}, 25.0)]
)
def test_an_image_is_found_behind_a_smooth_network(name: str, settings: dict[str, Any], least: float, tmp_path: Path) -> None:
    item = {"kind": f"reconstruction/{name}", "steps": 200, "most": 2, **settings}
    found = attacked(tmp_path / "run", item, model=SMOOTH)[f"{name}: inputs"]
    assert found.recognised is not None
    assert found.recognised.value == 1
    assert psnr(found) > least > 20 > found.measures[0].chance
    assert len(found.pictures) == 2


def test_noise_leaves_chance(tmp_path: Path) -> None:
    noisy = {"kind": "example", "noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 1.0}
    item = {"kind": INVERTING, "steps": 150, "most": 3}
    found = attacked(tmp_path / "run", item, privacy=noisy, model=SMOOTH)["inverting_gradients: inputs"]
    assert found.recognised is not None
    assert found.recognised.value == 0
    assert psnr(found) < found.measures[0].chance


def test_simulated_steps_find_more_than_one_step_does(tmp_path: Path) -> None:
    training = {"local_steps": 5, "batch_size": 64, "lr": 0.5}
    items = [{"kind": INVERTING, "steps": 150, "simulated_steps": steps} for steps in (None, 1)]
    folder = began(tmp_path / "run", items[0], training=training, model=SMOOTH)
    found = []
    for item in items:
        given = ",".join(f'{key}="{value}"' if key == "kind" else f"{key}={value}" for key, value in item.items() if value)
        (finding,) = run_attacks(folder, settings=[f"attacks.run=[{{{given}}}]"])
        assert isinstance(finding, ReconstructionFinding)
        found.append(psnr(finding.attacks[0]))
    simulated, taken_for_one = found
    assert simulated > taken_for_one + 3
    assert simulated > 20


def test_the_sum_is_attacked_under_secure_aggregation_and_single_updates_are_not(tmp_path: Path) -> None:
    secure = {"aggregator": {"kind": "secure_sum"}, "cohort": {"kind": "fixed", "size": 3}, "model": SMOOTH}
    with pytest.raises(ConfigError, match=rf"^aggregator: '{INVERTING}' needs the update of each client"):
        began(tmp_path / "refused", INVERTING, **secure)
    found = attacked(tmp_path / "run", {"kind": INVERTING, "of": "sum", "steps": 200}, **secure)
    record = found["inverting_gradients: inputs"]
    assert (record.targets, len(record.clients), record.claimed, record.trained_on) == (1, 3, 3, 3)
    assert psnr(record) > record.measures[0].chance


@pytest.mark.parametrize(
    ("item", "training", "why"),
    [
        ({"kind": INVERTING, "of": "sum"}, {"local_steps": 3}, r"^training\.local_steps: .* simulated_steps = 1"),
        ({"kind": INVERTING}, {"local_steps": 65}, r"^attacks\.run: .* would simulate 65 local steps, and 64 is the most"),
        ({"kind": "reconstruction/tag"}, {"local_steps": 1}, r"^model: .* has a torch\.nn\.Embedding.*inverting_gradients'$"),
    ],
)  # fmt: skip
def test_what_cannot_be_matched_is_refused(item: dict[str, Any], training: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=why):
        began(tmp_path / "run", item, training={"batch_size": 64, "lr": 1.0, **training})
    assert not (tmp_path / "run").exists()


def test_the_same_seed_finds_the_same(tmp_path: Path) -> None:
    item = {"kind": INVERTING, "steps": 5}
    first, again, other = (
        attacked(tmp_path / name, {**item, "seed": seed})["inverting_gradients: inputs"]
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert first == again
    assert not np.isclose(psnr(first), psnr(other))
