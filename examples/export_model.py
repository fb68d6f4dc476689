"""Take a trained model out of its run, and use it without privfl.

Run it from the folder above: python -m examples.export_model
"""

from __future__ import annotations

import torch

import privfl

SETTINGS = {
    "name": "exported",
    "rounds": 2,
    "data": {"kind": "digits", "clients": 5, "partition": {"kind": "iid"}},
    "model": {"kind": "mlp", "hidden": [16]},
    "cohort": {"kind": "all"},
    "training": {"local_epochs": 1, "batch_size": 16, "lr": 0.5},
    "privacy": {"kind": "none"},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
}

if __name__ == "__main__":
    run = privfl.run(privfl.loads(SETTINGS))
    for name in ("model.safetensors", "model.pt2"):
        path = run.export(run.path / "exported" / name)
        print(f"{path}: {path.stat().st_size:,} bytes")
    # From here on nothing of privfl is needed.
    program = torch.export.load(path)
    digits = torch.rand(3, 1, 8, 8)
    print(program.module()(digits).argmax(dim=1).tolist())
