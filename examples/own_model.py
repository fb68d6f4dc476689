"""Train a PyTorch model of your own, and use it afterwards.

Run it from the folder above: python -m examples.own_model
"""

from __future__ import annotations

import math

import torch
from torch import nn

import privfl
from privfl.learning.models import Model


class Bottleneck(Model):
    """inputs - width - classes, with tanh between; ``width`` is a setting of the configuration."""

    width: int = 16

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """From (B, *input_shape) to logits (B, classes)."""
        features = math.prod(input_shape)
        return nn.Sequential(nn.Flatten(), nn.Linear(features, self.width), nn.Tanh(), nn.Linear(self.width, classes))


SETTINGS = {
    "name": "own-model",
    "rounds": 5,
    "data": {"kind": "digits", "clients": 5, "partition": {"kind": "dirichlet", "alpha": 1.0}},
    "model": {"kind": "examples.own_model", "width": 24},
    "cohort": {"kind": "all"},
    "training": {"local_epochs": 2, "batch_size": 16, "lr": 0.5},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "secure_sum"},
    "server": {"kind": "fedavg"},
}

if __name__ == "__main__":
    run = privfl.run(privfl.loads(SETTINGS))
    print(run)
    module = run.model()
    print(f"a blank page is taken for a {module(torch.zeros(1, 1, 8, 8)).argmax().item()}")
