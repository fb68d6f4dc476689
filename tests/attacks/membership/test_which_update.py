"""Which of two updates was sent, and LiRA on local models: closed forms, what they find, and what they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn.functional import cross_entropy

from attacks._run import run_attacks
from attacks.membership import _gradients
from attacks.membership._gradients import Gradients
from attacks.membership.which_update import Model
from privfl.auditing.questions.membership import MembershipFinding
from privfl.data.input_store import InputStore
from privfl.errors import ConfigError
from privfl.learning.tasks.classification import CLASSIFICATION
from privfl.loading import loads
from privfl.records import Interval
from privfl.running.knowledge import Candidates, Network
from privfl.running.recording import run
from privfl.vectors import Layout, to_vector

NAMES = ["membership/which_update", "membership/lira_per_client"]
OVERFITTED: dict[str, Any] = {
    "name": "overfitted",
    "rounds": 3,
    "data": {"kind": "own_attacks.random_labels", "clients": 4, "holdout": 0.5},
    "model": {"kind": "mlp", "hidden": [64]},
    "cohort": {"kind": "all"},
    "training": {"local_epochs": 1, "batch_size": 16, "lr": 0.1},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
    "attacks": {"run": NAMES, "shadow_models": 0},
}


# --- the closed form --------------------------------------------------------------------------------------------------


def test_the_error_rate_is_that_of_two_gaussians() -> None:
    """Gradients that are orthogonal are hidden by noise alone: the best test errs with Φ(−δ/2), δ = ‖h‖/√λ.

    Four standard deviations of 4,000 examples in each of two cases.
    """
    generator, count = np.random.default_rng(0), 4000
    for delta in (1.0, 2.0):
        member_N = generator.random(count) < 0.5
        # ⟨h_i, R⟩ for ‖h_i‖ = δ, λ = 1 and R = S − m = −Σ (b − 1/2) h + noise.
        along_N = -(member_N - 0.5) * delta**2 + delta * generator.normal(size=count)
        told = Model(np.full(count, delta**2), np.eye(count), along_N, np.zeros(count), (0.0, 0.0, 0.0), count, count)
        ratio_N = told.log_ratios(scale=1.0, noise=1.0)
        expected = stats.norm.cdf(-delta / 2)
        assert abs(((ratio_N > 0) != member_N).mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / count)
        # It is the log-ratio itself: its mean is δ²/2 for a member and −δ²/2 for another, its variance δ².
        assert abs(ratio_N[member_N].mean() - delta**2 / 2) < 4 * delta / np.sqrt(member_N.sum())
        assert abs(ratio_N[~member_N].mean() + delta**2 / 2) < 4 * delta / np.sqrt((~member_N).sum())


def test_the_log_ratio_is_the_formula() -> None:
    """Against (u1 − u0)ᵀ C⁻¹ (S − m − (u0 + u1)/2) with C and m of the others written out, fresh examples among them."""
    generator = np.random.default_rng(1)
    gradients_ND, fresh_PD, noise, step, unknown = generator.normal(size=(7, 5)), generator.normal(size=(6, 5)), 0.3, 0.2, 3.0
    all_MD = np.vstack([gradients_ND, fresh_PD])
    mean_D = -step * (gradients_ND.sum(0) / 2 + unknown * fresh_PD.mean(0))
    sum_D = mean_D + generator.normal(size=5)
    told = Model.of(all_MD @ all_MD.T, all_MD @ sum_D, float(sum_D @ sum_D), 5, fresh=6, unknown=unknown)
    found_N = told.log_ratios(step, noise)
    spread_DD = unknown * step**2 * np.cov(fresh_PD.T)
    for place, gradient_D in enumerate(gradients_ND):
        others_ND = np.delete(gradients_ND, place, 0)
        covariance_DD = step**2 * others_ND.T @ others_ND / 4 + spread_DD + noise * np.eye(5)
        others_D = -step * (others_ND.sum(0) / 2 + unknown * fresh_PD.mean(0))
        without_D, with_D = np.zeros(5), -step * gradient_D
        seen_D = sum_D - others_D - (without_D + with_D) / 2
        assert found_N[place] == pytest.approx((with_D - without_D) @ np.linalg.solve(covariance_DD, seen_D))


def test_noise_and_weight_are_the_most_likely_ones() -> None:
    """Within a tenth: λ of 2,000 coordinates has a standard deviation of .032 of it, and s of 200 coins one of .05."""
    generator = np.random.default_rng(0)
    rows_MD, noise, step = generator.normal(size=(200, 2000)), 4.0, 3.0
    sum_D = -step * generator.integers(0, 2, 200) @ rows_MD + np.sqrt(noise) * generator.normal(size=2000)
    told = Model.of(rows_MD @ rows_MD.T, rows_MD @ sum_D, float(sum_D @ sum_D), 2000, fresh=0, unknown=0.0)
    scale, found = told.fitted(step=10.0)
    assert found == pytest.approx(noise, rel=0.1)
    assert scale == pytest.approx(step, rel=0.1)


class Tied(nn.Module):
    """A weight that is used beside its layer, so that gradients are formed."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.into(x.flatten(1)))
        found: torch.Tensor = self.out(hidden) + (hidden @ self.into.weight)[:, :5]
        return found


def layers() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 4, bias=False), nn.Linear(4, 5))


@pytest.mark.parametrize("module", [layers, Tied])
def test_products_of_gradients_are_those_of_autograd(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = module().double()
    monkeypatch.setattr(_gradients, "_NUMBERS", 3 * Layout.of(model).size)
    x, y = torch.randn(7, 2, 3, dtype=torch.float64), torch.randint(5, (7,))
    network = Network(model, Layout.of(model), CLASSIFICATION, (5,))
    found = Gradients(network, Candidates(InputStore(x), y.numpy(), np.zeros(7, np.int64)), to_vector(model)).gram()
    reference, rows = network.at(to_vector(model)), []
    for at in range(7):
        loss = cross_entropy(reference(x[at : at + 1]), y[at : at + 1])
        rows.append(torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(reference.parameters()))]))
    gradients_ND = torch.stack(rows)
    assert found == pytest.approx((gradients_ND @ gradients_ND.T).numpy(), abs=1e-10)


# --- what they find ---------------------------------------------------------------------------------------------------


def attacked(path: Path, **changes: Any) -> dict[str, Interval]:
    """The AUC of each variant."""
    findings = run_attacks(run(loads({**OVERFITTED, **changes}), path))
    assert all(isinstance(found, MembershipFinding) for found in findings)
    return {f"{one.attack}: {one.variant}": one.auc for found in findings for one in found.attacks}  # type: ignore[attr-defined]


def test_a_secure_sum_gives_nearly_all_members_away(tmp_path: Path) -> None:
    """Four clients, 3 rounds of one epoch: the cosine with the sum finds .55."""
    names = ["membership/which_update", "membership/gradient_cosine_sum"]
    changes = {"aggregator": {"kind": "secure_sum"}, "attacks": {"run": names, "shadow_models": 0}}
    found = attacked(tmp_path / "run", **changes)
    assert found["membership/which_update: log-ratio"].low > 0.9
    assert found["membership/gradient_cosine_sum: cosine"].high < 0.7


def test_candidates_are_found_in_parts_and_beside_examples_that_nobody_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attacks.membership.which_update._AT_ONCE", 100)
    changes = {"data": {**OVERFITTED["data"], "holdout": 0.25}, "cohort": {"kind": "fixed", "size": 3}}
    found = attacked(
        tmp_path / "run", aggregator={"kind": "secure_sum"}, attacks={"run": NAMES[:1], "shadow_models": 0}, **changes
    )
    assert found["membership/which_update: log-ratio"].low > 0.5


def test_local_models_give_members_away(tmp_path: Path) -> None:
    training = {**OVERFITTED["training"], "local_epochs": 5}
    attacks = {"run": [{"kind": "membership/lira_per_client", "rounds": 1, "shadows": 8}], "shadow_models": 0}
    found = attacked(tmp_path / "run", training=training, attacks=attacks)
    assert list(found) == [f"membership/lira_per_client: {variant}" for variant in ("BaVarIA-t", "fixed variance")]
    for one in found.values():
        assert one.low > 0.65


def test_updates_that_are_noise_give_nothing_away(tmp_path: Path) -> None:
    """At 99.99 % for each of three: by chance one fails in fewer than one seed of three thousand."""
    privacy = {"kind": "example", "noise_multiplier": 300.0, "delta": 1e-5, "max_grad_norm": 1.0}
    for name, one in attacked(tmp_path / "run", privacy=privacy, rounds=2).items():
        # 3.89 / 1.96 times as wide as the 95 % interval.
        assert abs(one.value - 0.5) < (one.high - one.low) / 2 * 1.99, (name, one)


# --- what they need ---------------------------------------------------------------------------------------------------


def test_the_needs_are_said_with_the_setting(tmp_path: Path) -> None:
    adam = {**OVERFITTED["training"], "optimizer": {"kind": "adam"}, "lr": 0.01}
    for changes, why in (
        (
            {"training": adam},
            r"'membership/which_update' needs updates that are linear in the gradients; set training.optimizer",
        ),
        ({"aggregator": {"kind": "secure_sum"}}, "'membership/lira_per_client' needs the update of each client"),
    ):
        with pytest.raises(ConfigError, match=why) as raised:
            run(loads({**OVERFITTED, **changes}), tmp_path / "run")
        assert len(str(raised.value).splitlines()) == 1
        assert not (tmp_path / "run").exists()
