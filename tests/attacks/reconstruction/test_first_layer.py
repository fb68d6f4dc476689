"""Inputs from the gradient of a first linear layer: exact on a run where they must be, and chance behind noise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from attacks._run import run_attacks
from attacks.reconstruction._quotients import quotients
from privfl.auditing.questions.reconstruction import ReconstructionFinding, ReconstructionRecord
from privfl.errors import ConfigError, ViewError
from privfl.loading import loads
from privfl.report import attacks_tables, write_report
from privfl.running.assembling import assemble
from privfl.running.recording import run
from privfl.running.run_folder import RunFolder
from privfl.storage import read_npz

NAME = "reconstruction/first_layer"
ONE_STEP: dict[str, Any] = {
    "name": "one_step",
    "rounds": 1,
    "data": {"kind": "digits", "clients": 100, "holdout": 0.1},
    "model": {"kind": "mlp", "hidden": [64]},
    "cohort": {"kind": "all"},
    "training": {"local_steps": 1, "batch_size": 64, "lr": 1.0},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
    "attacks": {"run": [NAME], "shadow_models": 0},
}
SINGLE: dict[str, Any] = {"data": {"kind": "digits", "clients": 1438, "holdout": 0.1}, "cohort": {"kind": "fixed", "size": 20}}
SECURE: dict[str, Any] = {"aggregator": {"kind": "secure_sum"}, "cohort": {"kind": "fixed", "size": 4}}
"""Each client owns one example."""


def attacked(path: Path, names: tuple[str, ...] = (), **changes: Any) -> tuple[RunFolder, ReconstructionRecord]:
    folder = run(loads({**ONE_STEP, **changes}), path)
    (finding,) = run_attacks(folder, names)
    assert isinstance(finding, ReconstructionFinding)
    return folder, finding.attacks[0]


def with_settings(**settings: Any) -> dict[str, Any]:
    return {"attacks": {"run": [{"kind": NAME, **settings}], "shadow_models": 0}}


def test_quotients_are_the_inputs_that_have_a_neuron_for_themselves() -> None:
    x_BF, d_BH = torch.rand(3, 5, dtype=torch.float64), torch.zeros(3, 6, dtype=torch.float64)
    # Rows: two of example 0 alone, one of example 1 alone, one of all, one dead, one of rounding.
    d_BH[0, 0], d_BH[0, 1], d_BH[1, 2], d_BH[:, 3], d_BH[2, 5] = 0.5, -1.0, 0.2, torch.tensor([1.0, -0.3, 0.1]), 1e-9
    found = quotients(d_BH.T @ x_BF, d_BH.sum(0))
    mixed = (x_BF * d_BH[:, 3:4]).sum(0) / 0.8
    assert torch.allclose(found, torch.stack([x_BF[0], mixed, x_BF[1]]))
    assert quotients(torch.zeros(4, 5), torch.zeros(4)).shape == (0, 5)


@pytest.mark.parametrize(
    "model", [{"kind": "mlp", "hidden": [32]}, {"kind": "mlp", "hidden": [8], "activation": "tanh"}, {"kind": "logistic"}]
)
def test_a_batch_of_one_is_exact(model: dict[str, Any], tmp_path: Path) -> None:
    folder, found = attacked(tmp_path / "run", model=model, **SINGLE)
    assert (found.trained_on, found.targets) == (10, 10)
    assert found.exact is not None
    assert found.exact.value == 1
    pool = assemble(folder.config).data
    kept = read_npz(folder.path / "attacks" / f"{NAME}.npz")
    for place in range(10):
        (client,) = kept[f"{NAME}: quotients: {place}: clients"]
        (row,) = np.flatnonzero((pool.owner_N == client) & pool.member_N)
        found_R = kept[f"{NAME}: quotients: {place}: inputs"]
        assert np.abs(found_R - pool.pool.x[row]).max(axis=(1, 2, 3)).min() < 1e-5


def test_of_a_batch_those_are_found_that_have_a_relu_for_themselves(tmp_path: Path) -> None:
    folder, found = attacked(tmp_path / "run")
    experiment = assemble(folder.config)
    module, data = experiment.model, experiment.data
    alone = 0
    for client in range(10):
        rows = np.flatnonzero((data.owner_N == client) & data.member_N)
        with torch.no_grad():
            hidden = nn.Sequential(*list(module.children())[:2])(torch.from_numpy(data.pool.x[rows])) > 0
        alone += int((hidden & (hidden.sum(0) == 1)).any(1).sum())
    assert found.exact is not None
    assert found.trained_on == found.exact.n
    # Near, for a neuron's gradient may be too small to be told from rounding, and none that must not be is found.
    assert 0.9 * alone <= round(found.exact.value * found.exact.n) <= alone
    assert alone > 20
    assert found.recognised is not None
    assert found.recognised.value >= found.exact.value
    page = write_report([folder], folder.path / "report.html").read_text(encoding="utf-8")
    assert "<h3>Reconstruction, by the server</h3>" in page
    assert page.count('src="data:image/png;base64,') == 16
    assert not re.search(r'<img[^>]*src="(?!data:)', page)
    sentence = "From the 10 updates of 10 clients (round 1), first layer · quotients recovered "
    assert re.search(re.escape(sentence) + r"\d+ of 128 inputs", page.replace("\u00a0", " "))
    assert [str(table.title) for table in attacks_tables(folder)] == ["reconstruction, by the server, from round 1"]
    compared = write_report([folder, folder], tmp_path / "compared.html").read_text(encoding="utf-8")
    assert "inputs recognised by the server" in compared


def test_several_local_steps_leave_a_batch_of_one_exact(tmp_path: Path) -> None:
    training = {"local_steps": 3, "batch_size": 1, "lr": 0.3, "momentum": 0.5}
    _, found = attacked(tmp_path / "run", training=training, **SINGLE)
    assert found.exact is not None
    assert found.exact.value == 1


def test_all_rows_together_stand_more_noise_than_each(tmp_path: Path) -> None:
    little = {"kind": "example", "noise_multiplier": 1e-3, "delta": 1e-4, "max_grad_norm": 1.0}
    folder, each = attacked(tmp_path / "run", privacy=little, **SINGLE)
    together = folder.findings[0].attacks[1]  # type: ignore[attr-defined]
    assert (each.variant, together.variant) == ("quotients", "one input")
    assert together.measures[0].median.value > each.measures[0].median.value > each.measures[0].chance
    assert together.recognised.value == 1


def test_noise_on_examples_leaves_chance(tmp_path: Path) -> None:
    noisy = {"kind": "example", "noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 1.0}
    _, found = attacked(tmp_path / "run", privacy=noisy, **SINGLE)
    assert found.recognised is not None
    assert (found.recognised.value, found.measures[0].median.value < found.measures[0].chance) == (0, True)


def test_under_secure_aggregation_single_updates_are_refused_and_the_sum_is_not(tmp_path: Path) -> None:
    secure = {**SECURE, "data": {"kind": "digits", "clients": 700, "holdout": 0.1}}
    why = rf"^aggregator: '{NAME}' needs the update of each client.*of=\"sum\"\}}\], or set aggregator\.kind = 'mean'$"
    with pytest.raises(ConfigError, match=why):
        attacked(tmp_path / "refused", **secure)
    assert not (tmp_path / "refused").exists()
    folder, found = attacked(tmp_path / "run", **secure, **with_settings(of="sum"))
    assert (found.targets, len(found.clients)) == (1, 4)
    # Fixed point rounds at about 1e-6 of the clip; eight examples of 64 neurons have many for themselves.
    assert found.recognised is not None
    assert found.recognised.value >= 0.3
    with pytest.raises(ConfigError, match=why):
        run_attacks(folder, [], settings=[f'attacks.run=["{NAME}"]'])


CONVOLUTION: dict[str, Any] = {"model": {"kind": "cnn"}, "data": {"kind": "fashion_mnist", "clients": 10}}
ADAM: dict[str, Any] = {"training": {"local_steps": 1, "batch_size": 8, "lr": 0.1, "optimizer": "adam"}}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (CONVOLUTION, r"^model: .* linear with a bias, and 0 is a Conv2d; set model\.kind = 'mlp' or 'logistic'$"),
        (ADAM, r"^training\.optimizer = 'adam': .* set training\.optimizer = 'sgd'$"),
        (with_settings(round=1), r"^attacks\.run: .* round = 1, and there are 1, numbered from 0; lower it, or raise rounds$"),
        (with_settings(clients=[100]), r"^attacks\.run: .* 100 takes no part in round 0; name others, such as 0$"),
    ],
)
def test_what_is_impossible_is_refused_before_the_first_round(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=why):
        attacked(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_layer_behind_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ViewError, match=r"first layer does not take its inputs as they are"):
        attacked(tmp_path / "run", model={"kind": "own_models.shifted"}, **SINGLE)
