"""Runs of models that are trained in part: what is trained is sent, noised and counted; what is saved is the whole."""

from pathlib import Path
from typing import Any

import pytest
import torch
from own_models.low_rank import Frozen, LowRankNet
from safetensors.torch import load_file
from small_runs import small

from privfl.data.datasets.digits import Digits
from privfl.data.input_store import InputStore
from privfl.errors import ModelError
from privfl.privacy.client_plans import ClientPlan
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic
from privfl.running.recording import run
from privfl.running.views import open_view

TRAINED = 4 * 64 + 32 * 4 + 10 * 32 + 10
KIND = "own_models.low_rank"


def model(frozen: str) -> dict[str, Any]:
    return {"kind": KIND, "frozen": frozen}


@pytest.mark.parametrize(("frozen", "trained"), [("parameter", TRAINED), ("buffer", TRAINED), ("nothing", 64 * 64 + 128 + 650)])
def test_what_is_saved_loads_into_ones_own_module_and_is_the_model_that_was_evaluated(
    frozen: Frozen, trained: int, tmp_path: Path
) -> None:
    """Frozen parameters, buffers that a file holds and weights that two layers share, all by ``load_state_dict`` itself."""
    promise = {} if frozen != "nothing" else {"privacy": {"kind": "none"}}
    folder = run(small(model=model(frozen), rounds=2, **promise), tmp_path / "run")
    saved = load_file(folder.path / "model.safetensors")
    module, fresh = (LowRankNet(kind=KIND, frozen=frozen).build((1, 8, 8), 10) for _ in range(2))
    module.load_state_dict(saved)
    data = Digits(kind="digits", clients=10).load()
    x, y = InputStore.of(data.test, data.pixels, torch.device("cpu"))[:], torch.from_numpy(data.test.y)
    with torch.no_grad():
        found = float((module.eval()(x).argmax(1) == y).double().mean())
    assert found == pytest.approx(folder.result.evaluation.headline.value, abs=1e-9)
    assert folder.result.parameters == trained
    if frozen != "nothing":
        assert torch.equal(saved["1.base"], fresh.state_dict()["1.base"])
        assert "1.shift" not in saved
    # What is sent is what is trained.
    uploads = sum(len(record.survivors) for record in folder.rounds())
    assert folder.result.bytes_plain == uploads * 4 * (trained + 1)
    layout = assemble(small(model=model(frozen), **promise)).layout
    assert open_view(folder, "external", layout).final_model().shape == (trained,)


@pytest.mark.parametrize("frozen", ["parameter", "buffer"])
def test_shadow_models_have_the_constants_of_their_target(frozen: str) -> None:
    with deterministic():
        experiment = assemble(small(model=model(frozen), rounds=1))
        base = experiment.model.state_dict()["1.base"].clone()
        shadow = experiment.shadow(0, experiment.data.member_N)
        assert shadow.train().shape == (TRAINED,)
        assert torch.equal(shadow.model.state_dict()["1.base"], base)


def test_a_plan_of_whole_clients_counts_what_is_trained() -> None:
    privacy = {"kind": "client_local", "noise_multiplier": 1.0, "delta": 1e-4, "max_update_norm": 1.0}
    experiment = assemble(small(model=model("parameter"), rounds=1, privacy=privacy))
    assert isinstance(experiment.plan, ClientPlan)
    assert experiment.message_layout.size in (TRAINED, TRAINED + 1)
    task = experiment.cohort(experiment.initial_state()).task(0)
    assert experiment.trainer.train(experiment.initial_D, [task])[0].delta_D.shape == (TRAINED,)


def test_a_model_of_which_nothing_is_trained_is_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match=r"parameters? (that is trained|requires a gradient)") as caught:
        assemble(small(model=model("everything")))
    assert "\n" not in str(caught.value)
