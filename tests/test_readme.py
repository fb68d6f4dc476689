"""What the pages tell people to type works as it stands: each page is followed from its top to its end."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from command_line import Call, calling
from pydantic import BaseModel
from small_runs import SMALL, small

from attacks import _shadows
from privfl.config import ExperimentConfig
from privfl.data.datasets import _fetch
from privfl.loading import load
from privfl.running import sweeping
from privfl.running.recording import run as train
from privfl.shelves import SHELVES
from privfl.tables import Item

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:privfl|\w+=\S+ privfl) [^`]+)`")
FILE = re.compile(r"`((?:\w+/)*\w+\.(?:py|csv))`")
SETTINGS = re.compile(r"(?:\A|\n\n)(?:Save this as )?`(\w+\.toml)`[^\n]*(?:\n[^\n]+)*\n\n\Z")
"""The end of a text before a block of settings that has a name."""
SMALLER = {"rounds = 15": "rounds = 2", "local_epochs = 10": "local_epochs = 1", "shadow_models = 8": "shadow_models = 4"}
"""Settings of the tutorials, and those that take seconds."""
ELSEWHERE = ("make", "torchrun", "python", ".venv-bench/bin/pip", ".venv-bench/bin/python")
"""Commands that are followed by the tests of other files, or want a network; what they name must be there."""


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def files(page: str) -> dict[str, str]:
    """The files that a page gives: each has the name that was last said before it."""
    found = {}
    for block in FENCED.finditer(text(page)):
        if block[1] in ("python", "csv"):
            found[FILE.findall(text(page)[: block.start()])[-1]] = block[2]
        if block[1] == "toml" and (named := SETTINGS.search(text(page)[: block.start()])):
            found[named[1]] = block[2]
    return found


def commands(page: str) -> list[str]:
    """All lines of a page that one can type, in order, in blocks and within sentences."""
    found = [(match.start(), match[1]) for match in INLINE.finditer(FENCED.sub(lambda block: " " * len(block[0]), text(page)))]
    for block in FENCED.finditer(text(page)):
        if not block[1] and page != "docs/architecture.md":  # Whose blocks are drawings.
            lines = re.sub(r" {3,}.*$", "", block[2], flags=re.MULTILINE).splitlines()
            found += [(block.start() + place, line) for place, line in enumerate(lines) if line]
    return [line for _, line in sorted(found) if len(line.split()) > 2 or line.endswith(("list", ".py"))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with one promise each, on the same data."""
    place = tmp_path_factory.mktemp("runs")
    for lr in (0.25, 0.5):
        config = small(rounds=1, training={**SMALL["training"], "lr": lr}, attacks={"shadow_models": 0})
        train(config, place / f"lr-{lr}")
    return place


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> list[Path]:
    """Copies of them, since a page may attack its run."""
    return sorted(shutil.copytree(trained, tmp_path / "finished").iterdir())


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: list[Path]) -> Path:
    """The current folder: a clone's, and the home of somebody who has downloaded something."""
    shutil.copytree(ROOT / "paper_configs", tmp_path / "paper_configs")
    digits = tmp_path / "paper_configs" / "digits.toml"
    digits.write_text(digits.read_text().replace("rounds = 10", "rounds = 2").replace("shadow_models = 4", "shadow_models = 2"))
    with tarfile.open(tmp_path / "dataset_location.tgz", "w:gz"):
        pass
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PRIVFL_DATA", "")
    monkeypatch.setattr(_shadows, "cores", lambda: 1)  # No processes for shadow models; another test begins them.

    def run_one(config: Path, variant: sweeping.Variant, out: Path, environment: Any, overwrite: bool) -> sweeping.EndedRun:
        load(config, *variant.overrides)
        shutil.copytree(finished[0], out / variant.name)
        return sweeping.EndedRun(variant, out / variant.name, 0, "")

    monkeypatch.setattr(sweeping, "run_one", run_one)
    here = _fetch.Fetched(Path("cache"), None)
    monkeypatch.setattr(_fetch, "fetch", lambda name, bar: here if _fetch.dataset(name) else None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def typed(line: str, finished: list[Path]) -> str:
    """The line with what it leaves open filled in."""
    line = line.replace("RUN RUN ...", " ".join(map(shlex.quote, map(str, finished)))).replace("RUN", str(finished[1]))
    return line.replace("CONFIG", "paper_configs/digits.toml").replace("membership/<name>", "membership/loss")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_can_be_followed(
    page: str, clone: Path, finished: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    privfl = calling(monkeypatch, capsys)
    for name, content in files(page).items():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        for long, short in SMALLER.items():
            content = content.replace(long, short)
        (clone / name).write_text(content, encoding="utf-8")
    for line in commands(page):
        follow(typed(line, finished), privfl, monkeypatch)


def follow(line: str, privfl: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    first = line.split()[0]
    if first == "python" and Path(line.split()[1]).is_file():
        runpy.run_path(line.split()[1], run_name="__main__")
        return
    if first in ELSEWHERE:
        for name in re.findall(r"(?:benchmarks|tests|paper_configs)/[\w./]+", line):
            assert (ROOT / name).exists(), line
        return
    if first == "mkdir":
        subprocess.run(["bash", "-c", line], check=True)
        return
    with monkeypatch.context() as surroundings:
        words = shlex.split(line)
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            surroundings.setenv(name, value)
        assert words[0] == "privfl", line
        code, out, err = privfl(*words[1:])
    assert code == 0, f"{line}\n{err}"
    assert out, line


def test_the_pages_have_what_to_follow() -> None:
    assert {page: len(commands(page)) for page in ("README.md", "CONTRIBUTING.md", "docs/data.md", "docs/privacy.md")} == {
        "README.md": 9,
        "CONTRIBUTING.md": 9,
        "docs/data.md": 23,
        "docs/privacy.md": 3,
    }
    assert {name for page in PAGES for name in files(page)} == {
        *(
            f"my_lab/{name}.py"
            for name in (
                "clinic",
                "confidence",
                "narrow",
                "lion",
                "carried",
                "signs",
                "median",
                "penguins",
                "shrunk",
                "halves",
                "patients",
                "notes",
                "focal",
                "over_rounds",
            )
        ),
        "data/penguins/penguins.csv",
        "data/patients.csv",
        *(f"{kind}.toml" for kind in SHELVES["privacy"].names()),
        "leaky.toml",
        "make_own.py",
        "make_patients.py",
        "export.py",
        "notebook.py",
        "predict.py",
        "run.py",
    }


def test_each_plan_has_a_configuration_that_is_priced(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    privfl = calling(monkeypatch, capsys)
    examples = files("docs/choose_plan.md")
    assert sorted(examples) == sorted(f"{kind}.toml" for kind in SHELVES["privacy"].names())
    for name, content in examples.items():
        (clone / name).write_text(content, encoding="utf-8")
        assert load(clone / name).privacy.kind == name.removesuffix(".toml")
        if name != "none.toml":
            code, out, err = privfl("account", name)
            assert code == 0, (name, err)
            assert "ε by" in out


def test_a_script_of_the_pages_is_the_command(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name that a worker process gives it, it does nothing."""
    source = compile(files("docs/training.md")["run.py"], "run.py", "exec")
    monkeypatch.setattr(sys, "argv", ["run.py", "no such command"])
    exec(source, {"__name__": "__mp_main__"})
    with pytest.raises(SystemExit) as ended:
        exec(source, {"__name__": "__main__"})
    assert ended.value.code == 2


def test_the_tables_of_the_pages_are_settings(clone: Path) -> None:
    found = [block[2] for page in PAGES for block in FENCED.finditer(text(page)) if block[1] == "toml"]
    assert found
    for table in found:
        begun = "" if table.startswith("extends") else 'extends = "paper_configs/digits.toml"\n'
        (clone / "own.toml").write_text(begun + table)
        assert load(clone / "own.toml") != load(clone / "paper_configs" / "digits.toml")


def test_the_readme_names_the_make_targets_that_there_are() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {
        line.split()[1]
        for page in ("README.md", "CONTRIBUTING.md")
        for block in FENCED.finditer(text(page))
        for line in block[2].splitlines()
        if line.startswith("make ")
    }
    assert named == {"quickstart", "test", "check"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_every_link_of_the_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", text(page)):
            if "://" not in target:
                assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_the_page_of_settings_names_every_setting() -> None:
    page = text("docs/configuration.md")
    named = set(re.findall(r"`([a-z_.]+[a-z0-9])`", page))

    shelves = ["model", "cohort", "privacy", "data.partition", "aggregator", "server"]
    shelves += [
        "algorithm",
        "transform",
        "behaviour",
        "clock",
        "pace",
        "canaries",
        "training.optimizer",
        "training.round_schedule",
        "training.step_schedule",
    ]

    def keys(table: type[BaseModel], at: str) -> Iterator[str]:
        for name, field in table.model_fields.items():
            variants = [part for part in (field.annotation, *get_args(field.annotation)) if isinstance(part, type)]
            below = [part for part in variants if issubclass(part, BaseModel) and part is not Item]
            if (key := f"{at}{name}") not in shelves:
                yield from (one for part in below for one in keys(part, f"{key}.")) if below else (key,)

    every = {key for key in keys(ExperimentConfig, "") if key != "task"}
    for shelf in shelves:
        items = [SHELVES[shelf].find(kind) for kind in SHELVES[shelf].names()]
        # The tables in a plan's settings stand on the page; those of an aggregator have a page of their own.
        nested = shelf == "privacy"
        for item in items:
            every |= set(keys(item, "privacy.") if nested else (f"{shelf}.{name}" for name in item.model_fields))
    assert every - named == set()
