"""Which attacks a run allows: the list, all of them, and those of one adversary."""

import re

import pytest
from command_line import Call, calling
from small_runs import small

import privfl as package
from privfl.errors import ConfigError
from privfl.running.attacking import chosen, offers
from privfl.running.recording import run as train
from privfl.running.run_folder import RunFolder
from privfl.shelves import SHELVES

NAMES = SHELVES["attacks.run"].names()


@pytest.fixture
def privfl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return calling(monkeypatch, capsys)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run under secure aggregation, without shadow models."""
    return train(small(rounds=1, attacks={"shadow_models": 0}), tmp_path_factory.mktemp("offers") / "run")


def test_without_a_run_every_attack_is_offered() -> None:
    found = offers()
    assert [one.name for one in found] == NAMES
    assert all(one.refusal is None for one in found)
    clients = offers(adversary="client")
    assert {one.adversary for one in clients} == {"client"}
    assert 0 < len(clients) < len(found)


def test_a_run_says_why_it_does_not_allow_an_attack(finished: RunFolder) -> None:
    found = {one.name: one.refusal for one in offers(finished)}
    assert list(found) == NAMES
    assert found["membership/loss"] is None
    assert "attacks.shadow_models = 0" in str(found["membership/lira"])
    assert "sums only" in str(found["membership/gradient_cosine"])
    more = {one.name: one.refusal for one in offers(finished, settings=["attacks.shadow_models=2"])}
    assert more["membership/lira"] is None


def test_all_are_those_that_the_run_allows(finished: RunFolder) -> None:
    taken, left_out = chosen(finished, ["all"])
    assert sorted([*taken, *(one.name for one in left_out)]) == NAMES
    assert "membership/loss" in taken
    assert all(one.refusal for one in left_out)
    assert chosen(finished, ["membership/loss"]) == (["membership/loss"], [])
    theirs, _ = chosen(finished, [], "server")
    assert theirs
    assert {one.adversary for one in offers() if one.name in theirs} == {"server"}


def test_names_beside_all_are_refused(finished: RunFolder) -> None:
    with pytest.raises(ConfigError, match="'membership/loss': give names of attacks, or 'all', or an adversary"):
        chosen(finished, ["membership/loss", "all"])
    with pytest.raises(ConfigError, match="'all': the run allows none of the"):
        chosen(train(small(rounds=1, records={"views": "final"}), finished.path.parent / "final"), [], "client")


def test_all_attacks_of_an_adversary_run(finished: RunFolder, privfl: Call) -> None:
    code, _, err = privfl("attack", finished.path, "--adversary", "external")
    assert code == 0
    assert re.search(r"left out: .*membership/lira.*: attacks\.shadow_models = 0: each of them needs", err)
    membership, estimate = sorted(finished.findings, key=lambda found: found.question)
    names = {"loss", "entropy", "confidence", "attack_p", "quantile", "label_only"}
    assert {f"membership/{name}" for name in names} == set(membership.rounds_by_attack())
    assert set(estimate.rounds_by_attack()) == {"membership/model_level"}


def test_the_list_on_the_command_line(finished: RunFolder, privfl: Call) -> None:
    code, out, _ = privfl("attack", "--list", "--adversary", "client")
    assert code == 0
    assert "membership/loss_over_rounds" in out
    assert "membership/lira" not in out
    code, out, _ = privfl("attack", finished.path, "--list")
    assert code == 0
    assert re.search(r"left out: .*membership/lira.*: attacks\.shadow_models = 0: each of them needs", out)
    code, _, err = privfl("attack", "--list", "--adversary", "sever")
    assert code == 2
    assert "did you mean 'server'?" in err
    code, _, err = privfl("attack", "--list", finished.path, "membership/loss")
    assert code == 2
    assert "--list takes one run at most" in err


def test_from_python(finished: RunFolder) -> None:
    run = package.Run(finished.path)
    found = {one.adversary: one for one in run.attack(adversary="client")}
    assert set(found["client"].rounds_by_attack()) == {"membership/loss_over_rounds", "membership/trajectory"}


def test_named_attacks_that_a_run_does_not_allow_are_left_out_if_asked(finished: RunFolder, privfl: Call) -> None:
    names = ["membership/entropy", "membership/gradient_cosine"]
    taken, left_out = chosen(finished, names, allowed=True)
    assert taken == ["membership/entropy"]
    assert [one.name for one in left_out] == ["membership/gradient_cosine"]
    code, _, err = privfl("attack", finished.path, "membership/loss", "membership/no_such", "--allowed")
    assert code == 2
    assert "membership/no_such" in err
    with pytest.raises(ConfigError, match="the run allows none of the 1 attacks"):
        chosen(finished, names[1:], allowed=True)
