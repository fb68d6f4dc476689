"""Canaries take the places of examples or clients, and their coins show in nothing that is public."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from small_runs import SMALL, small

from privfl.data.federated import Examples, Pixels
from privfl.errors import ConfigError
from privfl.federation.canaries import Canaries, Site
from privfl.federation.canaries.canife import _gradients
from privfl.federation.canaries.crafted import _reference
from privfl.learning.training._directions import Directions, PlantedGradients
from privfl.running.assembling import assemble
from privfl.running.determinism import deterministic
from privfl.running.experiment import Experiment
from privfl.seeding import Seed
from privfl.tables import narrow

KINDS = ["blank", "canife", "crafted", "gradient", "mislabelled", "random"]
ONE_STEP: dict[str, Any] = {
    "data": {"kind": "digits", "clients": 4},
    "cohort": {"kind": "all"},
    "training": {"local_steps": 1, "batch_size": 2000, "lr": 0.5},
    "privacy": {"kind": "example", "noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 0.3},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
}


def planted(kind: str, count: int = 60, **changes: Any) -> Experiment:
    return assemble(small(**{**SMALL, **changes, "canaries": {"kind": kind, "count": count}}))


class OtherCoins(Seed):
    """A seed with all streams as they were but that of the coins."""

    def __truediv__(self, name: str | int) -> Seed:
        return Seed(self.root, (*self.path, "other coins" if name == "coins" else name))


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_is_public_is_that_of_the_run_without_canaries(kind: str) -> None:
    plain, audited = assemble(small()), planted(kind)
    assert np.array_equal(audited.data.owner_N, plain.data.owner_N)
    assert audited.data.sizes().tolist() == plain.data.sizes().tolist()
    assert audited.cohorts == plain.cohorts
    assert audited.plan == plain.plan
    assert audited.ledger(4).epsilon() == plain.ledger(4).epsilon()
    others = ~audited.data.candidate_N
    assert audited.data.candidate_N.sum() == 60
    assert np.array_equal(audited.data.pool.x[others], plain.data.pool.x[others])
    assert np.array_equal(audited.data.pool.y[others], plain.data.pool.y[others])
    assert np.array_equal(audited.data.member_N[others], plain.data.member_N[others])


@pytest.mark.parametrize("kind", KINDS)
def test_the_coins_show_in_nothing_but_membership(kind: str) -> None:
    experiment = assemble(small())
    item = narrow(small(canaries={"kind": kind, "count": 60}).canaries, Canaries)
    site = Site(experiment.data, experiment.task, experiment.model, Seed(0) / "canaries")
    one, other = item.planted(site), item.planted(replace(site, seed=OtherCoins(0, ("canaries",))))
    assert one.digest() == other.digest()
    assert np.array_equal(one.candidate_N, other.candidate_N)
    differ = one.member_N != other.member_N
    assert 10 < differ.sum() < 50
    assert not differ[~one.candidate_N].any()


def test_the_coins_are_fair_and_know_nothing_of_client_or_class() -> None:
    """6,000 coins of 100 seeds; each test fails for one set of seeds in a thousand."""
    experiment = assemble(small())
    item = narrow(small(canaries={"kind": "mislabelled", "count": 60}).canaries, Canaries)
    members, owners, classes = [], [], []
    for seed in range(100):
        data = item.planted(Site(experiment.data, experiment.task, experiment.model, Seed(seed)))
        members.append(data.member_N[data.candidate_N])
        owners.append(data.owner_N[data.candidate_N])
        classes.append(data.pool.y[data.candidate_N])
    member, owner, label = np.concatenate(members), np.concatenate(owners), np.concatenate(classes)
    assert stats.binomtest(int(member.sum()), len(member)).pvalue > 1e-3
    for public in (owner, label):
        table = [
            [np.count_nonzero(member[public == one]), np.count_nonzero(~member[public == one])] for one in np.unique(public)
        ]
        assert stats.chi2_contingency(table).pvalue > 1e-3


def test_the_kinds_are_what_they_say() -> None:
    plain = assemble(small()).data
    found = {kind: planted(kind).data for kind in KINDS}
    rows = np.flatnonzero(found["mislabelled"].candidate_N)
    assert np.array_equal(found["mislabelled"].pool.x[rows], plain.pool.x[rows])
    assert (found["mislabelled"].pool.y[rows] != plain.pool.y[rows]).all()
    assert np.array_equal(found["gradient"].pool.x, plain.pool.x)
    blank = found["blank"].pool.x[rows].reshape(60, -1)
    assert ((blank == plain.pool.x.max()).sum(axis=1) == 1).all()
    assert len(np.unique(blank, axis=0)) == 60
    random = found["random"].pool.x[rows].reshape(60, -1)
    real = plain.pool.x.reshape(len(plain.pool), -1)
    assert all(np.isin(random[:, place], real[:, place]).all() for place in range(64))
    assert not (random[:, None] == real[None]).all(axis=2).any()


def test_crafted_inputs_are_wrong_for_a_model_that_never_saw_them_and_stay_in_range() -> None:
    experiment = assemble(small())
    site = Site(experiment.data, experiment.task, experiment.model, Seed(0))
    losses = []
    module = _reference(site, np.random.default_rng(1))
    for kind in ("mislabelled", "crafted"):
        data = narrow(small(canaries={"kind": kind, "count": 60}).canaries, Canaries).planted(site)
        x, y = (torch.from_numpy(part[data.candidate_N]) for part in (data.pool.x, data.pool.y))
        losses.append(experiment.task.loss(module(x), y).mean().item())
        assert (data.pool.x.min(axis=0) >= experiment.data.pool.x.min(axis=0)).all()
        assert (data.pool.x.max(axis=0) <= experiment.data.pool.x.max(axis=0)).all()
    # Another reference model than the one that they were crafted with.
    assert losses[1] > 2 * losses[0]


def test_far_inputs_have_gradients_that_others_hide_less() -> None:
    experiment = assemble(small())
    site = Site(experiment.data, experiment.task, experiment.model, Seed(0))
    gradients, rng = _gradients(site), np.random.default_rng(1)
    # Other batches than those that were avoided: of the pool.
    fresh = rng.integers(0, len(experiment.data.pool), (20, 32))
    pool = [torch.from_numpy(part) for part in (experiment.data.pool.x, experiment.data.pool.y)]
    mean_JD = torch.stack([gradients(pool[0][rows], pool[1][rows]).mean(0) for rows in fresh])
    hidden, norms = [], []
    for kind in ("mislabelled", "canife"):
        data = narrow(small(canaries={"kind": kind, "count": 60}).canaries, Canaries).planted(site)
        x, y = (torch.from_numpy(part[data.candidate_N]) for part in (data.pool.x, data.pool.y))
        found_MD = gradients(x, y)
        norms.append(torch.linalg.vector_norm(found_MD, dim=1))
        hidden.append((torch.nn.functional.normalize(found_MD, dim=1) @ mean_JD.T).square().mean().sqrt().item())
        assert (data.pool.x.min(axis=0) >= experiment.data.pool.x.min(axis=0)).all()
        assert (data.pool.x.max(axis=0) <= experiment.data.pool.x.max(axis=0)).all()
    assert hidden[1] < hidden[0] / 3
    # As long as the clipping norm, so that they show in a clipped sum as much as they can.
    assert norms[1].median() > 0.9


def test_tokens_cannot_be_moved() -> None:
    loaded = assemble(small())
    module = torch.nn.Sequential(torch.nn.Embedding(17, 4), torch.nn.Flatten(), torch.nn.Linear(256, 10))
    site = Site(loaded.data, loaded.task, module, Seed(0))
    for kind in ("canife", "crafted"):
        with pytest.raises(ConfigError, match="inputs are tokens, which cannot be moved; set 'mislabelled'"):
            narrow(small(canaries={"kind": kind, "count": 60}).canaries, Canaries).planted(site)


def test_bytes_are_crafted_as_bytes() -> None:
    loaded = assemble(small())
    pixels = Pixels((0.5,), (0.25,))
    pool, test = (
        Examples(np.clip(part.x * 16, 0, 255).round().astype(np.uint8).reshape(-1, 1, 8, 8), part.y)
        for part in (loaded.data.pool, loaded.data.test)
    )
    data = replace(loaded.data, pool=pool, test=test, pixels=pixels)
    item = narrow(small(canaries={"kind": "crafted", "count": 60}).canaries, Canaries)
    found = item.planted(Site(data, loaded.task, torch.nn.Sequential(torch.nn.Flatten(), loaded.model), Seed(0))).pool.x
    assert found.dtype == np.uint8
    assert (found != pool.x).reshape(len(pool), -1).any(axis=1).sum() == 60


def test_every_client_keeps_a_member_whatever_the_coins_are() -> None:
    data = planted("mislabelled", 1400, data={"kind": "digits", "clients": 30}).data
    fixed = ~data.candidate_N & data.member_N
    assert set(data.owner_N[fixed]) == set(range(30))


def deltas(experiment: Experiment) -> torch.Tensor:
    """Each client's update in the first round, (K, D)."""
    cohort = experiment.cohort(experiment.initial_state())
    with deterministic():
        results = experiment.trainer.train(experiment.initial_D, [cohort.task(client) for client in cohort.clients])
    return torch.stack([one.delta_D for one in results])


@pytest.mark.parametrize("engine", ["fused", "opacus"])
def test_a_gradient_canary_moves_its_client_by_all_of_the_clipping_norm(engine: str) -> None:
    """−lr · C / B along its direction, and nobody else; the draws of both runs are named alike for this."""
    experiment = planted("gradient", **{**ONE_STEP, "training": {**ONE_STEP["training"], "engine": engine}})
    assert experiment.engine.startswith(engine)
    assert experiment.canaries is not None
    directions, rows = experiment.canaries.directions, np.flatnonzero(experiment.data.candidate_N)
    assert directions is not None
    member = experiment.data.member_N.copy()
    place, row = 7, rows[7]
    member[row] = True
    inside = replace(experiment, data=replace(experiment.data, member_N=member))
    out = member.copy()
    out[row] = False
    moved = deltas(inside) - deltas(replace(inside, data=replace(inside.data, member_N=out)))
    client = experiment.data.owner_N[row]
    assert bool((moved[torch.arange(4) != client] == 0).all())
    size = experiment.data.sizes()[client]
    assert torch.allclose(moved[client], -0.5 * 0.3 / size * directions.vector(place), atol=1e-7)


@pytest.mark.parametrize("direction", ["dirac", "random"])
@pytest.mark.parametrize("clipping", ["flat", "per_layer"])
def test_both_engines_plant_the_same_gradients(direction: str, clipping: str) -> None:
    """Several steps, canaries in most batches, a budget that cuts batches, and noise that is nearly none."""
    changes = {
        **ONE_STEP,
        "model": {"kind": "mlp", "hidden": [8]},
        "canaries": {"kind": "gradient", "count": 300, "direction": direction, "scale": 3.0},
        "privacy": {**ONE_STEP["privacy"], "noise_multiplier": 1e-3, "clipping": clipping},
    }
    found = []
    for engine in ("fused", "opacus"):
        training = {"local_steps": 4, "batch_size": 100, "lr": 0.5, "engine": engine}
        experiment = assemble(small(**{**SMALL, **changes, "training": training}))
        # The same noise for both.
        experiment = replace(experiment, noise_domain="one")
        found.append(deltas(experiment))
    assert float(found[0].abs().max()) > 1e-3
    assert torch.allclose(found[0], found[1], atol=1e-6)


def test_canary_clients_upload_their_direction_or_a_zero() -> None:
    experiment = planted(
        "client",
        20,
        data={"kind": "digits", "clients": 30},
        privacy={"kind": "client_central", "noise_multiplier": 1.0, "delta": 1e-2, "max_update_norm": 0.5},
    )
    assert experiment.canaries is not None
    canaries = experiment.canaries.clients(experiment.data, experiment.plan)
    assert canaries is not None
    own_D = torch.ones(650)
    sent = 0
    for client in range(30):
        found_D = canaries.upload(client, own_D)
        if client not in canaries.place_of:
            assert found_D is own_D
        elif found_D.any():
            assert float(found_D.norm()) == pytest.approx(5.0, rel=1e-5)
            sent += 1
    assert sent == canaries.sent_M.sum()
    assert 0 < sent < 20
    # Whatever its coin is, it has something to train on, of which nothing is used.
    task = experiment.cohort(experiment.initial_state()).task
    assert all(len(task(client).rows_n) for client in canaries.place_of)


def test_directions_are_unit_vectors_and_products_are_theirs() -> None:
    vectors = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    for axes in (None, np.array([4, 0, 49])):
        found = Directions(3, 50, Seed(1), axes)
        matrix = torch.stack([found.vector(place) for place in range(3)])
        assert torch.allclose(matrix.norm(dim=1), torch.ones(3))
        assert found.products(vectors) == pytest.approx((vectors.double() @ matrix.double().T).numpy())
        assert found.products(vectors, np.array([2])) == pytest.approx(found.products(vectors)[:, 2:])


def test_planted_gradients_are_found_in_a_batch() -> None:
    given = PlantedGradients(np.array([3, 5, 9]), lambda place: torch.full((2,), float(place)))
    found = given.among(torch.tensor([9, 1, 3, 100]))
    assert [(place, float(vector[0])) for place, vector in found] == [(0, 2.0), (2, 0.0)]
    assert given.among(torch.tensor([], dtype=torch.int64)) == []
