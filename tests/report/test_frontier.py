"""The frontier: means over seeds, the front, sentences that agree with the table, and files for papers."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_runs import Made, make
from page_reader import Reader
from scipy import stats

from privfl.errors import ConfigError
from privfl.records import Interval
from privfl.report import table_files
from privfl.report.drawing import COLOURS, style
from privfl.report.frontier import figures, tables, verdict
from privfl.report.frontier.page import write_frontier
from privfl.report.frontier.points import Frontier, frontier, over_seeds
from privfl.report.run_records import RunRecords
from privfl.running.run_folder import RunFolder

PLAIN = ("privacy.kind=none", "aggregator.kind=mean")
SETTINGS: dict[str, tuple[tuple[str, ...], float, float]] = {
    "bare": (PLAIN, 0.89, 8.0),
    "hidden": (("privacy.kind=none",), 0.885, 7.0),
    "eight": ((), 0.81, 1.2),
    "two": (("privacy.target_epsilon=2",), 0.74, 1.0),
}
"""Name -> overrides, accuracy, leak."""


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    place = tmp_path_factory.mktemp("frontier")
    return [
        make(
            place / f"{name}{seed}",
            Made(
                name="made", overrides=(*overrides, f"seed={seed}"), accuracy=accuracy + 0.01 * seed, leak=leak, nonmembers=6000
            ),
        )
        for name, (overrides, accuracy, leak) in SETTINGS.items()
        for seed in (0, 1, 2)
    ]


@pytest.fixture(scope="session")
def found(folders: Sequence[RunFolder]) -> Frontier:
    return frontier([RunRecords.read(folder) for folder in folders], {})


def plain(text: str) -> str:
    """With spaces that break."""
    return text.replace("\u00a0", " ")


def test_the_mean_over_seeds_has_students_interval() -> None:
    values = [0.81, 0.83, 0.80, 0.86]
    got = over_seeds(values)
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert [got.low, got.high] == pytest.approx(list(expected))
    assert got.seeds == 4
    assert got.half == pytest.approx((expected[1] - expected[0]) / 2)
    alone = over_seeds([0.5], Interval(value=0.5, low=0.4, high=0.7, n=9))
    assert [alone.low, alone.high, alone.half] == pytest.approx([0.4, 0.7, 0.15])
    assert alone.seeds == 1
    wide = over_seeds([0.02, 0.98], share=True)
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_the_interval_covers() -> None:
    # 2,000 frontiers of 3 seeds. 95 % cover; a share below 93 % has a probability of 4e-5 if they do.
    generator = np.random.default_rng(0)
    drawn = [over_seeds(list(generator.normal(0.7, 0.02, 3))) for _ in range(2000)]
    assert np.mean([one.low <= 0.7 <= one.high for one in drawn]) > 0.93


def test_runs_that_differ_in_their_seed_alone_are_one_point(found: Frontier) -> None:
    assert [plain(point.words) for point in found.points] == [
        "no promise, mean",
        "no promise, secure_sum",
        "ε = 8, secure_sum",
        "ε = 2, secure_sum",
    ]
    # A mean has no bits and no promise has no clipping norm: only the choices themselves are settings.
    assert found.keys == ("aggregator.kind",)
    assert all(point.seeds == (0, 1, 2) for point in found.points)
    for point in found.points:
        assert point.quality.value == pytest.approx(
            np.mean([run.result.evaluation.headline.value for run in point.runs]), abs=1e-12
        )


def test_settings_of_an_item_count_if_they_vary_among_its_runs(folders: Sequence[RunFolder], tmp_path: Path) -> None:
    other = make(tmp_path / "bits", Made(name="made", overrides=("aggregator.bits=20",)))
    got = frontier([RunRecords.read(folder) for folder in (*folders, other)], {})
    assert got.keys == ("aggregator.kind", "aggregator.bits")
    assert plain(got.points[-1].words) == "ε = 8, secure_sum, bits 20"


def test_different_data_are_refused(folders: Sequence[RunFolder], tmp_path: Path) -> None:
    other = make(tmp_path / "other", Made(name="made", overrides=("data.partition.alpha=0.5",)))
    with pytest.raises(ConfigError, match=r"data\.partition\.alpha: 1\.0 in one run and 0\.5 in another; .* make a frontier"):
        frontier([RunRecords.read(folder) for folder in (*folders, other)], {})


def test_the_verdict_says_what_the_table_says(found: Frontier) -> None:
    sentences = verdict.sentences(found)
    assert [sentence.split()[0] for sentence in sentences] == ["Without", "With", "With", "With"]
    for sentence, point in zip(sentences, found.points, strict=True):
        tpr = point.leakage["external"].tpr
        assert tpr is not None
        assert f"{tpr.value * 100:.1f}" in sentence
        assert f"{point.quality.value * 100:.1f}" in sentence
    rows = tables.shown(found)
    assert [row[0] for row in rows[1:]] == [point.words for point in found.points]
    assert rows[1][2] == f"{found.points[0].quality.value * 100:.1f} ± {found.points[0].quality.half * 100:.1f}"


def test_an_unresolved_rate_is_shown_by_the_auc(tmp_path: Path) -> None:
    run = make(tmp_path / "few", Made(name="made", nonmembers=300))
    got = frontier([RunRecords.read(run)], {})
    assert not got.measure.percent
    assert "AUC" in verdict.sentences(got)[0]
    assert "external: AUC" in tables.shown(got)[0]


def test_the_front_is_what_nothing_beats(found: Frontier) -> None:
    points = [(0.3, 0.9), (0.1, 0.8), (0.2, 0.7), (0.05, 0.5), (0.1, 0.6), (0.4, 0.9)]
    assert figures._front(found, points) == [(0.05, 0.5), (0.1, 0.8), (0.3, 0.9)]


def test_each_figure_is_a_file_for_papers_in_colours_of_its_own(found: Frontier) -> None:
    with style():
        drawn = figures.drawings(found)
    names = {"utility", "leakage", "pareto", "adversaries", "measured_epsilon", "cost"}
    assert {drawing.name for drawing in drawn} == names
    for drawing in drawn:
        files = drawing.for_papers()
        assert set(files) == {"svg", "pdf", "png", "csv"}
        svg = files["svg"].decode()
        assert "var(" not in svg
        assert not re.search("#0001[12][0-9a-f]", svg), drawing.name
        assert COLOURS["series-1"][0] in svg
        assert files["png"].startswith(b"\x89PNG")
        assert files["pdf"].startswith(b"%PDF")
        header, *rows = list(csv.reader(io.StringIO(files["csv"].decode())))
        assert rows
        assert all(len(row) == len(header) for row in rows)
        # The page's own copy still follows a light or dark page.
        assert "var(--series-1)" in drawing.svg


def test_tables_are_read_back(found: Frontier) -> None:
    header, *rows = list(csv.reader(io.StringIO(table_files.as_csv(tables.numbers(found)))))
    assert all(len(row) == len(header) for row in rows)
    table = [dict(zip(header, row, strict=True)) for row in rows]
    assert [row["epsilon_target"] for row in table] == ["inf", "inf", "8", "2"]
    assert float(table[0]["accuracy"]) == pytest.approx(found.points[0].quality.value, rel=1e-5)
    assert math.isinf(float(table[0]["epsilon_promised"]))
    markdown = table_files.as_markdown(tables.shown(found)).splitlines()
    assert len({line.count("|") for line in markdown}) == 1
    latex = table_files.as_latex(tables.shown(found))
    assert latex.count(r"\\") == len(found.points) + 1
    assert r"secure\_sum" in latex
    assert not set(latex) & set("ε∞±≥–")


def test_the_page(folders: Sequence[RunFolder], tmp_path: Path) -> None:
    (folders[0].path / "report.html").touch()
    found = write_frontier(folders, tmp_path, {"rounds=-1": "rounds = -1: must be greater than 0"})
    reader = Reader((tmp_path / "frontier.html").read_text())
    for sentence in verdict.sentences(found):
        assert " ".join(sentence.split()) in " ".join(reader.text.split())
    assert "rounds = -1: must be greater than 0" in reader.text
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".svg", ".pdf", ".png", ".csv"}
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {"frontier.csv", "frontier.md", "frontier.tex"}
    assert "bare0/report.html" in (tmp_path / "frontier.html").read_text()


def test_a_setting_without_attacks_has_figures_all_the_same(folders: Sequence[RunFolder], tmp_path: Path) -> None:
    run = make(tmp_path / "quiet", Made(name="made", attacked=False))
    found = write_frontier([run], tmp_path, {})
    assert found.adversaries == ()
    assert "no attack was run" in verdict.sentences(found)[0]
    both = frontier([replace(RunRecords.read(run), path=tmp_path), RunRecords.read(folders[0])], {})
    assert tables.shown(both)[1][3] == "–"
