"""Sweeps: every combination once, a failing run takes no other with it, and what is done is not done again."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import small

from privfl.errors import ConfigError
from privfl.loading import dump, load
from privfl.running import sweeping
from privfl.running.run_folder import RunFolder
from privfl.running.sweeping import EndedRun, Variant, run_locally, run_on_cluster, run_one, variants


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(dump(small(rounds=1)))
    return path


def names(config: Path, *settings: str) -> list[str]:
    return [variant.name for variant in variants(config, settings)]


def test_every_combination_of_values(config: Path) -> None:
    found = variants(config, ["seed=0..2", "training.lr=0.1,0.2", "rounds=2"])
    assert len(found) == 6
    assert found[1].overrides == ("seed=0", "training.lr=0.2", "rounds=2")
    # What does not move is not in the name.
    assert [one.name for one in found][:2] == ["seed=0,training.lr=0.1", "seed=0,training.lr=0.2"]
    assert names(config) == ["run"]


def test_commas_in_brackets_and_quotes_part_no_values(config: Path) -> None:
    assert names(config, "model.kind=mlp", "model.hidden=[8,8],[16]") == ["model.hidden=_8,8_", "model.hidden=_16_"]
    assert names(config, 'name="a"') == ["run"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["seed"], "override 'seed': must be KEY=VALUE, or KEY=VALUE,VALUE,... to try each"),
        (["seed=1", "seed=2"], "override 'seed=2': seed is given twice; name all its values at once, seed=VALUE,VALUE"),
        (["training.lr=0.1,-1"], "training.lr = -1"),
        (["training.lrr=0.1,1"], "training.lrr"),
    ],
)
def test_a_combination_that_is_none_is_refused_before_anything_runs(config: Path, settings: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        variants(config, settings)
    assert said in str(caught.value)


def test_a_sweep_goes_on_where_it_was(config: Path, tmp_path: Path) -> None:
    chosen, out, heard = variants(config, ["seed=0..1"]), tmp_path / "sweep", list[EndedRun]()
    ended = run_locally(config, chosen, out, jobs=2, gpus=0, observer=heard.append)
    assert [one.code for one in ended] == [0, 0]
    assert {one.variant.name for one in heard} == {"seed=0", "seed=1"}
    before = [RunFolder.open(one.folder).result for one in ended]
    assert before[0] != before[1]
    stamps = [(one.folder / "model.safetensors").stat().st_mtime_ns for one in ended]
    again = run_locally(config, chosen, out, jobs=1, gpus=0)
    assert [one.code for one in again] == [0, 0]
    assert [(one.folder / "model.safetensors").stat().st_mtime_ns for one in again] == stamps


def test_each_job_has_a_card_of_those_that_it_may_use(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that lends cards 2 and 5 of a machine says so in the environment."""
    given: list[str] = []

    def noted(config: Path, variant: Variant, out: Path, environment: Mapping[str, str], overwrite: bool) -> EndedRun:
        given.append(environment["CUDA_VISIBLE_DEVICES"])
        return EndedRun(variant, out, 0, "")

    monkeypatch.setattr(sweeping, "run_one", noted)
    for visible, expected in (("2,5", ["2", "5"]), (None, ["0", "1"])):
        given.clear()
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        run_locally(config, variants(config, ["seed=0..3"]), tmp_path, jobs=2, gpus=2)
        assert sorted(set(given)) == expected


def test_a_run_that_fails_says_why(config: Path, tmp_path: Path) -> None:
    chosen = variants(config, ["data.holdout=0.2"])
    (tmp_path / "sweep" / "run").mkdir(parents=True)
    (tmp_path / "sweep" / "run" / "mine.txt").write_text("not a run")
    ended = run_one(config, chosen[0], tmp_path / "sweep", {})
    assert ended.code == 2
    assert "is neither empty nor a run folder; choose another folder" in ended.words


# Submitit leaves its own log files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_job_array(config: Path, tmp_path: Path) -> None:
    # Submitit's own stand-in for a scheduler runs the very jobs, one after another, in this process.
    chosen = variants(config, ["seed=5"])
    ended = run_on_cluster(config, chosen, tmp_path / "sweep", cluster="debug", parameters={"timeout_min": 5})
    assert [one.code for one in ended] == [0]
    assert RunFolder.open(ended[0].folder).finished
    with pytest.raises(ConfigError, match="submitit refuses"):
        run_on_cluster(config, chosen, tmp_path / "sweep", cluster="debug", parameters={"nonesuch": 5})


def test_an_infinite_target_is_no_promise(config: Path) -> None:
    settings = ["privacy.target_epsilon=inf,8", "privacy.noise_multiplier=", "privacy.max_grad_norm=2", "rounds=1"]
    bare, private = variants(config, settings)
    assert bare.name == "privacy.target_epsilon=inf"
    assert set(bare.overrides) == {"rounds=1", "privacy=none"}
    assert load(config, *bare.overrides).privacy.kind == "none"
    assert "privacy.target_epsilon=8" in private.overrides


def test_impossible_combinations_are_named_and_the_others_stay(config: Path) -> None:
    found, refused = sweeping.possible(config, ["training.lr=0.1,-1", "seed=0..1"])
    assert [one.name for one in found] == ["training.lr=0.1,seed=0", "training.lr=0.1,seed=1"]
    assert [one.name for one in refused] == ["training.lr=-1,seed=0", "training.lr=-1,seed=1"]
    assert all("training.lr = -1" in one.error for one in refused)
    with pytest.raises(ConfigError, match=r"training\.lr = -1"):
        sweeping.possible(config, ["training.lr=-1,-2"])


def test_attacks_follow_a_run_in_place_of_its_own_and_are_not_repeated(config: Path, tmp_path: Path) -> None:
    (variant,) = variants(config, ["attacks.shadow_models=0"])
    ended = run_one(config, replace(variant, attacks=("membership/loss", "membership/entropy")), tmp_path, {})
    assert ended.code == 0, ended.words
    folder = RunFolder.open(ended.folder)
    (found,) = folder.findings
    assert set(found.rounds_by_attack()) == {"membership/loss", "membership/entropy"}
    assert folder.config.attacks.run == ()
    before = (folder.path / "attacks" / "summary.json").stat().st_mtime_ns
    assert run_one(config, replace(variant, attacks=("all",)), tmp_path, {}).code == 0
    assert (folder.path / "attacks" / "summary.json").stat().st_mtime_ns == before


def test_a_list_of_points_in_place_of_a_grid(config: Path) -> None:
    points = ["privacy.target_epsilon=inf aggregator.kind=mean", "training.lr=0.25", "training.lr=-1"]
    found, refused = sweeping.possible(config, ["seed=0..1", "rounds=1"], points)
    assert [one.name for one in found] == [
        "privacy.target_epsilon=inf,aggregator.kind=mean,seed=0",
        "privacy.target_epsilon=inf,aggregator.kind=mean,seed=1",
        "training.lr=0.25,seed=0",
        "training.lr=0.25,seed=1",
    ]
    assert found[0].overrides == ("seed=0", "rounds=1", "aggregator.kind=mean", "privacy=none")
    assert [one.name for one in refused] == ["training.lr=-1,seed=0", "training.lr=-1,seed=1"]
    alone, _ = sweeping.possible(config, [], ["training.lr=0.25"])
    assert [one.name for one in alone] == ["training.lr=0.25"]
