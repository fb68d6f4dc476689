"""The recipe in docs/data.md is run as it stands there."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from privfl import loading
from privfl.data.datasets._fetch import dataset
from privfl.data.federated import FederatedData
from privfl.errors import DataError
from privfl.seeding import Seed

DOCS = Path(__file__).parents[3] / "docs" / "data.md"
RECIPE = DOCS.read_text(encoding="utf-8").split("## Add a data set: one file\n")[1]
CSV = RECIPE.split("```csv\n")[1].split("```")[0]
KIND = "my_lab_of_the_recipe.penguins"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipe's module on the Python path, and a folder for its data."""
    package = tmp_path / "src" / "my_lab_of_the_recipe"
    package.mkdir(parents=True)
    code = RECIPE.split("```python\n")[1].split("```")[0]
    (package / "penguins.py").write_text(code, encoding="utf-8")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("PRIVFL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda app: str(tmp_path / "cache" / app))
    for name in [name for name in sys.modules if name.startswith("my_lab_of_the_recipe")]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    (tmp_path / "data" / "penguins").mkdir(parents=True)
    return tmp_path / "data" / "penguins"


def test_the_recipe_is_true(lab: Path) -> None:
    with pytest.raises(
        DataError, match=r"penguins: is not on this machine .* type `privfl data fetch my_lab_of_the_recipe\.penguins`"
    ):
        dataset(KIND).load()
    (lab / "penguins.csv").write_text(CSV)
    loaded = dataset(KIND).load()
    ((file,),) = dataset(KIND).forms  # type: ignore[attr-defined]
    assert file.size == len(CSV)
    assert f"gives its {file.size} bytes" in RECIPE
    np.testing.assert_allclose(loaded.train.x[:, 0], [1.81, 2.11, 1.86, 2.30])
    item = loading.load_data(KIND, ["partition=natural"]).data
    assert item.kind == KIND
    data = FederatedData.build(loaded, item, Seed(0))
    assert data.clients == ("Biscoe", "Torgersen")
    np.testing.assert_array_equal(data.owner_N, [1, 0, 1, 0])


def test_the_recipe_sees_a_damaged_file(lab: Path) -> None:
    (lab / "penguins.csv").write_text(CSV[:-1])
    with pytest.raises(DataError, match="is truncated"):
        dataset(KIND).load()
