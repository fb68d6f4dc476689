"""The attacks on rounds: their formulas against autograd and by hand, what they find, and what they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn.functional import cross_entropy

from attacks import _rounds
from attacks._rounds import SharedMeasures
from attacks._run import run_attacks
from attacks.inference.source import Source
from attacks.membership import _gradients
from attacks.membership._gradients import Gradients
from attacks.membership._updates import SeenRound
from attacks.membership.disaggregation import solve
from attacks.membership.fedmia import FedMIA, against_others
from attacks.membership.gradient_difference import GradientDifference
from attacks.membership.inner_product import InnerProduct
from attacks.membership.loss_drop import LossDrop
from privfl.auditing.questions import AttackClaim, Claims, Truth
from privfl.auditing.questions.membership import MembershipFinding
from privfl.auditing.questions.source import Source as SourceQuestion
from privfl.auditing.questions.source import SourceClaim, SourceFinding
from privfl.config import TrainingConfig
from privfl.data.input_store import InputStore
from privfl.errors import ConfigError, ItemError, ViewError
from privfl.learning.tasks.classification import CLASSIFICATION
from privfl.loading import loads
from privfl.report import attacks_tables, write_report
from privfl.running.knowledge import Candidates, Knowledge, LabelledExamples, Network, Protocol, Shadows
from privfl.running.recording import run
from privfl.running.run_folder import RunFolder
from privfl.vectors import Layout, to_vector

ON_UPDATES = [f"membership/{name}" for name in ("inner_product", "gradient_difference", "loss_drop", "fedmia")]
OTHERS = ["membership/loss_over_rounds", "membership/global_loss_drop"]
OVERFITTED: dict[str, Any] = {
    "name": "overfitted",
    "rounds": 5,
    "data": {"kind": "own_attacks.random_labels", "clients": 4, "holdout": 0.5},
    "model": {"kind": "mlp", "hidden": [64]},
    "cohort": {"kind": "all"},
    "training": {"local_epochs": 5, "batch_size": 16, "lr": 0.1},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
    "attacks": {"run": [*ON_UPDATES, *OTHERS], "shadow_models": 0},
}


# --- formulas ---------------------------------------------------------------------------------------------------------


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 4, bias=False), nn.Linear(4, 5))


class Tied(nn.Module):
    """A weight that is used beside its layer, so that the layer's own gradient is not all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(6, 8), nn.Linear(8, 6)
        self.last = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.into(x.flatten(1)))
        logits: torch.Tensor = self.last(torch.tanh(self.out(hidden)) + hidden @ self.into.weight)
        return logits


class Twice(Tied):
    """A layer that is called twice."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.into(torch.tanh(self.out(torch.tanh(self.into(x.flatten(1)))))))
        logits: torch.Tensor = self.last(self.out(hidden))
        return logits


def made(module: nn.Module, examples: int = 7) -> tuple[Network, Candidates]:
    x, y = torch.randn(examples, 2, 3, dtype=torch.float64), torch.randint(5, (examples,))
    return Network(module, Layout.of(module), CLASSIFICATION, (5,)), Candidates(
        InputStore(x), y.numpy(), np.arange(examples) % 3
    )


def autograd(network: Network, candidates: Candidates) -> torch.Tensor:
    """Each example's gradient, of shape (N, D)."""
    reference = network.at(to_vector(network.module))
    rows = []
    for row in range(len(candidates)):
        loss = cross_entropy(reference(candidates.x[row : row + 1]), torch.from_numpy(candidates.y_N[row : row + 1]))
        rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(reference.parameters()))]))
    return torch.stack(rows)


@pytest.mark.parametrize(("module", "by_layers"), [(perceptron, True), (Tied, False), (Twice, False)])
def test_products_are_those_of_autograd(module: Any, by_layers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network, candidates = made(module().double())
    formed: list[int] = []
    original = _gradients._products

    def counted(*given: Any) -> Any:
        formed.append(1)
        return original(*given)

    monkeypatch.setattr(_gradients, "_products", counted)
    monkeypatch.setattr(_gradients, "_AT_ONCE", 3)
    updates_KD = torch.randn(2, network.layout.size)
    rows = np.array([6, 0, 2, 3])
    found = Gradients(network, candidates, to_vector(network.module)).products(updates_KD, rows)
    gradients_nD = autograd(network, candidates)[rows]
    assert found.inner_Kn == pytest.approx((-updates_KD.double() @ gradients_nD.T).numpy(), abs=1e-10)
    assert found.squares_n == pytest.approx(gradients_nD.square().sum(1).numpy(), abs=1e-10)
    # Only a model that is not made of layers alone has its gradients formed.
    assert bool(formed) is not by_layers


def knowledge_of(network: Network, candidates: Candidates, training: TrainingConfig) -> Knowledge:
    nobody = np.zeros((0, len(candidates)), bool)
    shadows = Shadows.of(nobody, [], 0, (5,))
    population, protocol = LabelledExamples(torch.zeros(0, 2, 3), np.zeros(0, np.int64)), Protocol(training, 4, 3, 6)
    measures = SharedMeasures(network, candidates, every=False)
    return Knowledge(network, candidates, population, shadows, protocol, measures)


def seen_round(clients: list[int]) -> SeenRound:
    torch.manual_seed(1)
    network, candidates = made(perceptron().double(), examples=9)
    training = TrainingConfig(local_epochs=2, batch_size=1, lr=0.1)
    updates_KD = 0.1 * torch.randn(len(clients), network.layout.size)
    weights_K = torch.linspace(0.5, 1, len(clients))
    return SeenRound(1, clients, to_vector(network.module), updates_KD, weights_K, knowledge_of(network, candidates, training))


@pytest.mark.parametrize("module", [perceptron, Tied, Twice, lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 5))])
def test_measures_are_those_of_autograd_and_of_the_local_models(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network, candidates = made(module().double(), examples=9)
    monkeypatch.setattr(_gradients, "_AT_ONCE", 2)
    model_D, updates_KD = to_vector(network.module), 0.1 * torch.randn(2, network.layout.size)
    clients = [2, 0]
    found = SharedMeasures(network, candidates, every=True).every(0, clients, model_D, updates_KD)
    gradients_ND = autograd(network, candidates)
    assert found.inner_KN == pytest.approx((-updates_KD.double() @ gradients_ND.T).numpy(), abs=1e-10)
    assert found.squares_N == pytest.approx(gradients_ND.square().sum(1).numpy(), abs=1e-10)
    assert found.norms_K == pytest.approx(updates_KD.double().norm(dim=1).numpy())
    labels = torch.from_numpy(candidates.y_N)
    for vector_D, losses_N in [(model_D, found.losses_N), *zip(model_D + updates_KD, found.local_losses_KN, strict=True)]:
        expected = cross_entropy(network.at(vector_D)(candidates.x[:]), labels, reduction="none")
        assert losses_N == pytest.approx(expected.detach().numpy(), abs=1e-6)
    own = SharedMeasures(network, candidates, every=False).own(0, clients, model_D, updates_KD)
    same = found.own(candidates.places(clients))
    for name in ("losses_N", "squares_N", "local_losses_N", "inner_N", "norms_N"):
        # To the bit: an attack's scores do not depend on those that are run beside it.
        assert np.array_equal(getattr(own, name)[candidates.client_N != 1], getattr(same, name)[candidates.client_N != 1]), name
    assert np.isnan(own.inner_N[candidates.client_N == 1]).all()


def test_measures_are_computed_once_for_all_attacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    original = Gradients.measured

    def counted(self: Gradients, *given: Any, every: bool) -> Any:
        asked.append(every)
        return original(self, *given, every=every)

    monkeypatch.setattr(Gradients, "measured", counted)
    training = {**OVERFITTED["training"], "local_epochs": 1}
    folder = run(loads({**OVERFITTED, "rounds": 2, "training": training}), tmp_path / "run")

    def scores(*names: str) -> dict[str, bytes]:
        asked.clear()
        run_attacks(folder, names)
        return {name: (folder.path / "attacks" / f"{name}.npz").read_bytes() for name in names}

    together = scores(*ON_UPDATES, "membership/gradient_cosine", "inference/source")
    assert asked == [True, True]
    alone = scores("membership/loss_drop")
    assert asked == [False, False]
    assert alone.items() <= together.items()
    # Where memory is short, each attack computes what it asks for.
    monkeypatch.setattr(_rounds, "_KEEP", 0)
    assert scores("membership/loss_drop", "membership/fedmia").items() <= together.items()
    assert asked == [False, False, True, True]


def test_scores_on_updates_are_their_formulas() -> None:
    """Client 1 is absent, so that its examples have no score in this round."""
    seen = seen_round([0, 2])
    candidates, network = seen.knowledge.candidates, seen.knowledge.network
    gradients_ND = autograd(network, candidates)
    for row, client in enumerate(candidates.client_N):
        scores = [one(kind="x").score(seen) for one in (InnerProduct, GradientDifference, LossDrop)]
        inner, difference, drop = (float(next(iter(one.values()))[row]) for one in scores)
        if client == 1:
            assert np.isnan([inner, difference, drop]).all()
            continue
        delta_D, gradient_D = -seen.updates_KD[[0, 2].index(int(client))].double(), gradients_ND[row]
        assert inner == pytest.approx(float(delta_D @ gradient_D), abs=1e-10)
        s = 0.1 * 6 / 3
        shorter = delta_D.square().sum() - (delta_D - s * gradient_D).square().sum()
        assert difference == pytest.approx(float(shorter) / s**2, abs=1e-8)
        label = torch.from_numpy(candidates.y_N[row : row + 1])
        models = [network.at(vector_D) for vector_D in (seen.model_D, seen.model_D - delta_D.float())]
        before, after = (float(cross_entropy(one(candidates.x[row : row + 1]), label).detach()) for one in models)
        assert drop == pytest.approx(before - after, abs=1e-6)


def test_the_scale_of_an_update_is_lr_times_steps_over_size() -> None:
    def weight(weight: float = 1.0, **changes: Any) -> float | None:
        training = TrainingConfig.model_validate({"local_steps": 6, "batch_size": 5, "lr": 0.1, **changes})
        return Protocol(training, 10, 30, 6).example_weight(5, weight)

    assert weight() == pytest.approx(0.1 * 6 / 30)
    assert weight(0.5) == pytest.approx(0.1 * 6 / 15)
    assert weight(0.5, local_steps=None, local_epochs=1) == pytest.approx(0.1 * 6 / 30)
    assert weight(momentum=0.5) == pytest.approx(0.1 / 30 * sum(2 - 0.5**k for k in range(6)))
    assert weight(round_schedule={"kind": "step", "every": 5, "gamma": 0.1}) == pytest.approx(0.01 * 6 / 30)
    assert weight(optimizer={"kind": "adam"}) is None


def test_an_update_of_one_step_is_s_times_the_sum_of_gradients() -> None:
    torch.manual_seed(0)
    network, candidates = made(perceptron().double(), examples=6)
    update_D = -0.1 * autograd(network, candidates).mean(0).float()
    protocol = Protocol(TrainingConfig(local_steps=1, batch_size=6, lr=0.1), 1, 6, 1)
    products = Gradients(network, candidates, to_vector(network.module)).products(update_D[None], np.arange(6))
    total_D = autograd(network, candidates).sum(0)
    assert products.inner_Kn[0] / (protocol.example_weight(0) or 0) == pytest.approx(
        (autograd(network, candidates) @ total_D).numpy(), rel=1e-5
    )


def test_fedmia_compares_with_the_other_clients_on_the_same_example() -> None:
    generator = np.random.default_rng(0)
    measure_Kn, place_n = generator.normal(size=(5, 40)), generator.integers(0, 5, 40)
    z_n = against_others(measure_Kn, place_n)
    for column, place in enumerate(place_n):
        others = np.delete(measure_Kn[:, column], place)
        assert z_n[column] == pytest.approx((measure_Kn[place, column] - others.mean()) / others.std(ddof=1))
    # Exchangeable clients: z is √(1 + 1/4) times a t of three degrees, whose Φ − 1/2 has mean 0 (4 sd here: .009).
    many = against_others(generator.normal(size=(5, 20_000)), generator.integers(0, 5, 20_000))
    assert abs(stats.norm.cdf(many).mean() - 0.5) < 0.01
    assert np.isnan(against_others(np.ones((3, 2)), np.array([0, 1]))).all()


def test_fedmia_s_scores_are_nothing_for_who_was_absent() -> None:
    seen = seen_round([0, 2, 5])
    scores = FedMIA(kind="x").score(seen)
    assert list(scores) == ["I", "I, z", "II", "II, z"]
    absent_N = seen.knowledge.candidates.client_N == 1
    for scores_N in scores.values():
        assert (np.isnan(scores_N) == absent_N).all()
    losses_KN = seen.every.local_losses_KN
    others = losses_KN[[0, 2], 2]
    assert seen.knowledge.candidates.client_N[2] == 2
    assert scores["I, z"][2] == pytest.approx(-(losses_KN[1, 2] - others.mean()) / others.std(ddof=1))
    assert scores["I"][2] == pytest.approx(stats.norm.cdf(scores["I, z"][2]) - 0.5)


def test_updates_that_repeat_are_disaggregated_exactly_and_those_that_drift_are_not() -> None:
    """The facts of the literature's setting: 100 clients, a tenth of them in each of 150 rounds; .57 at a drift of one."""
    generator = torch.Generator().manual_seed(0)
    updates_KD = torch.randn(100, 200, generator=generator, dtype=torch.float64)
    present_TK = torch.rand(150, 100, generator=generator) < 0.1
    assert np.linalg.matrix_rank(present_TK.numpy()) == 100

    def cosine(drift: float) -> float:
        sums = []
        for there_K in present_TK:
            moved_KD = updates_KD + drift * torch.randn(updates_KD.shape, generator=generator, dtype=torch.float64)
            sums.append(moved_KD[there_K].sum(0))
        solved_KD = solve(np.linalg.pinv(present_TK.double().numpy()), sums)
        return float(torch.cosine_similarity(solved_KD, updates_KD).mean())

    assert cosine(0.0) == pytest.approx(1.0, abs=1e-9)
    assert cosine(1.0) == pytest.approx(0.57, abs=0.1)


# --- what they find ---------------------------------------------------------------------------------------------------


def attacked(path: Path, **changes: Any) -> dict[str, Any]:
    """The AUC of each variant."""
    folder: RunFolder = run(loads({**OVERFITTED, **changes}), path)
    findings = run_attacks(folder)
    assert all(isinstance(found, MembershipFinding) for found in findings)
    return {f"{one.attack}: {one.variant}": one.auc for found in findings for one in found.attacks}  # type: ignore[attr-defined]


def test_an_overfitted_run_is_found_out(tmp_path: Path) -> None:
    found = attacked(tmp_path / "run")
    assert {one.split(":")[0] for one in found} == {*ON_UPDATES, *OTHERS}
    for name, one in found.items():
        assert one.low > (0.55 if name.split(":")[0] in OTHERS else 0.65), (name, one)


def test_updates_that_are_noise_give_nothing_away(tmp_path: Path) -> None:
    """At 99.99 % for each of a dozen: by chance one fails in fewer than one seed of eight hundred."""
    privacy = {"kind": "example", "noise_multiplier": 300.0, "delta": 1e-5, "max_grad_norm": 1.0}
    training = {**OVERFITTED["training"], "local_epochs": 1}
    for name, one in attacked(tmp_path / "run", privacy=privacy, training=training, rounds=4).items():
        # 3.89 / 1.96 times as wide as the 95 % interval.
        assert abs(one.value - 0.5) < (one.high - one.low) / 2 * 1.99, (name, one)


def test_sums_of_a_few_are_taken_apart_again(tmp_path: Path) -> None:
    """Under secure aggregation; the sum itself, without knowing who took part when, gives less away."""
    names = ["membership/disaggregation", "membership/global_loss_drop"]
    found = attacked(
        tmp_path / "run",
        rounds=16,
        cohort={"kind": "fixed", "size": 3},
        data={**OVERFITTED["data"], "clients": 6},
        aggregator={"kind": "secure_sum"},
        attacks={"run": names, "shadow_models": 0},
    )
    assert found["membership/disaggregation: cosine"].low > 0.55
    assert found["membership/global_loss_drop: drop"].low > 0.55


# --- what they need ---------------------------------------------------------------------------------------------------


def refused(path: Path, attack: str, **changes: Any) -> str:
    with pytest.raises((ConfigError, ViewError)) as raised:
        run(loads({**OVERFITTED, "attacks": {"run": [attack], "shadow_models": 0}, **changes}), path)
    assert not path.exists()
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


@pytest.mark.parametrize("attack", ON_UPDATES)
def test_single_updates_are_refused_under_secure_aggregation(attack: str, tmp_path: Path) -> None:
    said = refused(tmp_path / "run", attack, aggregator={"kind": "secure_sum"})
    assert said.startswith(f"aggregator: {attack!r} needs the update of each client")
    assert "aggregator.kind = 'mean'" in said


def test_the_other_needs_are_said_with_the_setting(tmp_path: Path) -> None:
    path, adam = tmp_path / "run", {**OVERFITTED["training"], "optimizer": {"kind": "adam"}, "lr": 0.01}
    assert "set 'sgd'" in refused(path, "membership/gradient_difference", training=adam)
    two = {"kind": "fixed", "size": 2}
    assert "cohort: 'membership/fedmia' compares the updates of at least 3" in refused(path, "membership/fedmia", cohort=two)
    said = refused(path, "membership/disaggregation")
    assert said.startswith("rounds = 5: 'membership/disaggregation' must tell 4 clients apart, and only 1 of these 5 rounds")
    assert "records.views = 'final'" in refused(path, "membership/loss_over_rounds", records={"views": "final"})


# --- whose example it is ------------------------------------------------------------------------------------------------


def test_the_client_that_trained_on_a_member_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four clients, so that guessing finds a quarter. The attack is not told whose examples they are."""
    told: list[Any] = []
    original = Source.run

    def look(self: Source, view: Any, knowledge: Knowledge) -> Any:
        told.append(knowledge.candidates.client_N)
        return original(self, view, knowledge)

    monkeypatch.setattr(Source, "run", look)
    attacks = {"run": ["inference/source", "membership/loss"], "shadow_models": 0}
    folder = run(loads({**OVERFITTED, "attacks": attacks}), tmp_path / "run")
    findings = run_attacks(folder)
    (found,) = [one for one in findings if isinstance(one, SourceFinding)]
    assert (told[0] == -1).all()
    assert (found.clients, found.adversary, found.rounds_by_attack()) == (4, "server", {"inference/source": (0, 1, 2, 3, 4)})
    assert 0.2 < found.chance < 0.35
    shares = {one.variant: one.right for one in found.attacks}
    assert list(shares) == ["averaged", "last round"]
    assert shares["averaged"].low > 0.5
    assert shares["averaged"].n == found.members
    assert RunFolder.open(folder.path).findings == findings
    page = write_report([folder], folder.path / "report.html").read_text(encoding="utf-8")
    assert "<h3>Source, by the server</h3>" in page
    assert "client of a member named correctly" in write_report([folder, folder], folder.path.parent / "two.html").read_text(
        encoding="utf-8"
    )
    assert "guessing" in str(attacks_tables(folder)[1].title)


def test_a_source_that_nobody_knows_is_named_by_chance() -> None:
    generator = np.random.default_rng(0)
    owner_N, everybody_N = generator.integers(0, 5, 4000), np.ones(4000, bool)
    truth = Truth(owner_N, everybody_N, generator.random(4000) < 0.5, lambda: generator, *[lambda: (owner_N, owner_N)] * 2)
    made = AttackClaim(SourceClaim({"guess": generator.integers(0, 5, 4000)}))
    found = SourceQuestion(kind="source").evaluate(Claims("server", 0, {"x": made}), truth, None)
    assert found.attacks[0].right.low < 0.2 < found.attacks[0].right.high
    assert found.chance == np.bincount(owner_N[truth.member_N]).max() / truth.member_N.sum()
    with pytest.raises(ItemError, match="must name one client for each of 3"):
        SourceClaim({"short": np.zeros(2, np.int64)}).checked("x", 3)
    with pytest.raises(ItemError, match="named no clients"):
        SourceClaim({}).checked("x", 3)
