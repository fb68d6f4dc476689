"""The wheel, built and installed outside the repository: what is in it, what it needs, and that all of it imports."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("privfl", "attacks")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The same backend that pip would call, without its isolation: that would download the backend.
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean environment with the wheel in it; a line in a .pth file lends it the libraries of this one."""
    place = tmp_path_factory.mktemp("elsewhere") / "with a space"
    venv.create(place, with_pip=False, symlinks=os.name != "nt")
    scripts = place / ("Scripts" if os.name == "nt" else "bin")
    (site,) = place.rglob("site-packages")
    # A .pth file that lies in a lent folder is not read, so the editable install is not lent with the libraries.
    lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "lent.pth").write_text("".join(f"{path}\n" for path in sorted(lent)))
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(scripts / "python"),
        "install",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    done = subprocess.run([*install, "--quiet", "--no-warn-script-location"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return scripts / "python"


def test_the_wheel_holds_two_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {*PACKAGES, f"privfl-{PROJECT['version']}.dist-info"}
    inside = {name for name in names if name.split("/")[0] in PACKAGES}
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*"))
    expected = {path.relative_to(ROOT).as_posix() for path in files if path.is_file() and "__pycache__" not in path.parts}
    assert inside == expected
    assert {f"{package}/py.typed" for package in PACKAGES} <= inside
    assert {"privfl/report/templates/run.html.j2", "privfl/report/templates/style.css"} <= inside


_IMPORT_ALL = """
import importlib, importlib.metadata, json, pkgutil, sys, warnings
import torch, opacus, dp_accounting, pyarrow, sklearn.datasets, matplotlib, scipy.stats  # their warnings are theirs
warnings.simplefilter("error")
files = {}
for package in sys.argv[1:]:
    top = importlib.import_module(package)
    files[package] = top.__file__
    for module in pkgutil.walk_packages(top.__path__, package + "."):
        files[module.name] = importlib.import_module(module.name).__file__
print(json.dumps({"files": files, "version": importlib.metadata.version("privfl"), "path": sys.path}))
"""


def test_every_module_imports_outside_the_repository(python: Path, tmp_path: Path) -> None:
    command = [str(python), "-I", "-c", _IMPORT_ALL, *PACKAGES]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["version"] == PROJECT["version"]
    assert str(ROOT) not in found["path"]
    home = python.parents[1].resolve()
    assert all(Path(file).resolve().is_relative_to(home) for file in found["files"].values())
    modules = {path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert len(found["files"]) == len(modules)
    assert {"privfl.report.page", "attacks.membership.lira", "privfl.__main__"} <= set(found["files"])


def test_the_console_script_works_from_the_wheel(python: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(python.with_name("privfl")), "data", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "privfl data [OPTIONS] COMMAND" in done.stdout


def normal(requirement: str) -> str:
    """The name in a requirement, in the one spelling that indexes use."""
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=!~\[; (]", requirement)[0]).lower()


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    """A library that happens to be here for another's sake may not be there on the next machine."""
    tops = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                tops |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                tops.add(node.module.split(".")[0])
    homes = importlib.metadata.packages_distributions()
    used = {normal(homes[top][0]) for top in tops - set(sys.stdlib_module_names) - {*PACKAGES}}
    declared = set(map(normal, PROJECT["dependencies"]))
    # What a declared library itself always brings along may be used too: pydantic-core, MarkupSafe.
    brought = {normal(line) for name in declared for line in importlib.metadata.requires(name) or () if "extra ==" not in line}
    # What only some need is declared in an extra of its own, and imported where it is used.
    extras = PROJECT["optional-dependencies"]
    optional = {normal(extras[name][0]) for name in ("slurm", "mlflow", "wandb", "scattering")}
    assert declared <= used - optional <= declared | brought
    assert optional <= used
