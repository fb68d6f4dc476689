"""What the README and CONTRIBUTING tell people to type works as it stands."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from privfl.config import ExperimentConfig
from privfl.shelves import SHELVES
from privfl.tables import Item

ROOT = Path(__file__).parents[1]


def blocks(page: str, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def type_in(command: str, folder: Path) -> str:
    words = shlex.split(command)
    assert words[0] == "privfl"
    done = subprocess.run(
        [sys.executable, "-m", "privfl", *words[1:]], cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "paper_configs", tmp_path / "paper_configs")
    return tmp_path


def test_the_readme_s_commands(clone: Path) -> None:
    commands = [line for block in blocks("README.md") for line in block.splitlines() if line.startswith("privfl ")]
    assert len(commands) >= 6
    printed = "".join(type_in(command, clone) for command in commands)
    assert (clone / "runs" / "comparison.html").stat().st_size > 20_000
    assert "Test accuracy" in printed
    assert "ε by PLD" in printed


def test_the_readme_names_the_make_targets_that_there_are() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {
        line.split()[1]
        for page in ("README.md", "CONTRIBUTING.md")
        for block in blocks(page)
        for line in block.splitlines()
        if line.startswith("make ")
    }
    assert named == {"quickstart", "test", "check"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_every_link_of_the_pages_leads_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_attack_of_contributing_runs(clone: Path) -> None:
    (recipe,) = blocks("CONTRIBUTING.md", "python")
    (clone / "my_lab").mkdir()
    (clone / "my_lab" / "confidence.py").write_text(recipe)
    type_in("privfl run paper_configs/digits.toml rounds=2 attacks.run=[] attacks.shadow_models=0 --out runs/x", clone)
    assert "Best attack" in type_in("privfl attack runs/x my_lab.confidence", clone)


def test_the_page_of_settings_names_every_setting() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_.]+[a-z0-9])`", page))

    def keys(table: type[BaseModel], at: str) -> Iterator[str]:
        for name, field in table.model_fields.items():
            variants = [part for part in (field.annotation, *get_args(field.annotation)) if isinstance(part, type)]
            below = [part for part in variants if issubclass(part, BaseModel) and part is not Item]
            yield from (f"{at}{name}.{key}" for part in below for key in keys(part, "")) if below else (f"{at}{name}",)

    every = set(keys(ExperimentConfig, "")) - {"model", "aggregator", "server"}
    for shelf in ("model", "aggregator", "server"):
        every |= {f"{shelf}.{name}" for kind in SHELVES[shelf].names() for name in SHELVES[shelf].find(kind).model_fields}
    assert every - named == set()
