"""What the tests of the page share."""

from __future__ import annotations

import pytest
from made_runs import Made, make

from privfl.runs import RunFolder


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make(tmp_path_factory.mktemp("run") / "quickstart", Made())
