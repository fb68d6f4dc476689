"""Set-up of the whole suite, and the fixture that its pages share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from privfl.running.run_folder import RunFolder

# Before PyTorch is imported, which reads it once; the processes that tests start inherit it. The workers of the suite share
# the cores already. A thread that waits for another keeps its core busy, and tiny operations do little but wait.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A made-up run of the quickstart, which no test changes."""
    from made_runs import Made, make

    return make(tmp_path_factory.mktemp("run") / "quickstart", Made())


@pytest.fixture(autouse=True)
def _no_lab_is_left() -> Iterator[None]:
    """A package of the user's own, called ``my_lab`` everywhere, is another one in every test."""
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        del sys.modules[name]
