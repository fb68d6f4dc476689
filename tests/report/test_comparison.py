"""Several runs side by side."""

from __future__ import annotations

import math
import re
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_runs import Made, make
from page_reader import Reader
from scipy import stats
from small_runs import small

from privfl.records import Extrapolated
from privfl.report import write_report
from privfl.report.comparison import columns, compared, drawings, settings
from privfl.report.differences import differences
from privfl.report.drawing import SERIES, line_style, marker, style
from privfl.report.pairing import how_paired
from privfl.report.run_records import RunRecords
from privfl.running.recording import run as begin
from privfl.running.run_folder import RunFolder


@pytest.fixture(scope="session")
def none(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    overrides = ["privacy.kind=none", "aggregator.kind=mean"]
    return make(tmp_path_factory.mktemp("none") / "none", Made(name="plain", overrides=overrides, accuracy=0.885, leak=4))


def test_comparison_holds_every_run(quickstart: RunFolder, none: RunFolder, tmp_path: Path) -> None:
    (none.path / "report.html").touch()
    out = write_report([quickstart, none, quickstart], tmp_path / "sides.html")
    html = out.read_text()
    reader = Reader(html)
    for run in (quickstart, none):
        assert f"{run.result.evaluation.headline.value * 100:.1f} %" in reader.text
    assert "no promise" in reader.text
    assert "2 settings, 2 runs" in reader.text, "a run that is given twice counts once"
    assert any(reference.endswith("none/report.html") for reference in reader.references)
    assert "http" not in html
    assert len(reader.ids) == len(set(reader.ids))
    written = {file.name for file in (tmp_path / "sides_figures").iterdir()}
    names = ("utility", "leakage", "pareto", "adversaries", "measured_epsilon", "cost", "rocs", "accuracies", "epsilons")
    assert written == {f"{name}.{suffix}" for name in names for suffix in ("svg", "csv")}
    assert not (tmp_path / "sides_tables").exists()
    write_report([quickstart, none], tmp_path / "sides.html", papers=True)
    assert {file.name for file in (tmp_path / "sides_tables").iterdir()} == {
        f"comparison.{end}" for end in ("csv", "md", "tex")
    }


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecords]:
    """Three seeds without a promise, and two of them with one."""
    root = tmp_path_factory.mktemp("seeds")
    plain = ["privacy.kind=none", "aggregator.kind=mean"]
    made = [
        Made(
            name="plain",
            overrides=[f"seed={seed}", *plain],
            accuracy=0.88 + 0.01 * seed,
            leak=4,
            epsilon_lower=2.0 + seed,
        )
        for seed in range(3)
    ]
    made += [Made(overrides=[f"seed={seed}"], accuracy=0.80 + 0.01 * seed) for seed in range(2)]
    return [RunRecords.read(make(root / f"{place}", one)) for place, one in enumerate(made)]


def test_seeds_are_folded(seeds: list[RunRecords], tmp_path: Path) -> None:
    named = settings(seeds)
    assert [(label.replace("\u00a0", " "), len(point.runs)) for label, point in named] == [
        ("no promise, mean", 3),
        ("ε = 8, secure_sum", 2),
    ]
    found = dict(columns(named))
    values = [run.result.evaluation.headline.value for run in seeds[:3]]
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    half = 4.302653 * deviation / math.sqrt(3)
    said, under = (text.replace("\u202f", " ").replace("\u00a0", " ") for text in found["test accuracy"][0])
    assert said == f"{mean * 100:.1f} %"
    assert under == f"{(mean - half) * 100:.1f} % – {(mean + half) * 100:.1f} %\ndeviation {deviation * 100:.1f} %"
    assert found["measured ε"][0][0] == "≥ 3.00"
    text = Reader(write_report([RunFolder(run.path) for run in seeds], tmp_path / "sides.html").read_text()).text
    assert "Figures are means over 2 runs or more" in text
    assert "seed 0, seed 1, seed 2" in text


def test_columns_that_do_not_vary_are_left_out(seeds: list[RunRecords]) -> None:
    assert [heading for heading, _ in columns(settings(seeds[:3]))][1:2] == ["promised ε"], "a single setting has all columns"
    varying = [replace(run, config=run.config.model_copy(update={"rounds": 30})) for run in seeds[:3]]
    elsewhere = [replace(run, path=run.path / "copy") for run in varying]
    assert [heading for heading, _ in columns(settings([*seeds[:3], *elsewhere]))] == ["test accuracy"]


def test_a_difference_says_over_how_many_seeds(seeds: list[RunRecords]) -> None:
    (one,) = compared(settings(seeds))
    values = [[run.result.evaluation.headline.value for run in part] for part in (seeds[:3], seeds[3:])]
    difference = statistics.mean(values[1]) - statistics.mean(values[0])
    interval = stats.ttest_ind(values[1], values[0], equal_var=False).confidence_interval(0.95)
    said = [text.replace("\u202f", " ") for text in one.quality]
    assert said[0] == f"−{abs(difference) * 100:.1f} points"
    low, high = (f"{'−' if end < 0 else '+'}{abs(end) * 100:.1f} points" for end in (interval.low, interval.high))
    assert said[1] == f"{low} to {high}"
    assert one.how == "unpaired, 2 against 3 seeds"
    (alone,) = compared(settings([seeds[0], seeds[3]]))
    assert alone.quality[1] == "no interval"
    assert alone.how == "unpaired, 1 against 1 seed: it may be chance"


def test_the_difference_of_paired_runs_is_that_within_seeds(seeds: list[RunRecords]) -> None:
    first = [with_streams(run, f"{run.config.seed}bcd") for run in seeds[:3]]
    other = [replace(run, config=run.config.model_copy(update={"rounds": 30}), path=run.path / "copy") for run in first]
    (one,) = compared(settings([*first, *other]))
    assert one.how == "paired, over 3 seeds"
    assert [text.replace("\u202f", " ") for text in one.quality] == ["+0.0 points", "+0.0 points to +0.0 points"]


def test_runs_without_promise_or_attack_compare(tmp_path: Path) -> None:
    overrides = ["privacy.kind=none", "aggregator.kind=mean"]
    folders = [make(tmp_path / name, Made(name=name, overrides=overrides, attacked=False)) for name in ("one", "two")]
    text = Reader(write_report(folders, tmp_path / "sides.html").read_text()).text
    assert "These runs have the same settings" in text
    assert "not measured" in text


def test_differences(quickstart: RunFolder, none: RunFolder) -> None:
    found = dict(differences([RunRecords.read(quickstart), RunRecords.read(none)]))
    assert found["privacy.kind"] == ["example", "none"]
    assert found["privacy.target_epsilon"] == ["8", "–"]
    assert found["aggregator.kind"] == ["secure_sum", "mean"]
    assert not {"name", "seed", "rounds", "data.kind"} & set(found)


def test_names_of_settings_do_not_repeat(quickstart: RunFolder) -> None:
    run = RunRecords.read(quickstart)
    plans = [replace(run, path=run.path / f"{lr}", config=run.config.model_copy(update={"rounds": lr})) for lr in range(60)]
    other = [replace(one, path=one.path / "x", config=one.config.model_copy(update={"name": "other"})) for one in plans]
    labels = [label for label, _ in settings([*plans, *other])]
    assert len(labels) == len(set(labels)) == 60


def test_no_two_of_many_runs_are_drawn_alike() -> None:
    assert len({(SERIES[index % 4], marker(index)) for index in range(32)}) == 32
    assert len({(*line_style(index).values(), marker(index)) for index in range(32)}) == 32


def test_the_axis_of_promises_marks_those_that_were_run(seeds: list[RunRecords]) -> None:
    with style():
        (drawn, *_) = drawings(settings(seeds))
    axis = drawn.svg.partition('id="utility-matplotlib.axis_1"')[2].partition('id="utility-matplotlib.axis_2"')[0]
    assert re.findall(r">(\w+)</text>", axis) == ["8", "none"]


def test_executed_and_extrapolated_stand_apart(quickstart: RunFolder, tmp_path: Path) -> None:
    """The larger figure is the run's, in the table, in the figure and in its words; the other is said to be of no run."""
    wide = Extrapolated(population=10**6, cohort=5000, noise_multiplier=0.8, epsilon=2.04)
    plain = RunRecords.read(quickstart)
    assert plain.result.privacy is not None
    privacy = plain.result.privacy.model_copy(update={"extrapolated": wide, "epsilon": 61_234.0})
    imagined = replace(plain, result=plain.result.model_copy(update={"privacy": privacy}))
    imagined = replace(imagined, path=tmp_path, config=imagined.config.model_copy(update={"rounds": 30}))
    named = settings([plain, imagined])
    one, other = dict(columns(named))["promised ε"]
    assert other[0] == "61,234"
    assert other[1] == f"executed, {one[1]}; the extrapolated ε = 2.04 belongs to no run"
    assert "extrapolated" not in one[1]
    assert [point.target for _, point in named] == [8, 61_234.0], "a figure has it at the ε that it executed"
    made = tmp_path / "imagined"
    shutil.copytree(quickstart.path, made)
    config = made / "config.toml"
    config.write_text(config.read_text().replace("rounds = 20", "rounds = 30"))
    result = made / "result.json"
    result.write_text(imagined.result.model_dump_json())
    text = Reader(write_report([quickstart, RunFolder(made)], tmp_path / "sides.html").read_text()).text
    assert "the extrapolated ε = 2.04 belongs to no run" in text


def with_streams(run: RunRecords, names: Sequence[str | None]) -> RunRecords:
    """The run's first rounds, with those names of their randomness and one cohort."""
    records = [
        record.model_copy(update={"streams": name, "cohort": [1, 2]}) for record, name in zip(run.rounds, names, strict=False)
    ]
    return replace(run, rounds=records)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("abcd", "paired"),
        ("ab", "paired"),
        ("abcx", "paired in the first 3 rounds of 4, unpaired from there"),
        ("axcd", "paired in the first round of 4, unpaired from there"),
        ("xbcd", "unpaired"),
        ([None] * 4, "unpaired"),
    ],
)
def test_runs_of_one_chance_are_said_to_be_paired(names: Sequence[str | None], said: str, quickstart: RunFolder) -> None:
    run = RunRecords.read(quickstart)
    first, other = with_streams(run, "abcd"), with_streams(run, names)
    assert how_paired([(first, other)]) == said
    assert how_paired([(first, first), (first, other)]) == said, "one pair that is not spoils the others"


def test_other_cohorts_or_other_data_are_no_pair(quickstart: RunFolder) -> None:
    run = with_streams(RunRecords.read(quickstart), "abcd")
    elsewhere = replace(run, rounds=[record.model_copy(update={"cohort": [3]}) for record in run.rounds])
    grown = replace(run, partition=run.partition.model_copy(update={"digest": "another"}))
    assert how_paired([(run, elsewhere)]) == how_paired([(run, grown)]) == how_paired([]) == "unpaired"


def test_the_page_says_which_runs_are_paired(tmp_path: Path) -> None:
    """A run and the same evaluated less often; and one whose aggregator rounds otherwise, from the second round on."""
    changes: list[dict[str, Any]] = [
        {},
        {"evaluation": {"every": 2}},
        {"aggregator": {"kind": "mean"}},
        {"privacy": {"kind": "none"}},
    ]
    folders = [begin(small(rounds=2, **change), tmp_path / str(place)) for place, change in enumerate(changes)]
    text = Reader(write_report(folders, tmp_path / "sides.html").read_text()).text
    for said in ("paired in the first round of 2, unpaired from there", "unpaired, 1 against 1 seed: it may be chance"):
        assert said in text
    records = [RunRecords.read(folder) for folder in folders]
    assert [how_paired([(records[0], other)]) for other in records[1:]] == [
        "paired",
        "paired in the first round of 2, unpaired from there",
        "unpaired",
    ]
