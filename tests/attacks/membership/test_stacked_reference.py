"""The reference benchmark trains all models as one program; each must come out as if it were trained alone."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

REPOSITORY = Path(__file__).parents[3]


def test_stacked_equals_one_by_one_in_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))  # type: ignore[no-untyped-call, unused-ignore]
    bench = importlib.import_module("bench_membership_reference")
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(300, 7)))
    y = torch.from_numpy(rng.integers(0, 3, 300))
    # 64 + 1, 128, and 137 + 64 members: batches of one, full ones only, and one more batch than the others.
    member = torch.arange(300) < torch.tensor([[65], [128], [201]])
    epochs, hidden = 3, 5
    stacked = bench.train(x, y, member, epochs, hidden=hidden)
    start = bench.train(x, y, member, 0, hidden=hidden)
    shuffles = (bench.SEED / "shuffle").numpy()
    batches = [list(bench._batches(member, shuffles)) for _ in range(epochs)]
    for index in range(len(member)):
        model = nn.Sequential(nn.Linear(7, hidden), nn.ReLU(), nn.Linear(hidden, 3)).double()
        with torch.no_grad():
            for parameter, weights in zip(model.parameters(), start, strict=True):
                parameter.copy_(weights[index].T if weights.shape[1] > 1 else weights[index, 0])
        optimizer = torch.optim.SGD(model.parameters(), lr=bench.LR, momentum=bench.MOMENTUM)
        for epoch in batches:
            seen = []
            for index_MB, present_MB in epoch:
                rows = index_MB[index][present_MB[index]]
                if len(rows):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                seen.extend(rows.tolist())
            assert sorted(seen) == torch.flatten(torch.nonzero(member[index])).tolist()
        for parameter, weights in zip(model.parameters(), stacked, strict=True):
            alone = parameter.detach().T if weights.shape[1] > 1 else parameter.detach()
            np.testing.assert_allclose(weights[index].reshape(alone.shape).numpy(), alone.numpy(), atol=1e-10)
    sys.modules.pop("bench_membership_reference")
