"""Client-level plans in whole runs: what is priced, written down and resumed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixed_updates import CodedSum
from safetensors.torch import load_file
from scipy import stats
from small_runs import SMALL, small

from attacks._run import _promised
from privfl.auditing import tpr_bound
from privfl.errors import RunFolderError, StorageError, ViewError
from privfl.privacy import accounting
from privfl.privacy.cohorts import draw_cohorts
from privfl.privacy.cohorts.fixed import Fixed
from privfl.privacy.cohorts.poisson import Poisson
from privfl.privacy.cohorts.separated import Separated
from privfl.privacy.ledger import Ledger
from privfl.privacy.mechanisms import FixedSizeGaussian, Gaussian, History, PoissonGaussian
from privfl.report.card import as_json
from privfl.report.headline import headlines
from privfl.report.run_records import RunRecords
from privfl.running import views
from privfl.running.assembling import assemble
from privfl.running.composing import compose
from privfl.running.determinism import deterministic
from privfl.running.pricing import account
from privfl.running.recording import run
from privfl.running.run_folder import RunFolder
from privfl.seeding import Seed

ERROR = 1e-4


def privacy(kind: str, **changes: Any) -> dict[str, Any]:
    return {"kind": kind, "noise_multiplier": 1.0, "delta": 1e-2, "max_update_norm": 0.5, **changes}


CENTRAL = small(privacy=privacy("client_central"), aggregator={"kind": "mean"}, server={"kind": "fedavg"})
ADAPTIVE = small(
    privacy=privacy("client_central", noise_multiplier=0.3, clipping="adaptive", randomness="secure"), server={"kind": "fedavg"}
)
LOCAL = small(privacy=privacy("client_local", randomness="secure"), server={"kind": "fedavgm"})
DPFTRL = small(
    privacy=privacy("client_dpftrl"), cohort={"kind": "separated", "size": 3, "separation": 3}, server={"kind": "fedavg"}
)
PLANS = {"dpftrl": DPFTRL, "central": CENTRAL, "adaptive, secure": ADAPTIVE, "local, secure": LOCAL}


def check_prices_are_those_of_the_mechanisms() -> None:
    """ε of a whole run, against the accountants' own words for it."""
    for cohort, history in (
        ({"kind": "poisson", "size": 5}, History({PoissonGaussian(0.5, 1.0): 4})),
        ({"kind": "fixed", "size": 5}, History({FixedSizeGaussian(10, 5, 1.0): 4})),
        ({"kind": "all"}, History({Gaussian(1.0): 4})),
    ):
        priced = account(small(privacy=privacy("client_central"), cohort=cohort))
        assert priced.epsilon == pytest.approx(accounting.epsilon(history, 1e-2))
        assert priced.prices[0].relation == history.relation
        assert priced.epsilon_clients == (priced.epsilon,) * 10


def test_prices_are_those_of_the_mechanisms() -> None:
    check_prices_are_those_of_the_mechanisms()


def test_a_client_that_noises_its_own_update_pays_for_its_own_rounds() -> None:
    priced = account(LOCAL)
    cohorts = [cohort for cohort in priced.experiment.cohorts if len(cohort) >= 3]
    for client, spent in enumerate(priced.epsilon_clients):
        rounds = sum(client in cohort for cohort in cohorts)
        assert spent == accounting.epsilon(History({Gaussian(1.0): rounds}), 1e-2)


@pytest.mark.parametrize("kind", ["client_central", "client_local", "client_dpftrl", "client_distributed"])
def test_target_epsilon_is_reached_by_every_plan(kind: str) -> None:
    separated = {"kind": "separated", "size": 3, "separation": 3}
    more = {"survivors": 2} if kind == "client_distributed" else {}
    plan = privacy(kind, noise_multiplier=None, target_epsilon=6.0, **more)
    priced = account(small(privacy=plan, cohort=SMALL["cohort"] if kind == "client_central" else separated))
    assert 5.9 < priced.epsilon <= 6.0


def test_shuffled_batches_earn_no_amplification() -> None:
    """Two local epochs of four rounds are eight releases of the Gaussian mechanism for whoever took part in all."""
    config = small(
        privacy={**SMALL["privacy"], "sampler": "shuffle"},
        cohort={"kind": "all"},
        training={**SMALL["training"], "local_epochs": 2},
    )
    priced = account(config)
    assert priced.epsilon == pytest.approx(accounting.epsilon(History({Gaussian(1.0): 8}), 1e-4), rel=1e-6)
    rows = dict(priced.rows())
    assert float(rows["no guarantee: ε were the batches Poisson samples"]) < priced.epsilon
    folder_epsilon = assemble(config).ledger(4).epsilon()
    assert folder_epsilon == priced.epsilon


# --- the ledger's q is the empirical one ------------------------------------------------------------------------------


@pytest.mark.parametrize("cohort", [Poisson(kind="poisson", size=3), Fixed(kind="fixed", size=3)])
def test_the_ledger_s_rate_is_the_empirical_one(cohort: Any) -> None:
    """12,000 draws of 11 clients: every client, and all together, by a binomial bound of 1e-4."""
    clients, rounds = 11, 12_000
    experiment = assemble(small(privacy=privacy("client_central"), cohort=cohort.model_dump()))
    (event,) = experiment.planned(0).values()
    taken = np.zeros(clients)
    for drawn in draw_cohorts(cohort, clients, rounds, Seed(3)):
        taken[list(drawn)] += 1
    accounted = 3 / clients
    low, high = stats.binom.ppf([ERROR / 2 / clients, 1 - ERROR / 2 / clients], rounds, accounted)
    assert ((low <= taken) & (taken <= high)).all()
    assert event.size / event.population == pytest.approx(3 / 10)  # type: ignore[union-attr]


def test_separated_cohorts_keep_their_distance() -> None:
    cohort = Separated(kind="separated", size=2, separation=4)
    drawn = draw_cohorts(cohort, 9, 200, Seed(0))
    for number, one in enumerate(drawn):
        assert len(set(one)) == 2
        assert not set(one) & {client for other in drawn[max(0, number - 3) : number] for client in other}
    assert {client for one in drawn for client in one} == set(range(9))


# --- what is written --------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    names = ("rounds.jsonl", "ledger.jsonl", "result.json", "model.safetensors")
    found = [folder / name for name in names] + sorted((folder / "views").glob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(scope="module", params=PLANS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run(PLANS[request.param], tmp_path_factory.mktemp("plans") / "run")


def test_the_ledger_on_disk_gives_the_result_s_epsilon(finished: RunFolder) -> None:
    told, ledger = finished.result.privacy, Ledger.read(finished.path / "ledger.jsonl")
    assert told is not None
    assert ledger.epsilon() == told.epsilon == told.prices[0].epsilon == max(told.epsilon_clients)
    assert told.epsilon == pytest.approx(account(finished.config).epsilon) or told.plan == "client_central"
    assert told.unit == ledger.unit == "client"
    assert told.units == 10


def test_attacks_are_held_against_the_replacement_of_a_client_s_update(finished: RunFolder) -> None:
    """One example in or out leaves the client where it is: the curve and the ε of the attacks are those of replacement."""
    told, ledger = finished.result.privacy, Ledger.read(finished.path / "ledger.jsonl")
    assert told is not None
    replaced = ledger.histories("replace_one")
    assert told.attack_relation == "replace_one"
    assert told.attack_epsilon == accounting.largest_epsilon(replaced, told.delta) > told.epsilon
    assert told.curve_delta == accounting.curve(replaced, told.curve_epsilon).tolist()
    promised = _promised(finished, "external")
    assert promised is not None
    assert (promised.epsilon, list(promised.deltas)) == (told.attack_epsilon, told.curve_delta)
    words = {one.label: one.sentence for one in headlines(RunRecords.read(finished))}["Promised ε"]
    assert "One example more or less replaces its client's update" in words


def test_the_best_attack_on_one_example_of_a_client_is_within_the_bound(tmp_path: Path) -> None:
    """An update that is C without the example and −C with it, in each of R rounds with everybody: of two Gaussians 2C√R
    apart an attack tells as much as the bound of replacement allows, and more than that of removal does."""
    config = small(privacy=privacy("client_central", noise_multiplier=4.0), cohort={"kind": "all"}, server={"kind": "fedavg"})
    told = run(config, tmp_path / "run").result.privacy
    assert told is not None
    fpr = 0.01
    tpr = float(stats.norm.cdf(stats.norm.ppf(fpr) + 2 * np.sqrt(config.rounds) / 4.0))
    removal = accounting.curve([History({Gaussian(4.0): config.rounds})], told.curve_epsilon)
    assert tpr > tpr_bound(fpr, told.curve_epsilon, removal) + 0.05
    assert tpr <= tpr_bound(fpr, told.curve_epsilon, told.curve_delta) <= tpr + 0.01


def test_a_fixed_cohort_and_an_example_keep_their_own_relation(tmp_path: Path) -> None:
    fixed = small(privacy=privacy("client_central"), cohort={"kind": "fixed", "size": 5})
    for name, config, relation in (("fixed", fixed, "replace_one"), ("example", small(), "add_or_remove_one")):
        told = run(config, tmp_path / name).result.privacy
        assert told is not None
        assert told.relation == told.attack_relation == relation
        assert told.attack_epsilon == told.epsilon


def test_every_step_can_be_killed_and_no_release_is_drawn_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails at every write in turn. What was seen of a round before the failure is what is seen after it, and a
    round is entered once: with noise from the operating system too."""
    config = ADAPTIVE.model_copy(update={"rounds": 2})
    real = os.fsync
    reached = fatal = 0
    while reached >= fatal:
        fatal += 1
        calls = 0

        def full(descriptor: int, fatal: int = fatal) -> None:
            nonlocal calls, reached
            calls += 1
            reached = max(reached, calls)
            if calls == fatal:
                raise OSError(28, "No space left on device")
            real(descriptor)

        path = tmp_path / f"run{fatal}"
        monkeypatch.setattr(os, "fsync", full)
        before: dict[str, Any] = {}
        try:
            run(config, path)
        except StorageError:
            before = {one.name: load_file(one) for one in (path / "views").glob("*")} if (path / "views").exists() else {}
        monkeypatch.setattr(os, "fsync", real)
        run(config, path, resume=True)
        for name, seen in before.items():
            after = load_file(path / "views" / name)
            assert all(torch.equal(seen[key], after[key]) for key in seen), f"{name} after a failure at write {fatal}"
        assert Ledger.read(path / "ledger.jsonl").rounds == 2
        assert not (path / "noise.key").exists()
    assert fatal > 15


def test_spending_is_written_before_what_was_noised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(views, "observe", crash)
    with pytest.raises(KeyboardInterrupt):
        run(CENTRAL, tmp_path / "run")
    assert Ledger.read(tmp_path / "run" / "ledger.jsonl").rounds == 1
    assert not (tmp_path / "run" / "state.safetensors").exists()


def test_secure_noise_is_of_no_seed(tmp_path: Path) -> None:
    first, second = (run(LOCAL, tmp_path / name) for name in ("one", "two"))
    assert (first.path / "model.safetensors").read_bytes() != (second.path / "model.safetensors").read_bytes()
    seeded = small(privacy=privacy("client_local"), server={"kind": "fedavgm"})
    third, fourth = (run(seeded, tmp_path / name) for name in ("three", "four"))
    assert contents(third.path) == contents(fourth.path)


def test_a_secure_run_without_its_key_does_not_go_on(tmp_path: Path) -> None:
    def interrupt(record: Any, timing: object) -> None:
        if record.round == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(LOCAL, tmp_path / "run", observer=interrupt)
    key = tmp_path / "run" / "noise.key"
    assert key.stat().st_mode & 0o777 == 0o600
    key.unlink()
    with pytest.raises(RunFolderError, match=r"noise\.key is missing"):
        run(LOCAL, tmp_path / "run", resume=True)


def test_an_empty_cohort_is_a_round_of_the_run(tmp_path: Path) -> None:
    config = small(
        rounds=12, privacy=privacy("client_central"), cohort={"kind": "poisson", "size": 1}, server={"kind": "fedavg"}
    )
    folder = run(config, tmp_path / "run")
    records = folder.rounds()
    assert any(not record.cohort for record in records)
    assert all(record.skipped is None for record in records)
    assert Ledger.read(folder.path / "ledger.jsonl").rounds == 12


def test_the_client_s_view_does_not_tell_who_took_part(finished: RunFolder) -> None:
    view = views.open_view(finished, "client", assemble(finished.config).layout)
    assert not hasattr(view, "participants")


def server_view(folder: RunFolder) -> views.ServerView:
    view = views.open_view(folder, "server", assemble(folder.config).layout)
    assert isinstance(view, views.ServerView)
    return view


@pytest.mark.parametrize("aggregator", ["mean", "secure_sum"])
def test_the_server_s_view_holds_the_count_apart_from_the_sum(aggregator: str, tmp_path: Path) -> None:
    """Cohorts of nobody and of one are among these: beside the one stand-ins send zeros, of a client's weight, and count
    nothing. They are drawn from the seed; the operating system would draw others each time."""
    config = small(
        rounds=12,
        privacy=privacy("client_central", noise_multiplier=0.05, clipping="adaptive"),
        cohort={"kind": "poisson", "size": 1},
        server={"kind": "fedavg"},
        aggregator={"kind": aggregator},
    )
    folder = run(config, tmp_path / "run")
    assert {0, 1} < {len(record.cohort) for record in folder.rounds()}
    view = server_view(folder)
    for record in folder.rounds():
        if not record.cohort:
            with pytest.raises(ViewError, match="nobody's update arrived"):
                view.sums(record.round)
            continue
        assert record.clipped_share is not None
        sum_D, weight = view.sums(record.round)
        assert sum_D.shape == view.model_before(record.round).shape
        senders = max(len(record.cohort), 3) if aggregator == "secure_sum" else len(record.cohort)
        assert weight == len(record.survivors) == senders
        within = round((1 - record.clipped_share) * len(record.cohort))
        assert view.count(record.round) == within - len(record.cohort) / 2
        if aggregator == "mean":
            assert view.updates(record.round)[0].shape == (len(record.cohort), len(sum_D))
    fixed = run(CENTRAL, tmp_path / "fixed")
    with pytest.raises(ViewError, match="nothing was counted"):
        server_view(fixed).count(0)


# --- the card ---------------------------------------------------------------------------------------------------------


def test_the_card_says_what_is_promised(finished: RunFolder) -> None:
    told = as_json(RunRecords.read(finished))
    promise = told["promise"]
    assert json.loads(json.dumps(told)) == told
    assert told["delta_against"] == "1/10"
    assert promise["unit"] == "client"
    assert {"Protected", "From whom", "Neighbouring", "Sampler", "ε by accountant", "δ", "Randomness"} <= set(told["terms"])
    assert "Tuning" in told["not_covered"]
    stamped = "Seeded: not private against someone who knows the seed." in told["terms"]["Randomness"]
    assert stamped == (promise["randomness"] == "seeded")
    assert ("The server is trusted" in told["terms"]["From whom"]) == ("server" not in promise["adversaries"])


def test_an_imagined_population_is_told_apart_on_every_page(tmp_path: Path) -> None:
    from privfl.report import summary_table, write_report

    imagined = {"population": 1_000_000, "cohort": 5000}
    config = small(privacy=privacy("client_central", imagined=imagined, delta=1e-7), aggregator={"kind": "mean"})
    folder = run(config, tmp_path / "run")
    told = folder.result.privacy
    assert told is not None
    assert told.extrapolated is not None
    assert told.extrapolated.epsilon < 1 < 1e5 < told.epsilon
    (headline,) = [one for one in headlines(RunRecords.read(folder)) if one.label == "Promised ε"]
    assert "executed" in headline.terms
    assert "extrapolated" in headline.terms
    assert summary_table(folder).row_count
    page = write_report([folder], folder.path / "report.html").read_text()
    assert "Executed, not extrapolated" in page
    assert json.loads((folder.path / "privacy_card.json").read_text())["promise"]["extrapolated"]["cohort"] == 5000


# --- several runs on the same data ------------------------------------------------------------------------------------


def test_runs_on_the_same_data_add_up(tmp_path: Path) -> None:
    folders = [
        run(small(privacy=privacy("client_central", noise_multiplier=noise)), tmp_path / str(noise)) for noise in (1.0, 2.0)
    ]
    rows = compose(folders)
    # Two samples, each drawn for itself; were they one, it would be that of a single Gaussian of multiplier (1 + 1/4)^(-1/2).
    cohorts = [[record.cohort for record in folder.rounds()] for folder in folders]
    assert cohorts[0] != cohorts[1]
    both = History({PoissonGaussian(0.5, 1.0): 4, PoissonGaussian(0.5, 2.0): 4})
    assert rows[1].together == pytest.approx(accounting.epsilon(both, 1e-2))
    shared = History({PoissonGaussian(0.5, (1 + 1 / 4) ** -0.5): 4})
    assert accounting.epsilon(shared, 1e-2) > rows[1].together
    assert rows[0].together == rows[0].alone < rows[1].together
    with pytest.raises(RunFolderError, match="named twice"):
        compose([folders[0], folders[0]])
    examples = run(small(), tmp_path / "examples")
    with pytest.raises(RunFolderError, match="unit is example"):
        compose([folders[0], examples])
    other = run(small(seed=1, privacy=privacy("client_central")), tmp_path / "other")
    with pytest.raises(RunFolderError, match="differ from those of"):
        compose([folders[0], other])


@pytest.mark.parametrize("kind", ["poisson", "fixed"])
def test_runs_of_one_seed_draw_cohorts_of_their_own(kind: str) -> None:
    check_runs_of_one_seed_draw_cohorts_of_their_own(kind)


def check_runs_of_one_seed_draw_cohorts_of_their_own(kind: str = "poisson") -> None:
    """Whatever the settings differ in: that the noise is calibrated to the cohorts is no way around it."""
    cohort = {"kind": kind, "size": 5}
    plans = [privacy("client_central", noise_multiplier=noise) for noise in (1.0, 2.0)]
    plans += [privacy("client_central", noise_multiplier=None, target_epsilon=epsilon) for epsilon in (5.0, 8.0)]
    drawn = [assemble(small(rounds=30, privacy=plan, cohort=cohort)).cohorts for plan in plans]
    assert len(set(drawn)) == 4
    for one, other in ((drawn[0], drawn[1]), (drawn[2], drawn[3])):
        # Each client is in half of 30 cohorts, and the same ones by chance: 150 of 300 agree, with deviation 8.7.
        agreeing = sum((client in a) == (client in b) for a, b in zip(one, other, strict=True) for client in range(10))
        assert agreeing < 150 + 4.5 * 8.7


def test_runs_that_drew_the_same_are_not_added_up(tmp_path: Path) -> None:
    """Whatever moves no message makes no other run; noise from the operating system does."""
    again = CENTRAL.model_copy(update={"name": "again"})
    folders = [run(config, tmp_path / config.name) for config in (CENTRAL, again)]
    with pytest.raises(RunFolderError, match=r"drew the same cohorts, batches and noise as .*leave the other out") as caught:
        compose(folders)
    assert "\n" not in str(caught.value)
    secure = small(privacy=privacy("client_central", randomness="secure"), aggregator={"kind": "mean"})
    folders = [run(secure, tmp_path / name) for name in ("one", "two")]
    both = accounting.epsilon(History({PoissonGaussian(0.5, 1.0): 8}), 1e-2)
    assert compose(folders)[1].together == pytest.approx(both)


@pytest.mark.parametrize("kind", ["client_central", "client_local", "client_dpftrl", "client_distributed"])
def test_client_level_training_learns(kind: str) -> None:
    """With next to no noise every plan learns; a broken sign or denominator would not."""
    cohort = {"kind": "poisson", "size": 5} if kind == "client_central" else {"kind": "separated", "size": 3, "separation": 3}
    more = {"survivors": 2} if kind == "client_distributed" else {}
    plan = privacy(kind, noise_multiplier=1e-4, max_update_norm=1.0, **more)
    experiment = assemble(small(rounds=30, privacy=plan, cohort=cohort, server={"kind": "fedavg"}))
    if kind == "client_distributed":
        experiment = replace(experiment, aggregator=CodedSum(kind="coded"))
    with deterministic():
        logits = experiment.logits(experiment.train(), experiment.test_x)
    assert (logits.argmax(1).numpy() == experiment.data.test.y).mean() > 0.8
