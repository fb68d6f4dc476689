"""Networks of listed layers and wide residual networks have the sizes that papers state."""

from __future__ import annotations

from typing import Any

import pytest

from privfl.errors import ModelError
from privfl.learning.models.conv_net import ConvNet
from privfl.learning.models.wide_resnet import WideResnet
from privfl.vectors import to_vector

TUTORIAL = [
    {"conv": 16, "kernel": 8, "stride": 2, "padding": 3},
    {"pool": 2, "stride": 1},
    {"conv": 32, "kernel": 4, "stride": 2},
    {"pool": 2, "stride": 1},
]
CIFAR = [
    *({"conv": 32, "kernel": 3, "padding": 1},) * 2,
    {"pool": 2, "stride": 2},
    *({"conv": 64, "kernel": 3, "padding": 1},) * 2,
    {"pool": 2, "stride": 2},
    *({"conv": 128, "kernel": 3, "padding": 1},) * 2,
    {"pool": 2, "stride": 2},
]
CIFAR_HEAD = [{"conv": 64, "kernel": 3, "padding": 1}, {"pool": 2, "stride": 2}, {"conv": 64, "kernel": 3, "padding": 1}]


@pytest.mark.parametrize(
    ("settings", "shape", "parameters"),
    [
        ({}, (81, 7, 7), 33_066),
        ({"layers": TUTORIAL, "activation": "relu"}, (1, 28, 28), 26_010),
        ({"layers": CIFAR, "hidden": [128]}, (3, 32, 32), 550_570),
        ({"layers": CIFAR_HEAD, "hidden": []}, (243, 8, 8), 187_210),
    ],
)
def test_it_has_as_many_parameters_as_its_paper_says(settings: dict[str, Any], shape: tuple[int, ...], parameters: int) -> None:
    """Tramèr & Boneh 2021 for the first and the last two; TensorFlow Privacy's tutorial for the second."""
    module = ConvNet.model_validate({"kind": "conv_net", **settings}).build(shape, 10)
    assert len(to_vector(module)) == parameters


@pytest.mark.parametrize(("depth", "parameters"), [(16, 2_748_890), (40, 8_949_210)])
def test_a_wide_residual_network_is_of_its_paper_s_size(depth: int, parameters: int) -> None:
    """Zagoruyko & Komodakis 2016, table 4, say 2.8 and 8.9 million; norms of groups have as many parameters as of batches."""
    net = WideResnet(kind="wide_resnet", depth=depth)
    assert len(to_vector(net.build((3, 32, 32), 10))) == parameters


def test_wide_residual_networks_that_cannot_be_are_one_line() -> None:
    for settings, message in (({"depth": 18}, "must be 6 n"), ({"groups": 3}, "must divide 16")):
        with pytest.raises(ModelError, match=message):
            WideResnet.model_validate({"kind": "wide_resnet", **settings}).build((3, 32, 32), 10)
    with pytest.raises(ModelError, match="at least 8x8"):
        WideResnet(kind="wide_resnet").build((3, 4, 4), 10)


def test_layers_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(ModelError, match="takes images"):
        ConvNet(kind="conv_net").build((12,), 2)
    net = ConvNet.model_validate({"kind": "conv_net", "layers": [{"conv": 4, "kernel": 9}]})
    with pytest.raises(ModelError, match="leave nothing of images of 8x8"):
        net.build((1, 8, 8), 2)
