"""Several runs side by side."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_runs import Made, make
from page_reader import Reader
from small_runs import small

from privfl.records import Extrapolated
from privfl.report import write_report
from privfl.report.comparison import differences, drawings, finding_kinds, row, tagged
from privfl.report.drawing import SERIES, line_style, marker, style
from privfl.report.pairing import pairings
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
    assert "C: ε = 7.99" in reader.text
    assert any(reference.endswith("none/report.html") for reference in reader.references)
    assert "http" not in html
    assert len(reader.ids) == len(set(reader.ids))
    written = {file.name for file in (tmp_path / "sides_figures").iterdir()}
    assert written == {"promise.svg", "leakage.svg", "accuracies.svg", "epsilons.svg"}


def test_runs_without_promise_or_attack_compare(tmp_path: Path) -> None:
    overrides = ["privacy.kind=none", "aggregator.kind=mean"]
    folders = [make(tmp_path / name, Made(name=name, overrides=overrides, attacked=False)) for name in ("one", "two")]
    text = Reader(write_report(folders, tmp_path / "sides.html").read_text()).text
    assert "Only the names differ" in text
    assert "not measured" in text


def test_differences(quickstart: RunFolder, none: RunFolder) -> None:
    found = dict(differences([RunRecords.read(quickstart), RunRecords.read(none)]))
    assert found["privacy.kind"] == ["example", "none"]
    assert found["privacy.target_epsilon"] == ["8", "–"]
    assert found["aggregator.kind"] == ["secure_sum", "mean"]
    assert not {"name", "seed", "rounds", "data.kind"} & set(found)


def test_tags_do_not_repeat(quickstart: RunFolder) -> None:
    tags = [tag for tag, _ in tagged([RunRecords.read(quickstart)] * 60)]
    assert tags[:2] == ["A", "B"]
    assert len(set(tags)) == 60


def test_no_two_of_many_runs_are_drawn_alike() -> None:
    assert len({(SERIES[index % 4], marker(index)) for index in range(32)}) == 32
    assert len({(*line_style(index).values(), marker(index)) for index in range(32)}) == 32


def test_an_axis_of_many_promises_marks_what_was_run(quickstart: RunFolder) -> None:
    plain = RunRecords.read(quickstart)
    assert plain.result.privacy is not None
    promised = [0.5, 0.75, 1.5, 3.0, 3.1, 6.0, 12.0]
    runs = []
    for value in promised:
        privacy = plain.result.privacy.model_copy(update={"epsilon": value})
        runs.append(replace(plain, result=plain.result.model_copy(update={"privacy": privacy})))
    with style():
        (drawn, *_) = drawings(tagged(runs))
    axis = drawn.svg.partition('id="promise-matplotlib.axis_1"')[2].partition('id="promise-matplotlib.axis_2"')[0]
    ticks = [float(text) for text in re.findall(r">([\d.]+)</text>", axis)]
    assert ticks == [0.5, 0.75, 1.5, 3.0, 6.0, 12.0]


def test_executed_and_extrapolated_stand_apart(quickstart: RunFolder, tmp_path: Path) -> None:
    """The larger figure is the run's, in the table, in the figure and in its words; the other is said to be of no run."""
    wide = Extrapolated(population=10**6, cohort=5000, noise_multiplier=0.8, epsilon=2.04)
    plain = RunRecords.read(quickstart)
    assert plain.result.privacy is not None
    privacy = plain.result.privacy.model_copy(update={"extrapolated": wide, "epsilon": 61_234.0})
    imagined = replace(plain, result=plain.result.model_copy(update={"privacy": privacy}))
    (one, other) = (row(run, "A", None, finding_kinds([plain, imagined])) for run in (plain, imagined))
    assert other.promised[0] == "61,234"
    assert other.promised[1] == f"executed, {one.promised[1]}; the extrapolated ε = 2.04 belongs to no run"
    assert "extrapolated" not in one.promised[1]
    with style():
        (promise, *_) = drawings([("A", plain), ("B", imagined)])
    assert "B: ε = 61,234 executed, 2.04 extrapolated" in promise.alt
    assert "A: ε = 7.99, " in promise.alt
    assert "the ε of the noise that it executed" in promise.caption
    made = tmp_path / "imagined"
    shutil.copytree(quickstart.path, made)
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
        ("abcd", "paired with A"),
        ("ab", "paired with A"),
        ("abcx", "paired with A in the first 3 rounds of 4, unpaired from there"),
        ("axcd", "paired with A in the first round of 4, unpaired from there"),
        ("xbcd", "unpaired"),
        ([None] * 4, "unpaired"),
    ],
)
def test_runs_of_one_chance_are_said_to_be_paired(names: Sequence[str | None], said: str, quickstart: RunFolder) -> None:
    run = RunRecords.read(quickstart)
    first, other = with_streams(run, "abcd"), with_streams(run, names)
    assert pairings(tagged([first, other])) == ["", said]
    # Of several the one with which it has most in common, whatever comes between them.
    between = with_streams(run, "stuv")
    assert pairings(tagged([first, between, other])) == ["", "unpaired", said]


def test_other_cohorts_or_other_data_are_no_pair(quickstart: RunFolder) -> None:
    run = with_streams(RunRecords.read(quickstart), "abcd")
    elsewhere = replace(run, rounds=[record.model_copy(update={"cohort": [3]}) for record in run.rounds])
    grown = replace(run, partition=run.partition.model_copy(update={"digest": "another"}))
    assert pairings(tagged([run, elsewhere, grown])) == ["", "unpaired", "unpaired"]
    assert pairings([]) == []


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
    for said in ("paired with A", "paired with A in the first round of 2, unpaired from there", "unpaired"):
        assert said in text
    assert pairings(tagged([RunRecords.read(folder) for folder in folders]))[1:] == [
        "paired with A",
        "paired with A in the first round of 2, unpaired from there",
        "unpaired",
    ]
