"""The ``[paper]`` table: strict, inherited, and without any effect on the run that it describes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from privfl.errors import ConfigError
from privfl.loading import dump, load, load_row, loads

ROOT = Path(__file__).parents[1]
ABADI = ROOT / "paper_configs" / "abadi2016_accountant.toml"


def test_a_row_is_a_configuration_with_a_table_that_no_run_sees() -> None:
    row = load_row(ABADI)
    config, paper = row.config, row.paper
    assert paper is not None
    assert (paper.citation, paper.cells[0].claim, paper.priced) == ("Abadi et al. 2016", 1.26, True)
    table = tomllib.loads(ABADI.read_text())
    del table["paper"]
    assert load(ABADI) == loads(table) == config
    assert "paper" not in dump(config)
    assert load_row(ROOT / "paper_configs" / "digits.toml").paper is None
    # The digest is that of the run's settings.
    assert row.digest == load_row(ABADI, "seed=3", "paper.claim=7").digest != load_row(ABADI, "training.lr=0.2").digest


def test_the_row_of_the_documentation_is_one(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    block, *_ = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    (tmp_path / "row.toml").write_text(block)
    paper = load_row(tmp_path / "row.toml").paper
    assert paper is not None
    assert (load(tmp_path / "row.toml").rounds, paper.cells[0].tolerance, paper.seeds_of()) == (15, 0.005, (0, 1, 2))
    # What is listed further on the page is known, too.
    assert all(re.search(rf"`{name}\b", page) for name in ("factor", "above", "below", "target", "stand_in", "needs", "cells"))


def test_what_a_row_extends_is_inherited(tmp_path: Path) -> None:
    (tmp_path / "row.toml").write_text(f'extends = "{ABADI}"\n[paper]\nclaim = 3\nseeds = [5, 9]\n')
    paper = load_row(tmp_path / "row.toml").paper
    assert paper is not None
    assert (paper.year, paper.cells[0].claim, paper.seeds_of(), paper.seeds_of(1)) == (2016, 3, (5, 9), (5,))
    assert paper.seeds_of(4) == (5, 9, 10, 11)


def test_cells_take_from_the_row_what_they_do_not_give(tmp_path: Path) -> None:
    cells = '[{ name = "a", claim = 1 }, { name = "b", claim = 2, factor = 2.0 }, { name = "c", above = "x" }]'
    (tmp_path / "row.toml").write_text(f'extends = "{ABADI}"\n[paper]\ncells = {cells}\n')
    paper = load_row(tmp_path / "row.toml").paper
    assert paper is not None
    assert [(cell.name, cell.conditions, cell.claim) for cell in paper.cells] == [
        ("a", ["tolerance"], 1),
        ("b", ["factor"], 2),
        ("c", ["above"], 1.26),
    ]
    assert paper.partners == ("x",)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("paper.clam=3", r"paper\.clam = 3: is unknown; did you mean 'claim'\?"),
        ("paper.metric=test.", r"paper\.metric = 'test\.': must be like one of epsilon, "),
        (
            "paper.metric=rounds_to:test.accuracy",
            r"paper\.target: belongs to a metric rounds_to:test\.<metric>, which needs it",
        ),
        ("paper.target=0.9", r"paper\.target = 0\.9: belongs to"),
        ("paper.tolerance=", r"paper\.tolerance: is missing: give tolerance, factor, above or below"),
        ("paper.factor=1.5", r"paper\.tolerance = 0\.01: give it or factor"),
        ("paper.tolerance=-1", r"paper\.tolerance = -1: must be greater than 0"),
        ("paper.claim=", r"paper\.claim: is missing: tolerance and factor are about a value"),
        ("paper.by=0.1", r"paper\.by = 0\.1: belongs to above or below"),
        ("paper.topic=privacy", r"paper\.topic = 'privacy': must be 'dp', "),
        ("paper.provenance=", r"paper\.provenance: is missing"),
        ("paper.seeds=[1, 1]", r"paper\.seeds = \[1, 1\]: names a seed twice"),
        ('paper.smoke=["rounds"]', r"paper\.smoke = 'rounds': must be a list of 'key=value'"),
        ("paper.cells=[1]", r"paper\.cells = \[1\]: must be a list of tables"),
        ("paper.cells=[{}, {}]", r"paper\.cells = '': each cell needs a name of its own"),
        ('paper.cells=[{nam = "a"}]', r"paper\.cells\.0\.nam = 'a': is unknown; did you mean 'name'\?"),
        ("paper=3", r"paper = 3: must be a table"),
    ],
)
def test_a_mistake_in_the_table_is_one_line(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^[^\n]*{words}[^\n]*$"):
        load(ABADI, override)
    # A dictionary's table is checked likewise.
    table: dict[str, Any] = tomllib.loads(ABADI.read_text())
    with pytest.raises(ConfigError, match=words):
        loads(table, override)
