"""Compressors under client-level plans: the clip holds whatever a client remembers, and lost clients remember nothing new.

The order is memory, compression, clip, noise. Code that clips first is shown to be found.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from fixed_updates import CLIP, LAYOUT, D, Lossy, central, play, updates
from test_privacy_mutants import Edit, mutate
from torch import Tensor

from privfl.federation import rounds
from privfl.federation.client_states import ClientState
from privfl.federation.server_state import ServerState
from privfl.federation.transforms import Shared, Transform
from privfl.federation.transforms.count_sketch import CountSketch
from privfl.federation.transforms.eden import Eden
from privfl.federation.transforms.power_sgd import PowerSgd
from privfl.federation.transforms.qsgd import Qsgd
from privfl.federation.transforms.random_k import RandomK
from privfl.federation.transforms.scaled_sign import ScaledSign
from privfl.federation.transforms.top_k import TopK
from privfl.seeding import Seed

TRANSFORMS: dict[str, Transform] = {
    "top_k": TopK(kind="top_k", share=0.1),
    "scaled_sign": ScaledSign(kind="scaled_sign"),
    "qsgd": Qsgd(kind="qsgd"),
    "eden": Eden(kind="eden"),
    "power_sgd": PowerSgd(kind="power_sgd", rank=1),
    "count_sketch": CountSketch(kind="count_sketch", rows=3, share=0.5),
}


def released(deltas: Mapping[int, Tensor], memory: Mapping[int, Tensor], transform: Transform) -> Tensor:
    """The sum that a round under a client-level plan releases, from clients with these memories."""
    plan = central()
    clients = {client: ClientState(error_D=error_D) for client, error_D in memory.items()}
    shared = transform.init(LAYOUT, Seed(5))
    begin = ServerState(0, torch.zeros(D), {}, plan.initial(torch.device("cpu")), {}, clients, transform=shared)
    return play(plan, deltas, state=begin, transform=transform).state.global_D.double() * plan.size


def check_a_memory_moves_the_sum_by_no_more_than_the_norm(kind: str) -> None:
    transform = TRANSFORMS[kind]
    others, quiet_D = updates(3), torch.zeros(D)
    for error_D in (quiet_D, torch.full((D,), 1e3), torch.arange(D) * 1.0):
        for one_D in (torch.full((D,), 50.0), torch.full((D,), 0.01)):
            distance = released({**others, 7: one_D}, {7: error_D}, transform) - released(others, {}, transform)
            assert float(distance.norm()) <= CLIP * (1 + 1e-4) + 1e-4


@pytest.mark.parametrize("kind", ["top_k", "scaled_sign", "qsgd", "eden"])
def test_a_client_moves_a_released_sum_by_no_more_than_the_norm_whatever_it_remembers(kind: str) -> None:
    check_a_memory_moves_the_sum_by_no_more_than_the_norm(kind)


def test_a_clip_before_the_memory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plan_first = "self.plan.at_client(joined_D, self.payload.joined, state.plan, task.seed).delta_D"
    mutate(
        monkeypatch, Edit(rounds.Round, "_uploaded", "sent(self.transform, joined_D,", f"sent(self.transform, {plan_first},")
    )
    clip = "self.plan.at_client(joined_D, context.layout, state.plan, task.seed, rounding)"
    mutate(monkeypatch, Edit(rounds.Round, "_hand_in", clip, "Contribution(joined_D, True, None)"))
    with pytest.raises(AssertionError):
        check_a_memory_moves_the_sum_by_no_more_than_the_norm("top_k")


def test_a_linear_message_is_clipped_as_it_is_sent_and_its_noise_is_on_its_entries() -> None:
    """Random-k: the server multiplies the noised mean by D'/k, and all other entries stay exactly zero."""
    transform, plan = RandomK(kind="random_k", share=0.25), central(noise_multiplier=1.0)
    outcome = play(plan, updates(4), transform=transform)
    moved_D = outcome.state.global_D
    assert int((moved_D != 0).sum()) == D // 4
    assert outcome.aggregate is not None
    shared = Shared(LAYOUT, {}, Seed(5) / "round" / 0 / "transform")
    rows_KM = outcome.aggregate.seen["updates_KD"] * (moved_D != 0) / 4
    assert float(rows_KM.norm(dim=1).max()) <= CLIP * (1 + 1e-5)
    own = torch.stack([transform.compress(one_D, shared, Seed(0)) for one_D in updates(4).values()])
    clipped = own * (CLIP / own.norm(dim=1, keepdim=True)).clamp_max(1.0)
    assert torch.allclose(outcome.aggregate.seen["updates_KD"], transform.restore(clipped, shared), rtol=1e-4)


# --- the memory ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["top_k", "power_sgd"])
def test_a_client_that_is_lost_keeps_its_memory(kind: str) -> None:
    transform, deltas = TRANSFORMS[kind], updates(4)
    begin_D, before_D = torch.zeros(D), torch.ones(D)
    clients = {client: ClientState(error_D=before_D) for client in deltas}
    plan = central()
    begin = ServerState(
        0, begin_D, {}, plan.initial(torch.device("cpu")), {}, clients, transform=transform.init(LAYOUT, Seed(5))
    )
    lossy = Lossy(kind="lossy", lost=(1, 2))
    after = play(plan, deltas, state=begin, aggregator=lossy, transform=transform).state.clients
    kept = [client for client in deltas if torch.equal(after[client].error_D, before_D)]  # type: ignore[arg-type]
    assert kept == [1, 2]


def test_a_client_whose_update_is_not_finite_keeps_its_memory() -> None:
    deltas = {**updates(3), 1: torch.full((D,), torch.nan)}
    outcome = play(central(), deltas, transform=TopK(kind="top_k", share=0.1))
    assert bool(outcome.state.global_D.isfinite().all())
    memory = {client: state.error_D for client, state in outcome.state.clients.items()}
    assert torch.equal(memory[1], torch.zeros(D))  # type: ignore[arg-type]
    assert bool(memory[0].any())  # type: ignore[union-attr]
