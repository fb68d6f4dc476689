"""Attacks of any adversary on any question: each is judged for itself, and none of them can reach the truth."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_attacks.common_class import RightGuesses
from own_attacks.snooping import FORBIDDEN, Snooping, reachable
from safetensors.torch import load_file

from attacks import _shadows
from attacks._run import run_attacks
from privfl.auditing.questions.membership import MembershipFinding
from privfl.errors import ConfigError, ItemError, ViewError
from privfl.loading import loads
from privfl.report import attacks_tables, write_report
from privfl.report.headline import warnings
from privfl.report.run_records import RunRecords
from privfl.running.assembling import assemble
from privfl.running.recording import run
from privfl.running.run_folder import RunFolder
from privfl.storage import read_npz

SERVER = ["membership/gradient_cosine", "membership/gradient_cosine_sum"]
SKEWED: dict[str, Any] = {
    "name": "skewed",
    "rounds": 5,
    "data": {
        "kind": "digits",
        "clients": 8,
        "holdout": 0.5,
        "partition": {"kind": "dirichlet", "alpha": 0.3},
    },
    "model": {"kind": "mlp", "hidden": [64]},
    "cohort": {"kind": "fixed", "size": 4},
    "training": {"local_epochs": 4, "batch_size": 16, "lr": 0.2},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
    "attacks": {"run": [], "shadow_models": 0},
}


def begin(path: Path, **changes: Any) -> RunFolder:
    return run(loads({**SKEWED, **changes}), path)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose server saw every update."""
    return begin(tmp_path_factory.mktemp("runs") / "seen")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shadows, "cores", lambda: 1)


def by_adversary(findings: Any) -> dict[str, MembershipFinding]:
    return {one.adversary: one for one in findings if isinstance(one, MembershipFinding)}


def test_each_adversary_has_a_finding_of_its_own(seen: RunFolder) -> None:
    found = by_adversary(run_attacks(seen, ["membership/loss", *SERVER]))
    assert list(found) == ["external", "server"]
    assert {one.attack for one in found["external"].attacks} == {"membership/loss"}
    assert {one.attack for one in found["server"].attacks} == set(SERVER)
    for one in found["server"].attacks:
        assert (one.question, one.adversary, one.rounds) == ("membership", "server", [0, 1, 2, 3, 4])
    assert seen.findings == tuple(found.values())
    # An attack that is run alone is judged beside those that were run before it.
    assert run_attacks(seen, SERVER[1:]) == seen.findings == tuple(found.values())
    page = write_report([seen], seen.path / "report.html").read_text(encoding="utf-8")
    assert page.count("<h3>By the server</h3>") == 1
    assert "all that the server saw (rounds 1 to 5)" in page
    assert (seen.path / "figures" / "roc_server.svg").is_file()
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    titles = [str(table.title) for table in attacks_tables(seen)]
    assert titles == [
        "membership, by the external adversary, from the final model",
        "membership, by the server, from rounds 1 to 5",
    ]
    compared = write_report([seen, seen], seen.path.parent / "compared.html").read_text(encoding="utf-8")
    assert "best attack by the server: TPR at 1 % FPR" in compared


def test_a_promise_counts_against_the_adversaries_that_it_names(tmp_path: Path) -> None:
    """A trusted server sees updates without noise: nothing is promised against it, and it contradicts no promise."""
    central = {"kind": "client_central", "noise_multiplier": 50.0, "delta": 1e-2, "max_update_norm": 1.0}
    cohort = {"kind": "poisson", "size": 4}
    folder = begin(tmp_path / "run", privacy=central, cohort=cohort)
    found = by_adversary(run_attacks(folder, ["membership/loss", SERVER[0]]))
    promised = folder.result.privacy
    assert promised is not None
    assert found["external"].best.delta == promised.delta
    assert found["server"].best.delta == 0
    # An attack on exact updates may well refute the ε of the released sums; the page does not call that a broken promise.
    leaky = found["server"].model_copy(
        update={"best": found["server"].best.model_copy(update={"epsilon_lower": 2 * promised.attack_epsilon})}
    )
    for finding, warned in ((leaky, 0), (leaky.model_copy(update={"adversary": "external"}), 1)):
        folder.write_findings([finding])
        assert len(warnings(RunRecords.read(folder))) == warned


def test_single_updates_are_refused_under_secure_aggregation_and_sums_are_not(tmp_path: Path) -> None:
    secure = {"aggregator": {"kind": "secure_sum"}, "rounds": 2, "training": {**SKEWED["training"], "local_epochs": 1}}
    why = r"^aggregator: 'membership/gradient_cosine' needs the update of each client.*gradient_cosine_sum'$"
    with pytest.raises(ConfigError, match=why):
        begin(tmp_path / "refused", **secure, attacks={"run": SERVER[:1], "shadow_models": 0})
    assert not (tmp_path / "refused").exists()
    folder = begin(tmp_path / "run", **secure, attacks={"run": SERVER[1:], "shadow_models": 0})
    with pytest.raises(ConfigError, match=why):
        run_attacks(folder, SERVER[:1])
    (found,) = run_attacks(folder)
    assert found.rounds_by_attack() == {SERVER[1]: (0, 1)}


def test_an_attack_on_rounds_needs_that_they_are_kept(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"records\.views = 'final': .* set it to 'sums' or 'all'"):
        begin(tmp_path / "run", records={"views": "final"}, attacks={"run": SERVER[:1], "shadow_models": 0})


def test_an_adversary_without_a_part_in_the_run_is_refused(seen: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Snooping, "adversary", "martian")
    with pytest.raises(ViewError, match=r"adversary 'martian' of 'own_attacks\.snooping': has no part in a run"):
        run_attacks(seen, ["own_attacks.snooping"])


# --- the truth --------------------------------------------------------------------------------------------------------


def truths(folder: RunFolder) -> list[np.ndarray[Any, Any]]:
    who = read_npz(folder.path / "membership.npz")
    return [who["member_N"], who["member_N"][who["candidate_N"]]]


def stolen(loot: list[Any], folder: RunFolder) -> list[Any]:
    """What of it is the truth, or leads to it."""
    members = [truth.astype(np.int64).tolist() for truth in truths(folder)]

    def is_it(one: Any) -> bool:
        if isinstance(one, FORBIDDEN) or str(folder.path) in str(getattr(one, "filename", "")):
            return True
        return hasattr(one, "tolist") and len(getattr(one, "shape", ())) == 1 and one.tolist() in members

    return [one for one in loot if is_it(one)]


def test_an_attack_reaches_the_truth_neither_by_its_view_nor_by_its_knowledge(tmp_path: Path, seen: RunFolder) -> None:
    Snooping.errors.clear()
    run_attacks(seen, ["own_attacks.snooping"])
    assert len(Snooping.loot) > 100
    assert stolen(Snooping.loot, seen) == []
    assert Snooping.errors
    assert not [said for said in Snooping.errors if str(seen.path) in said or seen.path.name in said]
    # The very search does find what is there to be found.
    truth_N = truths(seen)[1]
    for secret in (seen, seen.config, assemble(seen.config).data, {"kept": (truth_N,)}, lambda: truth_N):
        assert stolen(list(reachable(secret)), seen)


def test_the_truth_is_opened_after_the_claims(seen: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """While an attack runs there is no assembled experiment, which holds the truth, in any frame above it."""
    found: list[Any] = []

    def look(self: Snooping, view: Any, knowledge: Any) -> Any:
        frame = sys._getframe()
        while frame.f_back is not None:
            frame = frame.f_back
            if frame.f_globals["__name__"].startswith(("attacks", "privfl")):
                found.extend(frame.f_locals.values())
        return original(self, view, knowledge)

    original = Snooping.run
    monkeypatch.setattr(Snooping, "run", look)
    run_attacks(seen, ["own_attacks.snooping"])
    assert found
    names = {type(one).__name__ for one in found}
    assert not names & {"Experiment", "FederatedData", "Truth", "Coins"}


# --- a question of one's own --------------------------------------------------------------------------------------------


def test_a_question_of_one_s_own_is_one_file(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run", rounds=1)
    findings = run_attacks(folder, ["own_attacks.common_class", "membership/loss"])
    (found,) = [one for one in findings if isinstance(one, RightGuesses)]
    assert (found.question, found.adversary) == ("own_attacks.common_class", "server")
    # Of ten classes one is guessed; the server sees four clients.
    assert found.right["own_attacks.common_class"].n == 4
    assert found.right["own_attacks.common_class"].value > 0.5
    assert RunFolder.open(folder.path).findings == findings
    assert run_attacks(folder, ["membership/loss"]) == findings
    page = write_report([folder], folder.path / "report.html").read_text(encoding="utf-8")
    assert "own_attacks.common_class: see attacks/summary.json." in page


def test_an_attack_must_give_its_question_s_claim(seen: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Snooping, "run", lambda *_: {"top": [1.0]})
    with pytest.raises(ItemError, match=r"'own_attacks.snooping': run\(\) returned a dict; the question 'membership' is"):
        run_attacks(seen, ["own_attacks.snooping"])
    monkeypatch.setattr(Snooping, "question", "membrship")
    with pytest.raises(ConfigError, match="question 'membrship': did you mean 'membership'"):
        run_attacks(seen, ["own_attacks.snooping"])


def test_views_give_copies(seen: RunFolder) -> None:
    """To write into what a view gave changes nothing on disk, nor what it gives next."""
    from privfl.running.views import ServerView, open_view

    view = open_view(seen, "server", assemble(seen.config).layout)
    assert isinstance(view, ServerView)
    updates_KD, _ = view.updates(0)
    updates_KD.zero_()
    assert bool(view.updates(0)[0].any())
    assert bool(load_file(seen.path / "views" / "round_00000.safetensors")["updates_KD"].any())
