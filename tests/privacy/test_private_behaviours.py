"""Whatever clients that collude send, the plan clips it: each moves a sum by no more than the norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from fixed_updates import CLIP, central, released, updates
from torch import Tensor

from privfl.federation.behaviours._colluding import ColludingBehaviour
from privfl.privacy.plans import Contribution
from privfl.shelves import SHELVES
from privfl.tables import narrow


def _attack(kind: str, **settings: Any) -> ColludingBehaviour:
    return narrow(SHELVES["behaviour"].find(kind).model_validate({"kind": kind, "share": 0.3, **settings}), ColludingBehaviour)


class _Everybody(ColludingBehaviour):
    """All clients collude and send one vector of 1e4; nobody is honest, to bound what a whole cohort of attackers can do."""

    def craft(self, honest_FD: Tensor, clients: int) -> Tensor:
        return honest_FD.sum(0) * 0 + 1e4


def check_attackers_move_the_sum_by_their_clips(plan: Any, deltas: Mapping[int, Tensor]) -> None:
    crafted = _Everybody(kind="everybody", share=0.5)
    assert float(released(plan, deltas, behaviour=crafted).norm()) <= len(deltas) * CLIP * (1 + 1e-4)
    for kind, settings in (("ipm", {"eps": 1e4}), ("alie", {"z": 1e4}), ("min_max", {}), ("min_sum", {})):
        moved_D = released(plan, deltas, behaviour=_attack(kind, **settings))
        assert float(moved_D.norm()) <= len(deltas) * CLIP * (1 + 1e-4), kind


def test_the_plan_clips_what_attackers_send() -> None:
    deltas = updates(4)
    check_attackers_move_the_sum_by_their_clips(central(), deltas)


def test_attackers_that_skip_the_clip_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = central()
    monkeypatch.setattr(type(plan), "at_client", lambda self, joined_D, *_: _unclipped(joined_D))
    with pytest.raises(AssertionError):
        check_attackers_move_the_sum_by_their_clips(plan, updates(4))


def _unclipped(joined_D: Tensor) -> Any:
    return Contribution(joined_D, True, None)
