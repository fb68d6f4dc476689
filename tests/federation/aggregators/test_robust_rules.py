"""Robust rules: exact answers, and that as many corrupt clients as a rule withstands do not move it."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import pytest
import torch
from aggregator_inputs import context, updates
from small_runs import small
from torch import Tensor

from privfl.errors import ConfigError, ProtocolError
from privfl.federation.aggregators import ClientUpdate
from privfl.federation.aggregators._rows import RobustRule, krum_scores, squared_distances
from privfl.running.recording import run
from privfl.shelves import SHELVES
from privfl.tables import narrow

WITHSTANDS: dict[str, tuple[dict[str, Any], int, int]] = {
    "median": ({}, 7, 3),
    "trimmed_mean": ({"byzantine_share": 0.43}, 7, 3),
    "krum": ({"byzantine_share": 0.3}, 7, 2),
    "bulyan": ({"byzantine_share": 0.15}, 7, 1),
    "geometric_median": ({}, 7, 3),
    "norm_bound": ({"max_norm": 2.0}, 7, 1),
    "sign_majority": ({"step": 0.5}, 7, 1),
}
"""Rule -> settings, n clients, f of them corrupt."""


def rule(kind: str, **settings: Any) -> RobustRule:
    return narrow(SHELVES["aggregator"].find(kind).model_validate({"kind": kind, **settings}), RobustRule)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def ones(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.float64)


def test_every_rule_of_the_shelf_is_in_these_tests() -> None:
    shelf = SHELVES["aggregator"]
    assert {name for name in shelf.names() if issubclass(shelf.find(name), RobustRule)} == set(WITHSTANDS)


def test_the_median_of_an_even_number_is_between_the_two_in_the_middle() -> None:
    assert rule("median").combine(column(3, 0, 10, 1), ones(4)).item() == 2.0
    assert rule("median").combine(column(3, 0, 10), ones(3)).item() == 3.0


def test_the_trimmed_mean_leaves_out_as_many_at_each_end() -> None:
    trimmed = rule("trimmed_mean", byzantine_share=0.2)
    assert trimmed.combine(column(-50, 1, 2, 6, 90), ones(5)).item() == 3.0
    # 0.2 · 4 is less than one client.
    assert trimmed.combine(column(-4, 1, 2, 5), ones(4)).item() == 1.0
    assert rule("trimmed_mean", byzantine_share=0.49).combine(column(-4, 1), ones(2)).item() == -1.5


def test_krum_scores_are_sums_over_the_nearest_neighbours() -> None:
    scores = krum_scores(squared_distances(column(0, 1, 2, 3, 100)), 1)
    assert scores.tolist() == [5, 2, 2, 5, 97**2 + 98**2]
    # A tie: the lower number.
    assert rule("krum").combine(column(0, 1, 2, 3, 100), ones(5)).item() == 1.0


def test_two_kinds_of_multi_krum() -> None:
    values = column(0.0, 0.4, 0.5, 0.6, 1.1, 1.2, 1.3)
    found = {}
    for selection in ("once", "repeated"):
        krum = rule("krum", byzantine_share=0.15, selected=3, selection=selection)
        found[selection] = krum.combine(values, ones(7)).item()
    scores = krum_scores(squared_distances(values), 1)
    best = scores.argsort(stable=True)[:3]
    assert found["once"] == pytest.approx(values[best].mean().item())
    # Paper's order: 7 - m > 2 f + 2 leaves m = 2. After the first is set aside the scores are of six values.
    first = int(scores.argmin())
    left = [place for place in range(7) if place != first]
    second = left[int(krum_scores(squared_distances(values[left]), 1).argmin())]
    assert found["repeated"] == pytest.approx(values[[first, second]].mean().item())


def test_bulyan_of_its_smallest_cohort() -> None:
    values = column(0, 1, 2, 3, 4, 5, 1e9)
    # Five are picked by repeated Krum, and of these the three nearest to their median are averaged.
    found = rule("bulyan", byzantine_share=0.15).combine(values, ones(7)).item()
    assert found in {2.0, 3.0}


def test_the_geometric_median_of_a_corner() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    steps = [rule("geometric_median", iterations=count).combine(points, ones(3))[0].item() for count in (1, 2, 3)]
    assert steps == pytest.approx([0.279241, 0.252696, 0.237673], abs=1e-6)
    exact = (1 - 1 / math.sqrt(3)) / 2
    found = rule("geometric_median", iterations=1000, tolerance=1e-15).combine(points, ones(3))
    assert found.tolist() == pytest.approx([exact, exact], abs=1e-6)
    heavy = rule("geometric_median", iterations=1000).combine(points, torch.tensor([0.1, 1.0, 0.1], dtype=torch.float64))
    assert heavy.tolist() == pytest.approx([1.0, 0.0], abs=1e-3)


def test_a_norm_is_bounded_and_a_short_update_stays_as_it_is() -> None:
    values = torch.tensor([[3.0, 4.0], [0.3, 0.4]], dtype=torch.float64)
    found = rule("norm_bound", max_norm=1.0).combine(values, torch.tensor([1.0, 3.0], dtype=torch.float64))
    assert found.tolist() == pytest.approx([(0.6 + 0.9) / 4, (0.8 + 1.2) / 4])


def test_each_client_has_one_vote() -> None:
    values = torch.tensor([[9.0, -1.0, 0.0], [-0.1, -2.0, 1.0], [-0.2, 5.0, -3.0]], dtype=torch.float64)
    assert rule("sign_majority", step=0.5).combine(values, ones(3)).tolist() == [-0.5, -0.5, 0.0]


@pytest.mark.parametrize("kind", WITHSTANDS)
def test_no_order_of_clients_changes_the_result(kind: str) -> None:
    settings, _, _ = WITHSTANDS[kind]
    values = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = rule(kind, **settings).combine(values, ones(5))
    for order in permutations(range(5)):
        found = rule(kind, **settings).combine(values[list(order)], ones(5))
        assert torch.allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("kind", [kind for kind in WITHSTANDS if kind not in {"norm_bound", "sign_majority"}])
def test_a_rule_moves_with_the_updates(kind: str) -> None:
    settings, clients, _ = WITHSTANDS[kind]
    values = torch.randn(clients, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    item, shift = rule(kind, **settings), torch.tensor([1.0, -2.0, 0.5, 8.0], dtype=torch.float64)
    assert torch.allclose(item.combine(values + shift, ones(clients)), item.combine(values, ones(clients)) + shift, atol=1e-4)
    assert torch.allclose(item.combine(shift.expand(clients, 4), ones(clients)), shift)


@pytest.mark.parametrize("kind", WITHSTANDS)
@pytest.mark.parametrize("far", [1e9, -1e9])
def test_corrupt_clients_do_not_move_it_far(kind: str, far: float) -> None:
    settings, clients, corrupt = WITHSTANDS[kind]
    generator = torch.Generator().manual_seed(3)
    honest = 1 + 0.1 * torch.randn(clients - corrupt, 6, generator=generator, dtype=torch.float64)
    values = torch.cat([torch.full((corrupt, 6), far, dtype=torch.float64), honest])
    found = rule(kind, **settings).combine(values, ones(clients))
    assert float((found - honest.mean(0)).norm()) < 3
    # One corrupt client among as many moves the mean out of sight, so the bound above says something.
    assert float((values.mean(0) - honest.mean(0)).norm()) > 1e6


@pytest.mark.parametrize("kind", WITHSTANDS)
@pytest.mark.parametrize("clients", [1, 2, 3])
def test_the_smallest_cohorts_are_combined(kind: str, clients: int) -> None:
    settings, _, _ = WITHSTANDS[kind]
    given = updates(clients)
    found = rule(kind, **settings).aggregate(given, context()).mean_D
    assert found is not None
    assert bool(found.isfinite().all())
    if clients == 1 and kind != "sign_majority":
        assert torch.allclose(found, given[0].delta_D)


@pytest.mark.parametrize("kind", ["geometric_median", "norm_bound"])
def test_weights_of_zero_count_alike(kind: str) -> None:
    settings, _, _ = WITHSTANDS[kind]
    values = column(0.0, 1.0)
    assert rule(kind, **settings).combine(values, 0 * ones(2)).item() == 0.5


def test_updates_that_are_not_finite_are_refused() -> None:
    given = [*updates(3), ClientUpdate(15, torch.full((12,), torch.inf), 1.0)]
    with pytest.raises(ProtocolError, match="client 15: the update is not finite"):
        rule("median").aggregate(given, context())


@pytest.mark.parametrize("kind", WITHSTANDS)
def test_plans_that_price_a_sum_refuse_it(kind: str) -> None:
    central = {"kind": "client_central", "noise_multiplier": 1.0, "delta": 1e-4, "max_update_norm": 1.0}
    settings, _, _ = WITHSTANDS[kind]
    with pytest.raises(ConfigError, match=r"aggregator\.kind = .*no weighted sum"):
        small(privacy=central, aggregator={"kind": kind, **settings})


@pytest.mark.parametrize(("kind", "plan"), [("krum", "none"), ("median", "example")])
def test_a_run_under_a_rule(kind: str, plan: str, tmp_path: Any) -> None:
    privacy = {"privacy": {"kind": "none"}} if plan == "none" else {}
    folder = run(small(rounds=2, aggregator={"kind": kind}, cohort={"kind": "all"}, **privacy), tmp_path / "run")
    assert folder.result.rounds == 2
