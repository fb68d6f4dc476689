"""What is called from Python works as the page says, and the trained model loads into a module of one's own."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import small

import privfl
from attacks import _shadows
from privfl.auditing.questions.membership import MembershipFinding
from privfl.learning.models import Model
from privfl.running.assembling import assemble

ROOT = Path(__file__).parents[1]
TIED = '''
"""Two layers with one weight."""

from torch import Tensor, nn

from privfl.learning.models import Model


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(64, 10), nn.Linear(64, 10)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x.flatten(1)) + self.other(x.flatten(1).flip(1))


class Tied(Model):
    """Both."""

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """Of digits."""
        return Both()
'''


def test_the_page_can_be_followed_in_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "paper_configs", tmp_path / "paper_configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_shadows, "cores", lambda: 1)
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        exec(block, {"__name__": "__main__"})
    price, figures, lower, report, predicted, exported = capsys.readouterr().out.strip().splitlines()
    run = privfl.Run("runs/notebook")
    assert figures == f"{run.metrics['accuracy'].value} {float(run.epsilon)}"
    assert 0 < run.epsilon <= float(price)
    (finding,) = run.findings
    assert isinstance(finding, MembershipFinding)
    assert float(lower) == finding.best.epsilon_lower
    assert Path(report).is_file()
    assert predicted.startswith("tensor([")
    assert Path(exported).is_file()
    named = set(re.findall(r"^\| `(\w+)`(?:, `(\w+)`)? \|", page, re.MULTILINE))
    assert {name for pair in named for name in pair if name} <= set(privfl.__all__)
    # Every public name and every attribute of a run is on the page.
    words = set(re.findall(r"\w+", page))
    assert set(privfl.__all__) - {"ExperimentConfig"} <= words
    assert {name for name in dir(privfl.Run) if not name.startswith("_")} - {"name", "finished", "path"} <= words


@pytest.mark.parametrize("kind", ["mlp", "my_own.tied"])
def test_the_final_model_loads_into_a_module_of_one_s_own(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own").mkdir()
    (tmp_path / "my_own" / "tied.py").write_text(TIED)
    monkeypatch.syspath_prepend(tmp_path)
    config = small(model={"kind": kind}, privacy={"kind": "none"}, aggregator={"kind": "mean"}, rounds=1)
    run = privfl.run(config, tmp_path / "run")
    assert isinstance(config.model, Model)
    module = config.model.build((1, 8, 8), 10)
    module.load_state_dict(load_file(run.path / "model.safetensors"))
    if kind == "my_own.tied":
        one, other = (module.get_submodule(name) for name in ("one", "other"))
        assert one.weight is other.weight
    experiment = assemble(config)
    view = run.view("external")
    test_x = experiment.test_x[:]
    with torch.no_grad():
        found = module.eval()(test_x)
    expected = experiment.logits(view.final_model(), test_x)
    # The run's own accuracy comes out of it.
    assert torch.allclose(found, expected, atol=1e-5)
    right = (found.argmax(1) == experiment.test_y).float().mean().item()
    assert right == pytest.approx(run.metrics["accuracy"].value, abs=1e-6)
