"""Audits of small real training runs: a build that keeps its promise passes, one that breaks it is flagged.

A bound on a run that keeps its promise is above it in at most 5 % of seeds, for all audits of one adversary together; the seed
here is fixed.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import SMALL, small

from attacks._run import run_attacks
from privfl.auditing import Roc, roc
from privfl.auditing.questions import Finding
from privfl.auditing.questions.epsilon import EpsilonFinding
from privfl.auditing.questions.estimate import EstimateFinding
from privfl.auditing.questions.noise import NoiseFinding
from privfl.errors import ConfigError
from privfl.learning.training import _cohort
from privfl.learning.training._noise import CohortNoise
from privfl.learning.training._passes import clip_factors
from privfl.learning.training.opacus import CountingDPOptimizer
from privfl.report import write_report
from privfl.running.auditing import audited
from privfl.running.recording import run
from privfl.running.run_folder import RunFolder
from privfl.storage import read_npz

AUDITED: dict[str, Any] = {
    "data": {"kind": "digits", "clients": 2},
    "model": {"kind": "mlp", "hidden": [32]},
    "cohort": {"kind": "all"},
    "training": {"engine": "opacus", "local_steps": 1, "batch_size": 2000, "lr": 0.1},
    "privacy": {"kind": "example", "noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 1.0},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
}
Audit = dict[tuple[str, str], Finding]


def audit(path: Path, canaries: int = 800, kind: str | None = None, **changes: Any) -> tuple[RunFolder, Audit]:
    """The folder, and the findings by question and adversary."""
    folder = run(audited(small(**{**AUDITED, **changes}), canaries, kind), path)
    return folder, {(one.question, one.adversary): one for one in run_attacks(folder)}


def noise_of(findings: Audit, adversary: str = "server") -> NoiseFinding:
    found = findings["noise", adversary]
    assert isinstance(found, NoiseFinding)
    return found


def epsilon_of(findings: Audit, adversary: str = "server") -> EpsilonFinding:
    found = findings["epsilon", adversary]
    assert isinstance(found, EpsilonFinding)
    return found


def curve(folder: RunFolder, audit: str, variant: str) -> Roc:
    arrays = read_npz(folder.path / "attacks" / "auditing" / f"{audit}.npz")
    return roc(arrays[f"auditing/{audit}: {variant}"], arrays["member"])


# --- mechanisms, right and broken ------------------------------------------------------------------------------------------


def noise_times(factor: float) -> Callable[[pytest.MonkeyPatch], None]:
    """A build that draws other noise than it promises, and whose own measurement of it is broken as well."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        original = CountingDPOptimizer.add_noise

        def other(self: Any) -> None:
            promised, self.noise_multiplier = self.noise_multiplier, self.noise_multiplier * factor
            original(self)
            self.noise_multiplier = promised

        patch.setattr(CountingDPOptimizer, "add_noise", other)
        patch.setattr(CountingDPOptimizer, "require_noise", lambda self, steps: None)

    return apply


def no_clip(patch: pytest.MonkeyPatch) -> None:
    original = CountingDPOptimizer.clip_and_accumulate

    def unclipped(self: Any) -> None:
        promised, self.max_grad_norm = self.max_grad_norm, 1e6
        original(self)
        self.max_grad_norm = promised

    patch.setattr(CountingDPOptimizer, "clip_and_accumulate", unclipped)


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Audit]:
    return audit(tmp_path_factory.mktemp("audits") / "right")


def test_a_run_that_keeps_its_promise_is_not_flagged_and_its_bounds_say_something(right: tuple[RunFolder, Audit]) -> None:
    _, findings = right
    assert set(findings) == {
        *(("epsilon", one) for one in ("external", "server")),
        *(("noise", one) for one in ("external", "server")),
        ("estimate", "external"),
    }
    for adversary in ("external", "server"):
        assert noise_of(findings, adversary).contradicts() == []
        assert epsilon_of(findings, adversary).contradicts() == []
    update = [one.below for one in noise_of(findings).audits if one.variant == "update"]
    assert all(below is not None and 1.0 < below < 4.0 for below in update)
    # Only the server's scores are sums of releases.
    assert {one.method for one in noise_of(findings).audits} == {"clopper_pearson", "one_run", "gaussian_pair"}
    assert {one.method for one in noise_of(findings, "external").audits} == {"clopper_pearson", "one_run"}
    assert all(
        one.least is not None and one.least < 1.0 for one in noise_of(findings).audits if one.method == "clopper_pearson"
    )
    best = max(epsilon_of(findings).audits, key=lambda one: one.epsilon_lower)
    assert 0.5 < best.epsilon_lower < best.ceiling < 8
    estimate = findings["estimate", "external"]
    assert isinstance(estimate, EstimateFinding)
    # One step a round with everybody in it: the last model tells as much as all of them.
    assert estimate.last_iterate == pytest.approx(epsilon_of(findings).promised, rel=1e-3)


def fused_noise_times(factor: float) -> Callable[[pytest.MonkeyPatch], None]:
    def apply(patch: pytest.MonkeyPatch) -> None:
        original = CohortNoise.draw
        patch.setattr(CohortNoise, "draw", lambda self, noise_KD: original(self, noise_KD).mul_(factor))
        patch.setattr(CohortNoise, "require", lambda self, steps: None)

    return apply


def fused_no_clip(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_cohort, "clip_factors", lambda tape, clip: clip_factors(tape, replace(clip, max_grad_norm=1e6)))


BROKEN: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "opacus, halved noise": ("opacus", noise_times(0.5)),
    "opacus, no noise": ("opacus", noise_times(0.0)),
    "opacus, no clip": ("opacus", no_clip),
    "fused, halved noise": ("fused", fused_noise_times(0.5)),
    "fused, no noise": ("fused", fused_noise_times(0.0)),
    "fused, no clip": ("fused", fused_no_clip),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_mechanism_is_flagged(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, broken = BROKEN[name]
    broken(monkeypatch)
    folder, findings = audit(tmp_path / "run", training={**AUDITED["training"], "engine": engine})
    found = noise_of(findings)
    assert {one.method for one in found.contradicts()} >= {"clopper_pearson", "gaussian_pair"}
    page = write_report([folder], folder.path / "report.html").read_text(encoding="utf-8")
    assert "Canaries refute the promised noise multiplier of 1" in page


def test_an_optimizer_that_is_not_linear_has_no_pair_of_gaussians(tmp_path: Path) -> None:
    _, findings = audit(tmp_path / "run", training={**AUDITED["training"], "optimizer": "adam", "lr": 0.01})
    assert {one.method for one in noise_of(findings).audits} == {"clopper_pearson", "one_run"}


def test_the_fused_engine_that_keeps_its_promise_is_not_flagged(tmp_path: Path) -> None:
    folder, findings = audit(tmp_path / "run", training={**AUDITED["training"], "engine": "fused"})
    assert folder.result.engine.startswith("fused")
    assert not noise_of(findings).contradicts()
    assert all(one.below is not None for one in noise_of(findings).audits if one.variant == "update")


def test_canaries_are_all_found_where_there_is_no_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's sum of one client's update without noise: each canary shows, but for what real examples do there."""
    noise_times(0.0)(monkeypatch)
    folder, findings = audit(tmp_path / "run", data={"kind": "digits", "clients": 1})
    found = curve(folder, "noise_rounds", "update")
    assert found.tpr_T[np.searchsorted(found.fpr_T, 0.0, "right") - 1] > 0.95
    best = max(epsilon_of(findings).audits, key=lambda one: one.epsilon_lower)
    assert best.epsilon_lower > 0.9 * best.ceiling > 3.5


def test_the_page_keeps_the_kinds_apart(right: tuple[RunFolder, Audit]) -> None:
    folder, _ = right
    page = " ".join(write_report([folder], folder.path / "report.html").read_text(encoding="utf-8").split())
    for title in ("Lower bounds on ε, by the server", "Noise, by the server", "Estimates of ε, by the external adversary"):
        assert title in page
    assert "no bounds on ε" in page
    assert "Canaries refute" not in page


# --- other canaries ------------------------------------------------------------------------------------------------------


def test_without_a_promise_mislabelled_canaries_are_found_and_nothing_is_compared(tmp_path: Path) -> None:
    training = {"local_epochs": 25, "batch_size": 32, "lr": 0.4}
    folder, findings = audit(
        tmp_path / "run", 400, data={"kind": "digits", "clients": 1}, privacy={"kind": "none"}, training=training
    )
    assert epsilon_of(findings).promised is None
    assert max(one.epsilon_lower for one in epsilon_of(findings, "external").audits) > 0.5
    assert noise_of(findings).audits == []
    assert not noise_of(findings).contradicts()
    assert not epsilon_of(findings).contradicts()
    # Confidences beside the usual ones find them too.
    again: Audit = {(one.question, one.adversary): one for one in run_attacks(folder, ["auditing/one_run_quantile"])}
    bounds = {one.variant: one.epsilon_lower for one in epsilon_of(again, "external").audits}
    assert set(bounds) == {"loss", "quantile"}
    assert bounds["quantile"] > 0.5


CLIENTS: dict[str, Any] = {
    "data": {"kind": "digits", "clients": 300},
    "privacy": {"kind": "client_central", "noise_multiplier": 1.0, "delta": 1e-3, "max_update_norm": 0.5},
    "training": {"local_steps": 1, "batch_size": 8, "lr": 0.1},
}


def test_canary_clients_audit_a_plan_that_protects_clients(tmp_path: Path) -> None:
    folder, findings = audit(tmp_path / "run", 200, **CLIENTS)
    assert folder.config.canaries is not None
    assert folder.config.canaries.kind == "client"
    assert noise_of(findings, "external").contradicts() == []
    assert noise_of(findings, "external").promised == pytest.approx(1.0)
    # The server is trusted with the exact sums, and nothing is promised against it.
    assert noise_of(findings).promised is None
    assert max(one.epsilon_lower for one in epsilon_of(findings).audits) > 1.5
    estimate = findings["estimate", "external"]
    assert isinstance(estimate, EstimateFinding)
    assert {one.method for one in estimate.estimates} == {"two_gaussians", "one_shot"}


# --- what cannot be audited ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "changes", "why"),
    [
        ("gradient", {"privacy": {"kind": "none"}}, "set canaries.kind = 'mislabelled'"),
        ("gradient", {"privacy": CLIENTS["privacy"]}, "set canaries.kind = 'client'"),
        ("gradient", {"training": {**AUDITED["training"], "engine": "own_lab.engine"}}, r"training\.engine = 'own_lab.engine'"),
        ("client", {}, "protects single examples; set canaries.kind = 'gradient'"),
        ("cuckoo", {}, "canaries.*allowed: blank, canife, client"),
    ],
)
def test_canaries_that_do_not_suit_the_plan_are_refused(kind: str, changes: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        audited(small(**{**AUDITED, **changes}), 100, kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("canaries", "kind", "why"),
    [
        (5000, None, "must be at most 143"),
        (10, "client", "must be at most 2, of 2 clients, the number"),
        (65, "blank", "at most 64, one mark"),
    ],
)
def test_too_many_canaries_do_not_begin(canaries: int, kind: str | None, why: str, tmp_path: Path) -> None:
    plan = {"privacy": {"kind": "none"}} if kind == "client" else {}
    with pytest.raises(ConfigError, match=why):
        audit(tmp_path / "run", canaries, kind, **plan)
    assert not (tmp_path / "run").exists()


def test_directions_have_no_usual_confidence(right: tuple[RunFolder, Audit]) -> None:
    with pytest.raises(ConfigError, match=r"these canaries are directions; set canaries\.kind = 'mislabelled'"):
        run_attacks(right[0], ["auditing/one_run_quantile"])


def test_an_audit_of_a_run_without_canaries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the run has none; train one that has by `privfl audit CONFIG`"):
        run(small(**{**SMALL, "attacks": {"run": ["auditing/one_run"], "shadow_models": 0}}), tmp_path / "run")
