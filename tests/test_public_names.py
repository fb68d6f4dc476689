"""The public names: sorted, importable, documented, and cheap to come by."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import privfl


def test_they_are_sorted_and_listed() -> None:
    assert privfl.__all__ == sorted(set(privfl.__all__))
    assert dir(privfl) == privfl.__all__
    assert set(privfl._HOMES) == set(privfl.__all__)


@pytest.mark.parametrize("name", privfl.__all__)
def test_each_is_there_and_says_what_it_is(name: str) -> None:
    found = getattr(privfl, name)
    assert found is getattr(importlib.import_module(f"privfl.{privfl._HOMES[name]}"), name)
    # Its home is where it is defined, not where it happens to be imported too.
    assert found.__module__ == f"privfl.{privfl._HOMES[name]}"
    assert (found.__doc__ or "").strip()


def test_a_star_import_brings_exactly_these() -> None:
    names: dict[str, object] = {}
    exec("from privfl import *", names)
    assert set(names) - {"__builtins__"} == set(privfl.__all__)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'privfl' has no attribute 'nonsense'"):
        _ = privfl.nonsense


def test_importing_privfl_is_quick() -> None:
    heavy = ("torch", "opacus", "numpy", "scipy", "pydantic", "matplotlib", "dp_accounting")
    code = f"import sys, privfl; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_is_quick_to_help() -> None:
    code = "import sys, privfl.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
