"""A chosen part of a model is trained: by name, by adapters, from weights of a file; the rest keeps its bytes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import by_autograd, cohort_of, plan, settings, starting_point
from safetensors.torch import load_file, save_file
from small_runs import small
from torch import Tensor, nn

from privfl.errors import ConfigError, ModelError
from privfl.learning.models import Model
from privfl.learning.models._build import built
from privfl.learning.models.mlp import Mlp
from privfl.learning.training import LocalWork, Trainer
from privfl.learning.training.fused import Fused
from privfl.learning.training.opacus import Opacus
from privfl.loading import dump, loads
from privfl.privacy.plans import Plan
from privfl.privacy.plans.none import NoPlan
from privfl.report.card import as_json
from privfl.report.run_records import RunRecords
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic
from privfl.running.recording import run
from privfl.seeding import Seed
from privfl.vectors import Layout, trained

SHAPE, X = (1, 8, 8), torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
NAMES = ["1.weight", "1.bias", "3.weight", "3.bias", "5.weight", "5.bias"]
LORA = {"rank": 3, "alpha": 6.0}
EVERY_ENGINE = pytest.mark.parametrize("engine", [Fused, Opacus])


def mlp(**changes: Any) -> Mlp:
    return Mlp(kind="mlp", hidden=(12, 11), **changes)


def module(**changes: Any) -> nn.Module:
    return built(mlp(**changes), X, (10,), Seed(0) / "model")


def whole(one: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in one.state_dict().items()}


# --- a mask ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [(["5.*"], NAMES[4:]), (["*.bias"], NAMES[1::2]), (["1.*", "5.bias"], [*NAMES[:2], NAMES[5]]), (["*"], NAMES)],
)
def test_what_patterns_match_is_trained(patterns: list[str], kept: list[str]) -> None:
    masked = module(trainable=patterns)
    assert list(Layout.of(masked).names) == kept
    assert all(torch.equal(value, whole(module())[name]) for name, value in whole(masked).items())


@EVERY_ENGINE
@pytest.mark.parametrize("patterns", [["5.*"], ["*.bias"], ["1.*", "5.bias"]], ids=str)
def test_an_update_is_that_of_the_whole_model_with_the_other_gradients_zeroed(
    patterns: list[str], engine: type[Trainer]
) -> None:
    """To the last bits of float64, with momentum and weight decay."""
    of, config = NoPlan(), settings(NoPlan(), momentum=0.5, weight_decay=0.1)
    full, masked = module().double(), module(trainable=patterns).double()
    mask_D = torch.cat([torch.full((value.numel(),), name in trained(masked)) for name, value in trained(full).items()])
    tasks = cohort_of(SHAPE, dtype=torch.float64)
    partly = [replace(task, work=LocalWork(mask_D=mask_D)) for task in tasks]
    expected = engine(full, config, of).train(starting_point(full), partly)
    found = engine(masked, config, of).train(starting_point(masked), tasks)
    for one, other in zip(found, expected, strict=True):
        assert one.delta_D.norm() > 0
        assert float((one.delta_D - other.delta_D[mask_D]).norm() / one.delta_D.norm()) < 1e-14


@EVERY_ENGINE
@pytest.mark.parametrize("changes", [{"trainable": ["3.*", "5.bias"]}, {"lora": LORA}], ids=["mask", "lora"])
@pytest.mark.parametrize("of", [plan(), NoPlan()], ids=["private", "plain"])
def test_an_example_is_clipped_by_its_trained_part_alone(changes: Any, of: Plan, engine: type[Trainer]) -> None:
    """As autograd does it, which has the gradients of these parameters and of no other."""
    tasks, config = cohort_of(SHAPE, dtype=torch.float64), settings(of)
    start_D = starting_point(module(**changes).double())
    for task, one in zip(tasks, engine(module(**changes).double(), config, of).train(start_D, tasks), strict=True):
        expected_D = by_autograd(module(**changes).double(), start_D, task, of, config)
        assert float((one.delta_D - expected_D).norm() / expected_D.norm()) < 1e-10


def test_what_a_model_freezes_itself_stays_frozen() -> None:
    table = {"kind": "own_models.low_rank", "trainable": ["1.*"]}
    layout = assemble(small(model=table)).layout
    assert layout.names == ("1.a.weight", "1.b.weight")


# --- adapters --------------------------------------------------------------------------------------------------------


def test_a_model_with_adapters_begins_as_the_model_itself() -> None:
    plain, adapted = module(), module(lora=LORA)
    assert torch.equal(plain(X), adapted(X))
    assert Layout.of(adapted).names == ("1.b.weight", "3.b.weight", "5.b.weight")
    assert Layout.of(adapted).size == 3 * (12 + 11 + 10)
    a = adapted.state_dict()["1.a.weight"]
    assert a.shape == (3, 64)
    assert a.norm() > 0
    # Of the stream that the model is drawn from, and of no other.
    assert torch.equal(a, module(lora=LORA).state_dict()["1.a.weight"])
    other = built(mlp(lora=LORA), X, (10,), Seed(1) / "model")
    assert not torch.equal(a, other.state_dict()["1.a.weight"])


def test_an_adapter_adds_the_scaled_product() -> None:
    adapted = module(lora={"rank": 3, "alpha": 6.0, "layers": ["1"]})
    state = whole(adapted)
    b = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    adapted.load_state_dict({**state, "1.b.weight": b})
    merged = {name.replace("base.", ""): value for name, value in state.items() if ".a." not in name and ".b." not in name}
    merged["1.weight"] = merged["1.weight"] + 2.0 * b @ state["1.a.weight"]
    plain = module()
    plain.load_state_dict(merged)
    assert torch.allclose(plain(X), adapted(X), atol=1e-5)
    assert not torch.allclose(plain(X), module()(X), atol=1e-2)


def test_layers_that_are_trained_whole_get_no_adapter() -> None:
    assert Layout.of(module(lora=LORA, trainable=["5.*"])).names == ("1.b.weight", "3.b.weight", "5.weight", "5.bias")
    assert Layout.of(module(lora=LORA, trainable=["5.bias"])).names[-2:] == ("5.base.bias", "5.b.weight")


class Single(Model):
    def build(self, input_shape: Any, outputs: int) -> nn.Module:
        return nn.Linear(8, outputs)


class Twice(Model):
    def build(self, input_shape: Any, outputs: int) -> nn.Module:
        layer = nn.Linear(8, 8)
        return nn.Sequential(nn.Flatten(0, 2), layer, nn.Tanh(), nn.Sequential(layer), nn.Linear(8, outputs))


@pytest.mark.parametrize(("item", "names"), [(Single, ("b.weight",)), (Twice, ("1.b.weight", "4.b.weight"))])
def test_a_model_that_is_one_layer_and_one_that_uses_a_layer_twice(item: type[Model], names: tuple[str, ...]) -> None:
    found = built(item.model_validate({"kind": "x.y", "lora": LORA}), X, (10,), Seed(0))
    assert Layout.of(found).names == names
    assert torch.equal(found(X), built(item(kind="x.y"), X, (10,), Seed(0))(X))


# --- whole runs ------------------------------------------------------------------------------------------------------

TABLES: dict[str, dict[str, Any]] = {"lora": {"lora": LORA}, "mask": {"trainable": ["3.*"]}}


@pytest.mark.parametrize("changes", TABLES.values(), ids=TABLES)
def test_what_is_frozen_keeps_its_bytes_and_what_is_trained_is_sent(changes: dict[str, Any], tmp_path: Path) -> None:
    config = small(model={"kind": "mlp", **changes}, rounds=2)
    before = assemble(config)
    folder = run(config, tmp_path / "run")
    saved = load_file(folder.path / "model.safetensors")
    for name, value in before.model.state_dict().items():
        assert torch.equal(saved[name], value) == (name not in before.layout.names)
    assert folder.result.parameters == before.layout.size
    uploads = sum(len(record.survivors) for record in folder.rounds())
    assert folder.result.bytes_plain == uploads * 4 * (before.layout.size + 1)
    assert loads({**config.model_dump(mode="json", exclude_none=True)}) == config


def test_shadow_models_have_their_targets_fixed_factor() -> None:
    with deterministic():
        experiment = assemble(small(model={"kind": "logistic", "lora": LORA}, rounds=1))
        shadow = experiment.shadow(0, experiment.data.member_N)
        assert torch.equal(shadow.model.state_dict()["1.a.weight"], experiment.model.state_dict()["1.a.weight"])
        assert torch.equal(shadow.initial_D, torch.zeros(30))


# --- weights of a file ------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "start.safetensors"
    save_file(whole(built(mlp(), X, (10,), Seed(7))), path)
    return path


def test_a_run_starts_from_the_weights_of_a_file(file: Path) -> None:
    item = mlp(weights=str(file), lora=LORA)
    assert torch.equal(built(item, X, (10,), Seed(0))(X), built(mlp(), X, (10,), Seed(7))(X))
    with deterministic():
        experiment = assemble(small(model=item.model_dump(mode="json", exclude_none=True), rounds=1))
        start = whole(experiment.model)
        assert torch.equal(start["3.base.weight"], load_file(file)["3.weight"])


def test_the_card_says_that_these_weights_count_as_public(file: Path, tmp_path: Path) -> None:
    for weights in ({}, {"weights": str(file)}):
        folder = run(small(model={"kind": "mlp", "hidden": [12, 11], **weights}, rounds=1), tmp_path / f"run{len(weights)}")
        said = as_json(RunRecords.read(folder))["not_covered"]
        assert ("start.safetensors, which counts as public" in said.get("Initial weights", "")) == bool(weights)


def test_its_hash_is_recorded_and_another_file_is_refused(file: Path) -> None:
    config = small(model={"kind": "mlp", "hidden": [12, 11], "weights": str(file)})
    recorded = dump(config)
    assert f'weights_hash = "{config.model.weights_hash}"' in recorded  # type: ignore[attr-defined]
    save_file(whole(built(mlp(), X, (10,), Seed(8))), file)
    with pytest.raises(ModelError, match=r"is not the file whose SHA-256 is model\.weights_hash = "):
        assemble(config)
    # A configuration without the hash takes the file as it is.
    assert assemble(small(model={"kind": "mlp", "hidden": [12, 11], "weights": str(file)})).noise_domain


def test_a_model_without_these_settings_is_named_as_before() -> None:
    assert mlp().model_dump() == {"kind": "mlp", "hidden": (12, 11), "activation": "relu"}


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("5.", "head."): value for name, value in state.items()}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (renamed, "5.bias is not in the file, and 3 more names differ; the file needs exactly the model's names"),
        (lambda state: {**state, "3.bias": torch.zeros(5)}, r"3.bias has shape \(5,\); the model's is \(11,\)"),
        (lambda state: {**state, "3.bias": torch.zeros(11, dtype=torch.int64)}, "3.bias is torch.int64; the model's is"),
        (lambda state: {**state, "3.bias": torch.full((11,), torch.nan)}, "3.bias has entries that are not finite"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(
    spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]], says: str, file: Path
) -> None:
    save_file(spoil(load_file(file)), file)
    with pytest.raises(ModelError, match=says) as caught:
        module(weights=str(file))
    assert str(caught.value).startswith(f"model.weights = {str(file)!r}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_is_something_else(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.weights = 'no.safetensors': cannot be read \(No such file"):
        small(model={"kind": "mlp", "weights": "no.safetensors"})
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ModelError, match="is no safetensors file"):
        module(weights=str(tmp_path / "text"))
    with pytest.raises(ConfigError, match="weights_hash"):
        small(model={"kind": "mlp", "weights_hash": "0" * 64})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"trainable": ["5.wieght"]}, "model.trainable: '5.wieght' matches no parameter; near it: 5.weight"),
        ({"trainable": ["head.*"]}, "model.trainable: 'head.*' matches no parameter; near it: 1.weight, 1.bias"),
        ({"trainable": []}, "model.trainable = []: leaves nothing to train"),
        ({"lora": {"layers": ["2"]}}, "model.lora.layers: '2' matches no linear layer; near it: 1, 3, 5"),
        ({"lora": LORA, "trainable": ["x"]}, "model.trainable: 'x' matches no parameter"),
    ],
)
def test_patterns_that_fit_nothing_are_refused_in_one_line(changes: Any, says: str) -> None:
    with pytest.raises(ModelError) as caught:
        module(**changes)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)
