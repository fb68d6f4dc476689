"""The models: sizes that papers state, shapes that fit, and one line where they do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from privfl.errors import ModelError
from privfl.learning.models import Model
from privfl.learning.models.cnn import Cnn
from privfl.learning.models.lenet import Lenet
from privfl.learning.models.logistic import Logistic
from privfl.learning.models.lstm import Lstm
from privfl.learning.models.mlp import Mlp
from privfl.learning.models.transformer import Transformer
from privfl.learning.training._guards import require_per_example
from privfl.shelves import SHELVES
from privfl.vectors import Layout

SEQUENCES = ("lstm", "transformer")
INPUTS = [(1, 28, 28), (3, 32, 32), (1, 8, 8), (446,)]


def size(model: Model, shape: tuple[int, ...], classes: int) -> int:
    return Layout.of(model.build(shape, classes)).size


def fits(kind: str, shape: tuple[int, ...]) -> bool:
    least = {"cnn": 16, "conv_net": 8, "resnet8": 8, "lenet": 16, "wide_resnet": 8}.get(kind)
    return least is None or (len(shape) == 3 and min(shape[1:]) >= least)


@pytest.mark.parametrize("shape", INPUTS)
@pytest.mark.parametrize("kind", [name for name in SHELVES["model"].names() if name not in SEQUENCES])
def test_from_inputs_to_logits(kind: str, shape: tuple[int, ...]) -> None:
    model: Model = SHELVES["model"].find(kind)(kind=kind)
    if not fits(kind, shape):
        with pytest.raises(ModelError):
            model.build(shape, 7)
        return
    module = model.build(shape, 7)
    for batch in (0, 1, 5):
        assert module(torch.zeros(batch, *shape)).shape == (batch, 7)
    # Whatever the shelf holds can be trained privately and travels whole in a vector.
    require_per_example(module)
    assert all(parameter.requires_grad for parameter in module.parameters())
    Layout.of(module)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_cnn_of_the_papers_has_26010_parameters(activation: Any) -> None:
    model = Cnn(kind="cnn", activation=activation)
    assert size(model, (1, 28, 28), 10) == 26_010
    module = model.build((1, 28, 28), 10)
    counts = [sum(value.numel() for value in layer.parameters()) for layer in module.children() if list(layer.parameters())]
    # Papernot et al. 2021, table 1: 16 filters of 8x8, 32 of 4x4 over 16 channels, 32 units on 512, 10 classes.
    assert counts == [16 * 64 + 16, 32 * 16 * 16 + 32, 512 * 32 + 32, 32 * 10 + 10]
    layers = [type(layer) for layer in module.children()]
    assert layers.count(nn.Tanh if activation == "tanh" else nn.ReLU) == 3
    assert nn.ReLU not in layers or nn.Tanh not in layers


def test_the_cnn_takes_16x16_and_nothing_smaller() -> None:
    for side in (16, 17, 18, 23, 24, 33):
        assert Cnn(kind="cnn").build((1, side, side + 3), 4)(torch.zeros(2, 1, side, side + 3)).shape == (2, 4)
    for shape in ((1, 15, 40), (1, 40, 15), (28, 28), (1, 1, 28, 28), (784,)):
        with pytest.raises(ModelError) as caught:
            Cnn(kind="cnn").build(shape, 10)
        text = str(caught.value)
        assert len(text.splitlines()) == 1
        assert text.startswith("model.kind = 'cnn' takes images (channels, height, width) of at least 16x16; ")
        assert f"the data has shape {shape}: use 'mlp' or 'logistic'" in text


def test_sizes_of_the_others() -> None:
    assert size(Logistic(kind="logistic"), (1, 28, 28), 10) == 7_850
    assert size(Mlp(kind="mlp"), (446,), 30) == 446 * 64 + 64 + 64 * 30 + 30
    assert size(Mlp(kind="mlp", hidden=(8, 4)), (2, 3), 5) == 6 * 8 + 8 + 8 * 4 + 4 + 4 * 5 + 5
    # Without a hidden layer it is logistic regression.
    assert size(Mlp(kind="mlp", hidden=()), (1, 8, 8), 10) == size(Logistic(kind="logistic"), (1, 8, 8), 10) == 650


@pytest.mark.parametrize(("activation", "layer"), [("tanh", nn.Tanh), ("relu", nn.ReLU)])
def test_the_activation_of_the_mlp(activation: Any, layer: type[nn.Module]) -> None:
    module = Mlp(kind="mlp", hidden=(8, 4), activation=activation).build((3,), 2)
    assert [type(part) for part in module.children()] == [nn.Flatten, nn.Linear, layer, nn.Linear, layer, nn.Linear]


@pytest.mark.parametrize("kind", SHELVES["model"].names())
def test_initial_weights_come_from_the_global_generator_alone(kind: str) -> None:
    def build(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        shape = (28,) if kind in SEQUENCES else (1, 28, 28)
        return list(SHELVES["model"].find(kind)(kind=kind).build(shape, 10).parameters())

    assert all(torch.equal(one, other) for one, other in zip(build(3), build(3), strict=True))
    # A normalisation begins as the identity: scale one, shift zero, whatever the seed.
    drawn = [(one, other) for one, other in zip(build(3), build(4), strict=True) if one.std() > 0]
    assert drawn
    assert not any(torch.equal(one, other) for one, other in drawn)


def test_lenet_is_the_cnn_of_two_papers() -> None:
    # McMahan et al. 2017, section 3: 1,663,370 parameters. NIID-Bench's simple-cnn: 6 and 16 channels, 120 and 84 units.
    paper = Lenet(kind="lenet", channels=(32, 64), hidden=(512,), padding=True)
    assert size(paper, (1, 28, 28), 10) == 1_663_370
    assert size(Lenet(kind="lenet"), (1, 28, 28), 10) == 156 + 2_416 + 30_840 + 10_164 + 850 == 44_426
    assert size(Lenet(kind="lenet"), (3, 32, 32), 10) == 62_006


def test_lenet_says_the_smallest_image_that_it_takes() -> None:
    with pytest.raises(ModelError, match="at least 16x16"):
        Lenet(kind="lenet").build((1, 15, 15), 10)
    assert Lenet(kind="lenet").build((1, 16, 16), 10)(torch.zeros(2, 1, 16, 16)).shape == (2, 10)


@pytest.mark.parametrize("kind", SEQUENCES)
def test_a_model_of_sequences_gives_a_logit_for_each_token_at_each_place_and_looks_at_none_that_is_later(kind: str) -> None:
    torch.manual_seed(0)
    module = SHELVES["model"].find(kind)(kind=kind).build((12,), 9)
    x = torch.randint(9, (5, 12)).float()
    logits = module(x)
    assert logits.shape == (5, 12, 9)
    changed = x.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 9
    torch.testing.assert_close(module(changed)[:, :7], logits[:, :7])
    # Every earlier place counts, the first one too.
    changed = x.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 9
    assert bool((module(changed) - logits).abs().amax(dim=(0, 2)).gt(0).all())
    with pytest.raises(ModelError, match=f"{kind}.*takes sequences"):
        SHELVES["model"].find(kind)(kind=kind).build((1, 8, 8), 9)


def test_the_lstm_of_mcmahan_has_its_layers() -> None:
    # With 90 characters, embedding 8, two layers of 256; PyTorch has two biases a gate where the paper's 866,578 has one.
    two_biases = 2 * 4 * 256
    assert size(Lstm(kind="lstm"), (80,), 90) - two_biases == 90 * 8 + 4 * 256 * (8 + 256 + 1) + 4 * 256 * 513 + 257 * 90


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"must divide model\.width = 64"):
        Transformer(kind="transformer", heads=5)
