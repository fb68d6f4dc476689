"""A malicious server goes on when a run is over: what it may ask for, what it sees of it, and what its attacks find.

The examples have random labels: nothing is learned but by heart. AUCs of 800 candidates have a standard error of .02.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from own_attacks.asking import Asking
from own_attacks.snooping import FORBIDDEN

from attacks._run import run_attacks
from privfl.auditing.questions.membership import AttackRecord, MembershipFinding
from privfl.errors import ConfigError, ItemError, RunFolderError, ViewError
from privfl.loading import loads
from privfl.report import attacks_tables, write_report
from privfl.running.assembling import assemble
from privfl.running.recording import run
from privfl.running.run_folder import RunFolder
from privfl.running.views import MaliciousServerView
from privfl.secagg import client, server, two_faced
from privfl.secagg.encoding import Encoding
from privfl.secagg.session import Parameters, session_id
from privfl.storage import read_npz

CANARY, INCONSISTENT, ASCENT = (f"membership/{name}" for name in ("canary_gradient", "model_inconsistency", "gradient_ascent"))
NOISE = {"kind": "example", "noise_multiplier": 1.0, "delta": 1e-3, "max_grad_norm": 1.0}
BY_HEART: dict[str, Any] = {
    "name": "by_heart",
    "rounds": 3,
    "data": {"kind": "own_attacks.random_labels", "clients": 4, "holdout": 0.5},
    "model": {"kind": "mlp", "hidden": [64]},
    "cohort": {"kind": "all"},
    "training": {"local_epochs": 5, "batch_size": 16, "lr": 0.1},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
    "attacks": {"run": [], "shadow_models": 0},
}


def begin(path: Path, **changes: Any) -> RunFolder:
    return run(loads({**BY_HEART, **changes}), path)


def found_by(folder: RunFolder, *attacks: Any) -> dict[str, AttackRecord]:
    """What the variants found, by attack and variant."""
    findings = [one for one in run_attacks(folder, attacks) if one.adversary == "malicious_server"]
    assert all(isinstance(one, MembershipFinding) for one in findings)
    return {f"{one.attack} {one.variant}": one for finding in findings for one in getattr(finding, "attacks", [])}


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return begin(tmp_path_factory.mktemp("runs") / "clear")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return begin(tmp_path_factory.mktemp("runs") / "secure", aggregator={"kind": "secure_sum"})


@pytest.fixture(scope="module")
def noised(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return begin(tmp_path_factory.mktemp("runs") / "noised", privacy=NOISE)


def asked(folder: RunFolder, **settings: Any) -> MaliciousServerView:
    """What the attack that asks was shown in the end."""
    Asking.views.clear()
    found_by(folder, "own_attacks.asking")
    return Asking.views[-1]


# --- what comes back --------------------------------------------------------------------------------------------------


def test_clients_answer_as_they_would_in_a_round_of_the_run(clear: RunFolder) -> None:
    """An answer to the final model is an update of a client's usual size; one that was sent zeros has nothing to say."""
    first, second = asked(clear).answers
    assert (first.number, second.number) == (3, 4)
    assert first.participants == first.survivors == (0, 1, 2, 3)
    updates_KD, weights_K = first.updates()
    assert updates_KD.shape == (4, len(first.order.model_D))
    sum_D, weight = first.sums()
    assert torch.equal(sum_D, weights_K.double() @ updates_KD.double())
    assert weight == pytest.approx(float(weights_K.sum()))
    # A round like those of the run: as large as the update of the last one, within a factor of 2.
    before_KD, _ = asked(clear).updates(2)
    ratio_K = updates_KD.norm(dim=1) / before_KD.norm(dim=1)
    assert bool(((ratio_K > 0.5) & (ratio_K < 2)).all())
    # From zeros nothing moves but the last biases, as no unit has anything to say.
    other_KD, _ = second.updates()
    assert other_KD[0, :-2].norm() == 0
    assert other_KD[0, -2:].norm() > 0
    assert bool((other_KD[1:].norm(dim=1) > 0.1).all())


def test_the_same_questions_get_the_same_answers(clear: RunFolder, secure: RunFolder) -> None:
    for folder in (clear, secure):
        one, other = asked(folder), asked(folder)
        for first, again in zip(one.answers, other.answers, strict=True):
            assert torch.equal(first.sums()[0], again.sums()[0]) or first.failed


def test_under_secure_aggregation_one_model_gives_a_sum_and_two_give_noise(clear: RunFolder, secure: RunFolder) -> None:
    first, second = asked(secure).answers
    exact_D = asked(clear).answers[0].sums()[0]
    assert first.failed is None
    # Runs of one seed that differ in the encoding are paired.
    assert torch.allclose(first.sums()[0], exact_D, atol=1e-3)
    with pytest.raises(ViewError, match=r"round 3: under secure aggregation the server sees sums only; attack the sum, or run"):
        first.updates()
    assert second.survivors == ()
    assert second.failed is not None
    assert "\n" not in second.failed
    # Words that are uniform, read as steps of the encoding. Four standard errors of the mean and of the variance.
    noise_D, D = second.sums()[0] * Encoding.fit(8.0, population=4).update.scale / 2**31, len(exact_D)
    assert abs(float(noise_D.mean())) < 4 / (3 * D) ** 0.5
    assert abs(float(noise_D.square().mean()) - 1 / 3) < 4 * (4 / 45 / D) ** 0.5


def test_an_attack_that_asks_reaches_the_truth_neither_before_nor_after(clear: RunFolder) -> None:
    Asking.frames.clear()
    asked(clear)
    who = read_npz(clear.path / "membership.npz")
    members = [who["member_N"].astype(int).tolist(), who["member_N"][who["candidate_N"]].astype(int).tolist()]
    assert len(Asking.loot) > 100
    for one in Asking.loot:
        assert not isinstance(one, FORBIDDEN)
        assert not (hasattr(one, "tolist") and len(getattr(one, "shape", ())) == 1 and one.tolist() in members)
    assert Asking.frames
    assert not Asking.frames & {"Experiment", "Federation", "FederatedData", "Truth", "Coins"}


def test_the_finding_says_how_many_rounds_were_asked_for(tmp_path: Path, clear: RunFolder) -> None:
    records = {name: one for name, one in found_by(clear, ASCENT).items() if one.attack == ASCENT}
    assert {one.asked for one in records.values()} == {3}
    assert {tuple(one.rounds) for one in records.values()} == {()}
    # Judged again beside another attack, it still does; the run's own ledger and result are as they were.
    assert found_by(clear, "own_attacks.asking")[f"{ASCENT} level"].asked == 3
    (table,) = [one for one in attacks_tables(clear) if "malicious" in str(one.title)]
    assert "from the final model and from up to 3 rounds more that it asked for" in str(table.title)
    page = " ".join(write_report([clear], tmp_path / "report.html").read_text(encoding="utf-8").split())
    assert "asked for 3 more rounds" in page
    assert "The ledger does not price those rounds." in page


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_more_rounds_than_it_may_ask_for_are_refused(clear: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Asking, "further", 2)
    with pytest.raises(
        ItemError, match=r"'own_attacks\.asking': asked for 3 rounds; it may ask for 2: raise its setting rounds"
    ):
        run_attacks(clear, ["own_attacks.asking"])


def test_a_model_of_another_length_is_refused(clear: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Asking, "length", 1)
    with pytest.raises(ItemError, match=r"sends a model of shape \(2753,\); it must be \(2754,\)"):
        run_attacks(clear, ["own_attacks.asking"])


def test_a_run_without_its_state_is_refused(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run", rounds=1)
    (folder.path / "state.safetensors").unlink()
    with pytest.raises(RunFolderError, match="has no state to go on from"):
        run_attacks(folder, [ASCENT])


@pytest.mark.parametrize("model", [{"kind": "logistic"}, {"kind": "mlp", "hidden": [8], "activation": "tanh"}])
@pytest.mark.parametrize("attack", [CANARY, INCONSISTENT])
def test_a_model_without_a_relu_is_refused_before_the_first_round(model: Any, attack: str, tmp_path: Path) -> None:
    why = rf"^model: '{attack}' needs a trained linear layer with biases and a ReLU behind it; set model\.kind = 'mlp'.*$"
    with pytest.raises(ConfigError, match=why):
        begin(tmp_path / "run", model=model, attacks={"run": [attack], "shadow_models": 0})
    assert not (tmp_path / "run").exists()


# --- what is found ----------------------------------------------------------------------------------------------------


def test_canaries_are_found_in_updates_and_in_sums_and_not_under_noise(
    clear: RunFolder, secure: RunFolder, noised: RunFolder
) -> None:
    """Of 64 units one watches each candidate: all of 800 in four rounds of single updates, 512 in eight rounds of sums."""
    name = f"{CANARY} gradient"
    alone = found_by(clear, CANARY)[name]
    assert alone.asked == 4
    assert alone.auc.value > 0.99
    summed = found_by(secure, CANARY)[name]
    assert summed.asked == 8
    assert summed.auc.low > 0.85
    hidden = found_by(noised, CANARY)[name]
    assert hidden.auc.low - 0.02 < 0.5 < hidden.auc.high + 0.02


def test_every_canary_that_moved_in_the_secure_sum_is_a_member(secure: RunFolder) -> None:
    """Exactly, candidate by candidate: of those that were watched, members have a score near 1 and the others exactly 0."""
    run_attacks(secure, [CANARY])
    kept = read_npz(secure.path / "attacks" / f"{CANARY}.npz")
    member_N, scores_N = kept["member"], kept[f"{CANARY}: gradient"]
    watched_N = watched(secure, units=64, rounds=8)
    assert watched_N.sum() == 512
    assert scores_N[watched_N & ~member_N].max() == 0
    # A unit that moves fires on others too, so that not all of them point along their candidate alone.
    assert np.median(scores_N[watched_N & member_N]) > 0.99


def watched(folder: RunFolder, units: int, rounds: int) -> NDArray[np.bool_]:
    """The candidates that there was a unit for, if all clients are in every cohort."""
    candidates = len(assemble(folder.config).data.candidate_N.nonzero()[0])
    return np.arange(candidates) < units * rounds


def test_different_models_isolate_a_client_in_a_sum_and_are_noise_in_the_secure_sum(secure: RunFolder, tmp_path: Path) -> None:
    unbound = begin(tmp_path / "unbound", aggregator={"kind": "own_attacks.unbound_sum"})
    name = f"{INCONSISTENT} cosine"
    isolated, bound = found_by(unbound, INCONSISTENT)[name], found_by(secure, INCONSISTENT)[name]
    assert isolated.asked == bound.asked == 4
    assert isolated.auc.low > 0.7
    assert bound.auc.low - 0.02 < 0.5 < bound.auc.high + 0.02


@pytest.mark.parametrize("adversary", ["active", "semi_honest"])
def test_without_the_model_in_the_session_the_same_attack_breaks_the_secure_sum(
    adversary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The protection taken away: clients that forget which model they were sent mask as one, and the sum is one's update."""

    def forgetful(parameters: Parameters, clients: int, digest: bytes, global_D: NDArray[np.float32]) -> bytes:
        return session_id(parameters, clients, digest, np.zeros_like(global_D))

    folder = begin(tmp_path / "run", aggregator={"kind": "secure_sum", "adversary": adversary})
    name = f"{INCONSISTENT} cosine"
    assert found_by(folder, INCONSISTENT)[name].auc.high < 0.6
    for module in (client, server, two_faced):
        monkeypatch.setattr(module, "session_id", forgetful)
    assert found_by(folder, INCONSISTENT)[name].auc.low > 0.7


def test_members_pull_their_loss_back(clear: RunFolder, secure: RunFolder, noised: RunFolder) -> None:
    alone, summed, hidden = (found_by(folder, ASCENT) for folder in (clear, secure, noised))
    for variant in ("level", "return"):
        name = f"{ASCENT} {variant}"
        assert alone[name].auc.low > 0.7
        assert summed[name].auc.low > 0.58
        assert hidden[name].auc.low - 0.05 < 0.5 < hidden[name].auc.high


def test_the_ascent_raises_the_loss_by_as_much_as_it_is_told(clear: RunFolder) -> None:
    from attacks._run import _prepared
    from attacks.membership._updates import losses
    from attacks.membership.gradient_ascent import GradientAscent
    from privfl.running.views import open_view

    attack = GradientAscent(kind=ASCENT, rise=0.5)
    knowledge = _prepared(clear, clear.config, [attack], None)
    view = open_view(clear, "malicious_server", knowledge.network.layout)
    assert isinstance(view, MaliciousServerView)
    orders = attack.ask(view, knowledge)
    assert len(orders) == 3
    before, after = (losses(knowledge, model_D).mean() for model_D in (view.final_model(), orders[0].model_D))
    assert 0.5 <= after - before < 0.8


LOCAL = {"kind": "client_local", "noise_multiplier": 1.0, "delta": 1e-3, "max_update_norm": 1.0}
SHORT: dict[str, Any] = {"rounds": 1, "training": {"local_epochs": 1, "batch_size": 16, "lr": 0.1}}
OTHERS: dict[str, dict[str, Any]] = {
    "control variates": {"algorithm": {"kind": "scaffold"}, "aggregator": {"kind": "secure_sum"}},
    "an adaptive norm": {
        "privacy": {**LOCAL, "kind": "client_central", "noise_multiplier": 0.1, "clipping": {"kind": "adaptive"}},
        "cohort": {"kind": "poisson", "size": 3},
    },
    "distributed noise": {
        "privacy": {**LOCAL, "kind": "client_distributed", "survivors": 3},
        "aggregator": {"kind": "secure_sum"},
    },
    "rounds apart": {
        "privacy": {**LOCAL, "kind": "client_dpftrl"},
        "cohort": {"kind": "separated", "size": 1, "separation": 2},
    },
    "lost clients": {"aggregator": {"kind": "secure_sum", "dropout": {"masked_input": 0.3}}},
}


@pytest.mark.parametrize("case", OTHERS)
def test_rounds_are_asked_for_under_any_plan_algorithm_and_aggregator(case: str, tmp_path: Path) -> None:
    folder = begin(tmp_path / "run", **{**SHORT, **OTHERS[case]})
    ledger = (folder.path / "ledger.jsonl").read_bytes()
    view = asked(folder)
    assert [answer.number for answer in view.answers] == [1, 2]
    for answer, cohort in zip(view.answers, view.cohorts, strict=True):
        assert set(answer.participants) == set(cohort)
        if answer.failed is None and answer.survivors:
            sum_D, weight = answer.sums()
            assert sum_D.shape == answer.order.model_D.shape
            assert weight > 0
    # Nothing of it is in the run.
    assert (folder.path / "ledger.jsonl").read_bytes() == ledger
    assert len(folder.rounds()) == 1


@pytest.mark.parametrize("attack", ["reconstruction/curious_abandon", "reconstruction/imprint", CANARY])
def test_cohorts_too_small_for_a_secure_sum_give_nothing_and_say_so(attack: str, tmp_path: Path) -> None:
    folder = begin(tmp_path / "run", **SHORT, cohort={"kind": "poisson", "size": 1}, aggregator={"kind": "secure_sum"})
    why = rf"^'{attack}': nothing came of the \d rounds that it asked for: a cohort of \d; secure_sum needs at least 3$"
    with pytest.raises(ViewError, match=why):
        run_attacks(folder, [attack])


def test_small_cohorts_are_asked_one_after_another(tmp_path: Path) -> None:
    """Cohorts go by the run's own rule: not everybody is there in each round, and nobody is singled out twice."""
    folder = begin(tmp_path / "run", cohort={"kind": "fixed", "size": 2}, aggregator={"kind": "own_attacks.unbound_sum"})
    view = asked(folder)
    assert [len(cohort) for cohort in view.cohorts] == [2, 2]
    assert [answer.participants for answer in view.answers] == list(view.cohorts)
    record: Mapping[str, AttackRecord] = found_by(folder, INCONSISTENT)
    assert 4 <= record[f"{INCONSISTENT} cosine"].asked <= 10
    assert record[f"{INCONSISTENT} cosine"].auc.low > 0.7
