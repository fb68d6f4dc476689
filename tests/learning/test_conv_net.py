"""The network of listed layers has the sizes that papers state."""

from __future__ import annotations

from typing import Any

import pytest

from privfl.errors import ModelError
from privfl.learning.models.conv_net import ConvNet
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


def test_layers_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(ModelError, match="takes images"):
        ConvNet(kind="conv_net").build((12,), 2)
    net = ConvNet.model_validate({"kind": "conv_net", "layers": [{"conv": 4, "kernel": 9}]})
    with pytest.raises(ModelError, match="leave nothing of images of 8x8"):
        net.build((1, 8, 8), 2)
