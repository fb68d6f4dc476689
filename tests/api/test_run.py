"""A run as an object: its figures are those of its records, and its model is the one that was trained."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import small

import privfl
from privfl.errors import ConfigError, ModelError, RunFolderError, ViewError
from privfl.running.assembling import assemble
from privfl.running.run_folder import RunFolder

LOSS = {"run": ["membership/loss"], "shadow_models": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> privfl.Run:
    return privfl.run(small(rounds=2, attacks=LOSS, evaluation={"every": 2}), tmp_path_factory.mktemp("api") / "run")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> privfl.Run:
    config = small(privacy={"kind": "none"}, aggregator={"kind": "mean"}, rounds=1)
    return privfl.run(config, str(tmp_path_factory.mktemp("api") / "plain"))


def test_a_run_without_a_folder_gets_a_fresh_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = small(privacy={"kind": "none"}, aggregator={"kind": "mean"}, rounds=1)
    first, second = privfl.run(config), privfl.run(config)
    assert (first.path, second.path) == (Path("runs/small"), Path("runs/small-2"))
    before = (first.path / "timings.jsonl").read_bytes()
    assert privfl.run(config, resume=True) == second
    assert privfl.run(config, overwrite=True) == first
    assert (first.path / "timings.jsonl").read_bytes() != before
    with pytest.raises(RunFolderError, match="runs/small: holds a run"):
        privfl.run(config, "runs/small")


def test_its_figures_are_those_of_its_records(run: privfl.Run) -> None:
    folder = RunFolder.open(run.path)
    assert (run.name, run.config, run.finished) == ("small", folder.config, True)
    assert run.metrics["accuracy"] == folder.result.evaluation.headline
    assert (run.result, run.partition, run.environment) == (folder.result, folder.partition, folder.environment)
    assert privfl.Run(str(run.path)) == run
    assert {privfl.Run(run.path), run} == {run}


def test_its_epsilon_is_a_number_with_terms(run: privfl.Run) -> None:
    privacy = RunFolder.open(run.path).result.privacy
    assert privacy is not None
    epsilon = run.epsilon
    assert isinstance(epsilon, float)
    assert epsilon == privacy.epsilon == max(epsilon.clients.values())
    assert (epsilon.delta, epsilon.unit, epsilon.relation) == (1e-4, "example", "add_or_remove_one")
    assert [epsilon[name] for name in run.partition.clients] == privacy.epsilon_clients
    assert len(set(privacy.epsilon_clients)) > 1
    assert (str(epsilon), f"{epsilon:.2f}") == (str(privacy.epsilon), f"{privacy.epsilon:.2f}")
    assert repr(epsilon) == f"{privacy.epsilon} (per example, δ = 0.0001, add_or_remove_one)"
    again = pickle.loads(pickle.dumps(epsilon))
    assert (repr(again), again.clients) == (repr(epsilon), epsilon.clients)
    with pytest.raises(KeyError, match=r"the run has no client 'hospital 9'; among its 10 are 'client 0', 'client 1'"):
        _ = epsilon["hospital 9"]


def test_without_a_promise_epsilon_is_infinite(plain: privfl.Run) -> None:
    assert plain.epsilon == plain.epsilon["client 3"] == math.inf
    assert (plain.epsilon.delta, repr(plain.epsilon)) == (None, "inf (nothing is promised)")


def test_its_rounds_are_a_table(run: privfl.Run) -> None:
    records, rounds = RunFolder.open(run.path).rounds(), run.rounds
    assert len(rounds) == 2
    assert rounds["round"].tolist() == [0, 1]
    assert rounds["epsilon"].tolist() == [record.epsilon for record in records]
    assert rounds["survivors"].tolist() == [len(record.survivors) for record in records]
    assert rounds["bytes_up"].sum() == run.result.bytes_up
    # Only the second round was evaluated.
    assert math.isnan(rounds["accuracy"][0])
    last = run.metrics["accuracy"]
    found = [rounds[name][1] for name in ("accuracy", "accuracy_low", "accuracy_high")]
    assert found == [last.value, last.low, last.high]
    assert (rounds["seconds"] > 0).all()


def test_an_attack_s_findings_stay_with_the_run(plain: privfl.Run) -> None:
    assert not plain.findings
    found = plain.attack("membership/loss", shadow_models=0)
    assert found == plain.findings
    (one,) = found
    assert one.rounds_by_attack() == {"membership/loss": ()}
    assert plain.config.attacks.shadow_models == 0
    with pytest.raises(ConfigError, match="attack 'membership/nonsense'"):
        plain.attack("membership/nonsense")
    with pytest.raises(ConfigError, match=r"attacks\.shadow_model = 3"):
        plain.attack("membership/loss", shadow_model=3)


def test_its_model_is_the_one_that_was_trained(run: privfl.Run) -> None:
    module, experiment = run.model(), assemble(run.config)
    assert not module.training
    test_x = experiment.test_x[:]
    with torch.no_grad():
        found = module(test_x)
    expected = experiment.logits(run.view("external").final_model(), test_x)
    assert torch.allclose(found, expected, atol=1e-5)
    right = (found.argmax(1) == experiment.test_y).float().mean().item()
    assert right == pytest.approx(run.metrics["accuracy"].value, abs=1e-6)


def test_a_view_is_that_of_an_adversary_of_the_run(run: privfl.Run) -> None:
    assert len(run.view("external").final_model()) == run.result.parameters
    with pytest.raises(ViewError, match="has no part in a run"):
        run.view("nobody")  # type: ignore[arg-type]


def test_its_page_is_written_where_one_says(run: privfl.Run, tmp_path: Path) -> None:
    page = run.page(tmp_path / "page.html")
    assert page == tmp_path / "page.html"
    assert "<h1>small</h1>" in page.read_text()
    assert not (run.path / "report.html").exists()
    assert run.page() == run.path / "report.html"
    assert (run.path / "report.html").exists()


def test_a_notebook_shows_the_words_of_the_page(run: privfl.Run) -> None:
    brief, page = run._repr_html_(), run.page().read_text()
    assert "<script" not in brief
    assert "<style" not in brief
    for words in ("Test accuracy", "Promised ε", "Measured ε", f"ε = {run.epsilon:.2f}", "per example, at δ"):
        assert words in brief.replace("\u00a0", " ").replace("\u202f", " ")
        assert words in page.replace("\u00a0", " ").replace("\u202f", " ")
    accuracy = run.metrics["accuracy"].value
    assert repr(run) == f"<Run {str(run.path)!r}: 2 rounds, test accuracy {accuracy:.4g}, ε = {run.epsilon:.4g}>"


def test_an_unfinished_run_can_be_looked_at(tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        privfl.run(small(), tmp_path, observer=interrupt)
    run = privfl.Run(tmp_path)
    assert (run.finished, len(run.rounds)) == (False, 1)
    assert repr(run) == f"<Run {str(tmp_path)!r}: not finished, 1 rounds done>"
    assert "not finished" in run._repr_html_()
    for ask in (lambda: run.epsilon, run.model, lambda: run.export(tmp_path.parent / "m.safetensors"), run.page):
        with pytest.raises(RunFolderError, match="continue it with --resume"):
            ask()
    table = privfl.load_runs(tmp_path)
    assert table.rows() == [{"run": str(tmp_path), "finished": False, "rounds": 1}]


def test_where_no_run_is_one_line_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is not a run folder"):
        privfl.Run(tmp_path)


# --- export -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["mlp"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> privfl.Run:
    config = small(model={"kind": request.param}, privacy={"kind": "none"}, aggregator={"kind": "mean"}, rounds=1)
    return privfl.run(config, tmp_path_factory.mktemp("api") / request.param)


def inputs(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def expected(run: privfl.Run, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = run.model()(x)
    return logits


def test_a_program_of_torch_export_gives_the_same_logits(trained: privfl.Run, tmp_path: Path) -> None:
    program = torch.export.load(trained.export(tmp_path / "model.pt2"))
    for count in (1, 2, 7):
        assert torch.allclose(program.module()(inputs(count)), expected(trained, inputs(count)), atol=1e-6)


def test_safetensors_give_the_same_logits(trained: privfl.Run, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    module = trained.model()
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    module.load_state_dict(load_file(trained.export(str(tmp_path / "deep" / "model.safetensors"))))
    with torch.no_grad():
        assert torch.equal(module(inputs(7)), expected(trained, inputs(7)))


def test_onnx_gives_the_same_logits(trained: privfl.Run, tmp_path: Path) -> None:
    from onnx import reference

    path = trained.export(tmp_path / "model.onnx")
    for count in (1, 7):
        (found,) = reference.ReferenceEvaluator(str(path)).run(None, {"x": inputs(count).numpy()})
        assert torch.allclose(torch.from_numpy(found), expected(trained, inputs(count)), atol=1e-5)


def test_what_onnx_needs_is_named(plain: privfl.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ConfigError, match=r"needs the package onnxscript: pip install 'privfl\[onnx\]', or export to \.pt2"):
        plain.export(tmp_path / "model.onnx")
    monkeypatch.setattr(importlib.util, "find_spec", find)
    assert not list(tmp_path.iterdir())


def test_another_suffix_is_refused(plain: privfl.Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.pkl: .* use \.onnx, \.pt2 or \.safetensors"):
        plain.export(tmp_path / "model.pkl")


def test_weights_that_do_not_fit_the_model_are_refused(tmp_path: Path) -> None:
    config: dict[str, Any] = {"privacy": {"kind": "none"}, "aggregator": {"kind": "mean"}, "rounds": 1}
    run = privfl.run(small(model={"kind": "mlp", "hidden": [8]}, **config), tmp_path / "run")
    text = (run.path / "config.toml").read_text()
    (run.path / "config.toml").write_text(text.replace("    8,\n", "    9,\n"))
    assert run.config.model.model_dump()["hidden"] == (9,)
    with pytest.raises(ModelError, match=r"does not take the weights in .*size mismatch for .*; restore the code"):
        run.model()


def test_a_model_that_cannot_be_traced_is_refused_in_one_line(
    plain: privfl.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("data-dependent control flow\nand much more")

    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(ModelError, match=r"cannot be exported \(RuntimeError: data-dependent control flow\); export to"):
        plain.export(tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())
