"""Each rule against the paper's algorithm, a few steps computed by NumPy in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from privfl.federation.servers import ServerOptimizer, State
from privfl.shelves import SHELVES

NAMES = SHELVES["server"].names()
STEPS, D = 6, 50
Vector = NDArray[np.float64]
Settings = dict[str, float]


def server(kind: str, **settings: float) -> ServerOptimizer:
    least = {} if kind in ("fedavg", "fedavgm") else {"lr": 0.1}
    return cast("ServerOptimizer", SHELVES["server"].find(kind).model_validate({"kind": kind, **least, **settings}))


def given(dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(STEPS + 1, D, generator=generator, dtype=torch.float64).to(dtype)
    deltas = [0.1 * delta for delta in drawn[1:]]
    deltas[2] = torch.zeros(D, dtype=dtype)  # a round that moved nothing
    return drawn[0], deltas


def walk(optimizer: ServerOptimizer, x: Tensor, deltas: list[Tensor], state: State | None = None) -> tuple[list[Tensor], State]:
    state = optimizer.init(x) if state is None else state
    path = []
    for delta in deltas:
        x, state = optimizer.step(x, delta, state)
        path.append(x)
    return path, state


# --- the papers, written down a second time ---------------------------------------------------------------------------


def mcmahan(x: Vector, deltas: list[Vector], s: Settings) -> list[Vector]:
    return [x + s["lr"] * np.sum(deltas[: t + 1], axis=0) for t in range(len(deltas))]


def hsu(x: Vector, deltas: list[Vector], s: Settings) -> list[Vector]:
    """Hsu 2019, section 4.3: v <- β v + Δw, w <- w − v; Δ is the negative of the paper's."""
    path, v = [], np.zeros(D)
    for delta in deltas:
        v = s["momentum"] * v - delta
        x = x - s["lr"] * v
        path.append(x)
    return path


def reddi(second: Callable[[Vector, Vector, Settings], Vector]) -> Callable[[Vector, list[Vector], Settings], list[Vector]]:
    """Reddi 2021, algorithm 2, with v_{-1} = τ²."""

    def path_of(x: Vector, deltas: list[Vector], s: Settings) -> list[Vector]:
        path, m, v = [], np.zeros(D), np.full(D, s["tau"] ** 2)
        for delta in deltas:
            m = s["beta1"] * m + (1 - s["beta1"]) * delta
            v = second(v, delta, s)
            x = x + s["lr"] * m / (np.sqrt(v) + s["tau"])
            path.append(x)
        return path

    return path_of


PAPERS: dict[str, Callable[[Vector, list[Vector], Settings], list[Vector]]] = {
    "fedavg": mcmahan,
    "fedavgm": hsu,
    "fedadagrad": reddi(lambda v, delta, s: v + delta**2),
    "fedyogi": reddi(lambda v, delta, s: v - (1 - s["beta2"]) * delta**2 * np.sign(v - delta**2)),
    "fedadam": reddi(lambda v, delta, s: s["beta2"] * v + (1 - s["beta2"]) * delta**2),
}
SETTINGS: dict[str, list[Settings]] = {
    "fedavg": [{"lr": 1.0}, {"lr": 0.3}],
    "fedavgm": [{"lr": 1.0, "momentum": 0.9}, {"lr": 0.5, "momentum": 0.0}],
    "fedadagrad": [{"lr": 0.1, "beta1": 0.0, "tau": 1e-3}, {"lr": 0.1, "beta1": 0.5, "tau": 0.1}],
    "fedyogi": [{"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3}, {"lr": 1.0, "beta1": 0.2, "beta2": 0.5, "tau": 0.1}],
    "fedadam": [{"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3}, {"lr": 1.0, "beta1": 0.0, "beta2": 0.0, "tau": 0.1}],
}


def test_every_rule_of_the_shelf_is_compared() -> None:
    assert set(PAPERS) == set(SETTINGS) == set(NAMES)


@pytest.mark.parametrize(("kind", "settings"), [(kind, one) for kind, many in SETTINGS.items() for one in many])
def test_steps_are_the_paper_s(kind: str, settings: Settings) -> None:
    x, deltas = given()
    path, _ = walk(server(kind, **settings), x, deltas)
    expected = PAPERS[kind](x.numpy(), [delta.numpy() for delta in deltas], settings)
    for mine, paper in zip(path, expected, strict=True):
        np.testing.assert_allclose(mine.numpy(), paper, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", NAMES)
def test_defaults_are_the_first_settings_above(kind: str) -> None:
    dumped = {key: value for key, value in server(kind).model_dump().items() if key != "kind"}
    assert dumped == SETTINGS[kind][0]


def test_one_step_by_hand() -> None:
    x, delta = torch.tensor([1.0]), torch.tensor([2.0])
    assert walk(server("fedavg", lr=0.5), x, [delta])[0][0].item() == 2.0
    # m = 2, x = 3; m = 0.9 * 2 + 2 = 3.8, x = 6.8.
    assert walk(server("fedavgm"), x, [delta, delta])[0][1].item() == pytest.approx(6.8)
    # β1 = 0.5: m = 1; v = 1 + 4 = 5; x = 1 + 1 / (√5 + 1).
    found = walk(server("fedadagrad", lr=1.0, beta1=0.5, tau=1.0), x, [delta])[0][0].item()
    assert found == pytest.approx(1 + 1 / (5**0.5 + 1))
    # v = 0.5 * 1 + 0.5 * 4 = 2.5.
    found = walk(server("fedadam", lr=1.0, beta1=0.5, beta2=0.5, tau=1.0), x, [delta])[0][0].item()
    assert found == pytest.approx(1 + 1 / (2.5**0.5 + 1))
    # v = 1 − 0.5 * 4 * sign(1 − 4) = 3.
    found = walk(server("fedyogi", lr=1.0, beta1=0.5, beta2=0.5, tau=1.0), x, [delta])[0][0].item()
    assert found == pytest.approx(1 + 1 / (3**0.5 + 1))


def test_fedavg_with_lr_1_is_the_mean_of_the_local_models() -> None:
    generator = torch.Generator().manual_seed(1)
    global_D, local_KD = torch.randn(D, generator=generator), torch.randn(4, D, generator=generator)
    weights_K = torch.tensor([0.1, 0.2, 0.3, 0.4])
    stepped, state = server("fedavg").step(global_D, weights_K @ (local_KD - global_D), {})
    torch.testing.assert_close(stepped, weights_K @ local_KD)
    assert state == {}


@pytest.mark.parametrize("kind", NAMES)
def test_nothing_that_goes_in_is_changed(kind: str) -> None:
    optimizer = server(kind)
    x, deltas = given(torch.float32)
    _, state = walk(optimizer, x, deltas[:2])
    before = [tensor.clone() for tensor in (x, deltas[3], *state.values())]
    optimizer.step(x, deltas[3], state)
    for tensor, copy in zip((x, deltas[3], *state.values()), before, strict=True):
        assert torch.equal(tensor, copy)


@pytest.mark.parametrize("kind", NAMES)
def test_a_run_goes_on_from_what_was_written(kind: str) -> None:
    optimizer = server(kind)
    x, deltas = given(torch.float32)
    whole, _ = walk(optimizer, x, deltas)
    first, state = walk(optimizer, x, deltas[:3])
    # By way of the disk, and with a new object: no state hides in the optimiser.
    read = load(save({"x": first[-1], **state}))
    rest, _ = walk(server(kind), read.pop("x"), deltas[3:], read)
    assert all(torch.equal(one, other) for one, other in zip(whole[3:], rest, strict=True))


@pytest.mark.parametrize("kind", NAMES)
def test_types_and_shapes_stay(kind: str) -> None:
    x, deltas = given(torch.float32)
    optimizer = server(kind)
    assert all(value.shape == (D,) for value in optimizer.init(x).values())
    stepped, state = optimizer.step(x, deltas[0], optimizer.init(x))
    assert set(state) == set(optimizer.init(x))
    for tensor in (stepped, *state.values()):
        assert (tensor.dtype, tensor.shape) == (torch.float32, (D,))
        assert bool(torch.isfinite(tensor).all())


@pytest.mark.parametrize("kind", NAMES)
def test_without_an_update_a_fresh_server_stays_where_it_is(kind: str) -> None:
    x, _ = given(torch.float32)
    stepped, _ = server(kind).step(x, torch.zeros(D), server(kind).init(x))
    assert torch.equal(stepped, x)


@pytest.mark.parametrize("kind", NAMES)
def test_the_first_step_goes_the_update_s_way(kind: str) -> None:
    x, deltas = given(torch.float32)
    stepped, _ = server(kind).step(x, deltas[0], server(kind).init(x))
    assert bool(((stepped - x) * deltas[0] > 0).all())
