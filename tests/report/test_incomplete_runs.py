"""A run folder that was sent to somebody else, or in which nothing happened, still reads well."""

from pathlib import Path

from made_runs import Made, make
from page_reader import Reader

from privfl.report import write_report


def test_an_attack_that_is_not_here_does_not_keep_the_page_from_being_written(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", Made())
    config = folder.path / "config.toml"
    text = config.read_text()
    assert 'kind = "membership/loss"' in text
    config.write_text(text.replace('kind = "membership/loss"', 'kind = "their_lab.their_attack"'))
    assert write_report([folder], tmp_path / "report.html").stat().st_size > 10_000


def test_runs_of_one_configuration_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    made = {"first": 0.8, "second": 0.7, "third": 0.7}
    folders = [make(tmp_path / name, Made(name="same", accuracy=accuracy)) for name, accuracy in made.items()]
    text = Reader(write_report(folders, tmp_path / "comparison.html").read_text(encoding="utf-8")).text
    assert "1 setting, 2 runs" in text, "the third repeats the second, so it counts once"
    assert "seed 0 (first), seed 0 (second)" in text


def test_a_run_in_which_nobody_trained_says_so_first(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", Made(skipped=tuple(range(20)), attacked=False))
    text = Reader(write_report([folder], tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "Nobody trained in any round" in text
    assert "no client sent anything" in text
    assert "−100" not in text
