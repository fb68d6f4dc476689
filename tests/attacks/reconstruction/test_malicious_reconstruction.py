"""Inputs that a malicious server writes a first layer for: as many as the formula says, from updates and from secure sums."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attacks._run import run_attacks
from attacks.reconstruction.curious_abandon import CuriousAbandon
from attacks.reconstruction.imprint import Imprint, _quantiles
from privfl.auditing.questions.reconstruction import ReconstructionFinding, ReconstructionRecord
from privfl.errors import ConfigError
from privfl.loading import loads
from privfl.report import attacks_tables, write_report
from privfl.running.assembling import assemble
from privfl.running.recording import run
from privfl.running.run_folder import RunFolder
from privfl.storage import read_npz

IMPRINT, TRAP, FISHING, PASSIVE = (
    f"reconstruction/{name}" for name in ("imprint", "curious_abandon", "fishing", "first_layer")
)
ONE_STEP: dict[str, Any] = {
    "name": "one_step",
    "rounds": 1,
    "data": {"kind": "digits", "clients": 10, "holdout": 0.1},
    "model": {"kind": "mlp", "hidden": [256]},
    "cohort": {"kind": "all"},
    "training": {"local_steps": 1, "batch_size": 256, "lr": 0.1},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
    "attacks": {"run": [], "shadow_models": 0},
}
MANY: dict[str, Any] = {"kind": "digits", "clients": 100, "holdout": 0.1}
FORTY: dict[str, Any] = {"kind": "digits", "clients": 40, "holdout": 0.1, "partition": {"kind": "dirichlet", "alpha": 1.0}}


def attacked(path: Path, *attacks: str, **changes: Any) -> tuple[RunFolder, dict[str, ReconstructionRecord]]:
    folder = run(loads({**ONE_STEP, **changes}), path)
    findings = run_attacks(folder, attacks)
    assert all(isinstance(one, ReconstructionFinding) for one in findings)
    return folder, {record.attack: record for one in findings for record in getattr(one, "attacks", [])}


def exact(record: ReconstructionRecord) -> int:
    assert record.exact is not None
    return round(record.exact.value * record.exact.n)


def alone(n: int, k: int) -> tuple[float, float]:
    """Mean and variance of how many of n are alone, if each falls into one of k bins."""
    mean = n * (1 - 1 / k) ** (n - 1)
    return mean, n * (n - 1) * (1 - 1 / k) * (1 - 2 / k) ** (n - 2) + mean - mean**2


def sizes(folder: RunFolder) -> list[int]:
    """How many examples each client trains on."""
    who = read_npz(folder.path / "membership.npz")
    return [int(size) for size in np.bincount(who["owner_N"][who["member_N"]])]


@pytest.mark.parametrize("hidden", [[256], [256, 16]])
def test_single_updates_give_as_many_inputs_as_are_alone_in_a_bin(hidden: list[int], tmp_path: Path) -> None:
    """Within three standard deviations, as digits fall into bins by chance; the run is seeded."""
    folder, found = attacked(tmp_path / "run", IMPRINT, model={"kind": "mlp", "hidden": hidden})
    means, variances = zip(*(alone(n, 256) for n in sizes(folder)), strict=True)
    assert abs(exact(found[IMPRINT]) - sum(means)) < 3 * math.sqrt(sum(variances))
    assert found[IMPRINT].asked == 1
    page = " ".join(write_report([folder], folder.path / "report.html").read_text(encoding="utf-8").split())
    assert "that it asked for, which the ledger does not price), imprint" in page.replace("\u00a0", " ")
    (table,) = attacks_tables(folder)
    assert str(table.title) == "reconstruction, by the malicious server, from up to 1 round that it asked for"


def test_the_secure_sum_gives_as_many_as_are_alone_among_all_clients(tmp_path: Path) -> None:
    secure = {"aggregator": {"kind": "secure_sum"}, "model": {"kind": "mlp", "hidden": [1024]}}
    folder, found = attacked(tmp_path / "run", IMPRINT, **secure)
    mean, variance = alone(sum(sizes(folder)), 1024)
    assert mean > 300
    assert abs(exact(found[IMPRINT]) - mean) < 3 * math.sqrt(variance)
    assert found[IMPRINT].clients == list(range(10))


def test_noise_on_each_example_leaves_chance(tmp_path: Path) -> None:
    noisy = {"kind": "example", "noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 1.0}
    _, found = attacked(tmp_path / "run", IMPRINT, TRAP, privacy=noisy)
    for record in found.values():
        assert record.recognised is not None
        assert record.recognised.value == exact(record) == 0
        assert record.measures[0].median.value < record.measures[0].chance


def test_trap_weights_find_more_than_those_that_were_trained(tmp_path: Path) -> None:
    _, found = attacked(tmp_path / "run", TRAP, PASSIVE, model={"kind": "mlp", "hidden": [64]})
    assert exact(found[TRAP]) > 3 * exact(found[PASSIVE])
    assert exact(found[TRAP]) > 100


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_fishing_gets_every_example_that_is_the_only_one_of_its_class(activation: str, tmp_path: Path) -> None:
    """A hundred clients with about 13 digits each; all of the batch goes into one step."""
    model = {"kind": "mlp", "hidden": [64], "activation": activation}
    folder, found = attacked(tmp_path / "run", FISHING, model=model, data=MANY)
    who, labels_N = read_npz(folder.path / "membership.npz"), assemble(folder.config).data.pool.y
    counts = [np.bincount(labels_N[who["member_N"] & (who["owner_N"] == client)], minlength=10) for client in range(100)]
    single = int((np.array(counts) == 1).sum())
    assert single > 300
    # Two examples of one class that are alike can make a mixture that counts as one of them.
    assert single <= exact(found[FISHING]) <= single + 5
    assert found[FISHING].asked == 10
    labels = found[FISHING].labels
    assert labels is not None
    assert labels.right.value > 0.98


def test_after_several_local_steps_fishing_gets_less_and_behind_noise_nothing(tmp_path: Path) -> None:
    model = {"kind": "mlp", "hidden": [64]}
    training = {"local_epochs": 2, "batch_size": 8, "lr": 0.1}
    _, once = attacked(tmp_path / "once", FISHING, model=model, data=FORTY)
    _, several = attacked(tmp_path / "several", FISHING, model=model, data=FORTY, training=training)
    assert exact(several[FISHING]) < exact(once[FISHING])
    noisy = {"kind": "example", "noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 1.0}
    _, hidden = attacked(tmp_path / "hidden", FISHING, model=model, data=FORTY, privacy=noisy)
    recognised = hidden[FISHING].recognised
    assert recognised is not None
    assert recognised.value == exact(hidden[FISHING]) == 0


@pytest.mark.parametrize(
    ("kind", "data"), [("logistic", {"kind": "own_attacks.random_labels"}), ("cnn", {"kind": "fashion_mnist"})]
)
def test_fishing_needs_two_linear_layers_at_the_ends(kind: str, data: dict[str, Any], tmp_path: Path) -> None:
    run_it = {"run": [FISHING], "shadow_models": 0}
    with pytest.raises(ConfigError, match=r"^model: 'reconstruction/fishing' needs a first layer that is linear .* 'mlp'$"):
        attacked(tmp_path / "run", model={"kind": kind}, data={**data, "clients": 4}, attacks=run_it)


def test_differences_of_rows_are_the_inputs_of_bins() -> None:
    """Bins: inputs 0 and 1 together, nobody, input 2 alone, nobody."""
    x_3F, d_3 = torch.rand(3, 5, dtype=torch.float64), torch.tensor([0.5, -0.2, 0.3], dtype=torch.float64)
    fires_3H = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]], dtype=torch.float64)
    weight_HF, bias_H = (fires_3H * d_3[:, None]).T @ x_3F, fires_3H.T @ d_3
    (found_RF,) = Imprint(kind=IMPRINT).read(weight_HF, bias_H).values()
    mixed_F = (x_3F[:2] * d_3[:2, None]).sum(0) / d_3[:2].sum()
    assert torch.allclose(found_RF, torch.stack([mixed_F, x_3F[2]]))


def test_bins_of_averaged_quantiles_are_nearly_even() -> None:
    """By plain quantiles of 5,000 values the shares of 500 bins vary by a third, as ten values fall into each."""
    generator = np.random.default_rng(0)
    fresh_P, others = generator.normal(size=5000), np.sort(generator.normal(size=200_000))
    smooth = np.diff(np.searchsorted(others, _quantiles(torch.from_numpy(fresh_P), 500).numpy()[1:])) / 400
    plain = np.diff(np.searchsorted(others, np.quantile(fresh_P, np.arange(1, 500) / 500))) / 400
    assert smooth.std() < 0.6 * plain.std()
    assert 0.2 < plain.std() < 0.5


def test_one_factor_for_all_units_finds_less(tmp_path: Path) -> None:
    """The paper's 0.95 is for other data: most units fire on many digits."""
    model = {"kind": "mlp", "hidden": [64]}
    folder, found = attacked(tmp_path / "run", TRAP, model=model, attacks=by_the_paper())
    assert folder.config.attacks.run[0] == CuriousAbandon(kind=TRAP, factor=0.95)
    _, calibrated = attacked(tmp_path / "other", TRAP, model=model)
    assert exact(found[TRAP]) < exact(calibrated[TRAP]) / 3


def by_the_paper() -> dict[str, Any]:
    return {"run": [{"kind": TRAP, "factor": 0.95}], "shadow_models": 0}


@pytest.mark.parametrize("attack", [IMPRINT, TRAP])
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": {"kind": "logistic"}}, "needs a trained linear layer with biases and a ReLU behind it"),
        (
            {"model": {"kind": "own_models.narrow_front"}},
            r"writes a first layer that is linear with a ReLU behind it, and '1' is none; set model\.kind = 'mlp'",
        ),
        (
            {"training": {"local_steps": 1, "batch_size": 8, "optimizer": "adam", "lr": 0.01}},
            r"set training\.optimizer = 'sgd'",
        ),
    ],
)
def test_what_cannot_be_attacked_is_refused_before_the_first_round(
    attack: str, changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        attacked(tmp_path / "run", **changes, attacks={"run": [attack], "shadow_models": 0})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
