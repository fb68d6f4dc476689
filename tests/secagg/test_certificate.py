"""The numbers of a round: those of the literature, those that a count confirms, and none that keep too little."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, hypergeom

from privfl.errors import ConfigError, ThresholdError
from privfl.secagg import certificate, graph
from privfl.secagg.certificate import Policy, certify

SPARSE = Policy(graph="sparse", adversary="semi_honest")

# Degree and threshold by Bell's criterion with σ = 40, η = 30 and 2t > k + 1, for (γ, δ); recomputed apart from this project.
TABLE = {
    100: [(12, 7), (22, 12), (26, 20), (42, 22), (36, 30)],
    1_000: [(34, 18), (52, 28), (60, 40), (112, 59), (86, 64)],
    10_000: [(38, 21), (60, 32), (68, 46), (136, 71), (104, 77)],
    1_000_000: [(44, 24), (70, 37), (80, 53), (160, 83), (120, 88)],
}
RATES = [(0.05, 0.05), (0.1, 0.1), (0.2, 0.05), (0.2, 0.2), (1 / 3, 0.05)]


@pytest.mark.parametrize("clients", TABLE)
def test_semi_honest_numbers_are_those_of_the_table(clients: int) -> None:
    for (corrupt, dropout), expected in zip(RATES, TABLE[clients], strict=True):
        found = certify(replace(SPARSE, max_corrupt=corrupt, max_dropout=dropout), clients)
        assert (found.neighbours, found.threshold) == expected
        assert found.log2_shares <= -41
        assert found.log2_disconnected <= -41
        assert found.log2_recovery <= -30


@pytest.mark.parametrize("adversary", ["semi_honest", "active"])
def test_the_numbers_found_are_the_first_that_are_enough(adversary: str) -> None:
    policy = replace(SPARSE, adversary=adversary)  # type: ignore[arg-type]
    for clients in (200, 500, 2000):
        found = certify(policy, clients)
        with pytest.raises(ThresholdError, match="does not withstand"):
            certify(replace(policy, neighbours=found.neighbours - 2), clients)
        given = certify(replace(policy, neighbours=found.neighbours, threshold=found.threshold), clients)
        assert given == found
        with pytest.raises(ThresholdError, match="does not withstand"):
            certify(replace(policy, neighbours=found.neighbours, threshold=found.neighbours + 1), clients)


def test_more_to_withstand_takes_more_neighbours() -> None:
    degrees = [certify(replace(SPARSE, max_corrupt=rate), 1000).neighbours for rate in (0.02, 0.05, 0.1, 0.2, 0.3)]
    assert degrees == sorted(degrees)
    assert certify(replace(SPARSE, adversary="active"), 1000).neighbours > certify(SPARSE, 1000).neighbours
    assert certify(replace(SPARSE, security_bits=80), 1000).neighbours > certify(SPARSE, 1000).neighbours


def test_a_count_of_broken_graphs_stays_below_the_certificate() -> None:
    """Weak numbers, so that failures can be counted: the share of failures is no larger than the certified bound.

    4,000 draws; if the bound were exactly the truth, a count above the limit would come with a chance of 1e-9.
    """
    clients, degree, threshold, corrupt, lost, draws = 24, 4, 3, 6, 3, 4000
    policy = replace(SPARSE, max_corrupt=corrupt / clients, max_dropout=lost / clients, neighbours=degree, threshold=threshold)
    with pytest.raises(ThresholdError, match=r"2\^[-\d.]+ insecure"):
        certify(policy, clients)
    found = certificate._sparse_with(policy, clients, 2, degree)
    generator = np.random.default_rng(0)
    exposed = apart = starved = 0
    for _ in range(draws):
        ring = graph.circulant(range(clients), degree, generator.bytes(32))
        order = generator.permutation(clients)
        bad, gone = set(order[:corrupt].tolist()), set(order[corrupt : corrupt + lost].tolist())
        exposed += any(len(bad.intersection(near.tolist())) >= threshold for near in ring.values())
        starved += any(degree - len(gone.intersection(near.tolist())) < threshold for near in ring.values())
        apart += not connected({one: set(near.tolist()) for one, near in ring.items() if one not in bad | gone})
    for count, log2 in ((exposed, found.log2_shares), (apart, found.log2_disconnected), (starved, found.log2_recovery)):
        assert count <= binom.ppf(1 - 1e-9, draws, min(1.0, 2.0**log2)), (count, log2)
    assert exposed > 0 < apart, "the count must be able to see a failure"


def test_drawn_graphs_fall_apart_less_often_than_certified() -> None:
    """Against an active server: for every set of lost clients at once, by trying all parts of honest clients.

    A part is cut off if each of its clients drew at least t holders inside it or among the corrupt.
    """
    clients, degree, threshold, corrupt, draws = 10, 5, 4, 1, 200
    bound = 2.0 ** certificate._log2_drawn_apart(clients, corrupt, degree, threshold)
    exact = 0.0
    honest = clients - corrupt
    for size in range(1, honest // 2 + 1):
        inside = float(hypergeom.sf(threshold - 1, clients - 1, size - 1 + corrupt, degree))
        exact += math.comb(honest, size) * inside**size
    assert exact <= bound, "Chernoff's bound is no smaller than the tail itself"
    generator = np.random.default_rng(1)
    parts = [part for part in range(1, 2**honest) if 0 < part.bit_count() <= honest // 2]
    cut = 0
    for _ in range(draws):
        holders = [set(graph.drawn(range(clients), one, degree, generator.bytes(32)).tolist()) for one in range(honest)]
        friends = [sum(1 << other for other in found if other < honest) for found in holders]
        spies = [sum(other >= honest for other in found) for found in holders]
        cut += any(
            all((friends[one] & part).bit_count() + spies[one] >= threshold for one in range(honest) if part >> one & 1)
            for part in parts
        )
    assert cut <= binom.ppf(1 - 1e-9, draws, bound)


def check_two_quorums_share_an_honest_client() -> None:
    """Any two sets of signers have more in common than the corrupt: no two sets of survivors are both signed for."""
    for corrupt, dropout in ((0.0, 0.4), (0.1, 0.4), (0.1, 0.1), (0.3, 0.3), (1 / 3, 0.3)):
        for clients in (100, 101, 997, 1000):
            policy = Policy(graph="sparse", adversary="active", max_corrupt=corrupt, max_dropout=dropout, neighbours=60)
            found = certificate._sparse_with(policy, clients, 2, 60)
            assert 2 * found.quorum > clients + math.floor(corrupt * clients + 1e-9)


def check_survivors_of_a_sparse_graph() -> None:
    """Bounds are for no more than ⌊δn⌋ lost, so that with more no sum is revealed."""
    for adversary in ("semi_honest", "active"):
        for clients, dropout, least in ((500, 0.1, 450), (501, 0.1, 451), (1000, 0.25, 750)):
            policy = replace(SPARSE, adversary=adversary, max_dropout=dropout)
            assert certify(policy, clients).survivors == least


def check_the_union_bound_is_that_of_the_chapter() -> None:
    """Σ_s C(h, s) exp(−s k KL(t/k ‖ (s − 1 + c)/(n − 1))), added up one by one."""
    for clients, corrupt, degree, threshold in ((100, 10, 36, 26), (1000, 100, 90, 58), (50, 0, 20, 15)):
        honest, total, share = clients - corrupt, 0.0, threshold / degree
        for size in range(max(1, threshold - corrupt + 1), honest // 2 + 1):
            hit = (size - 1 + corrupt) / (clients - 1)
            kl = math.inf
            if 0 < hit < share:
                kl = share * math.log(share / hit) + (1 - share) * math.log((1 - share) / (1 - hit))
            total += math.exp(math.log(math.comb(honest, size)) - size * degree * kl)
        assert certificate._log2_drawn_apart(clients, corrupt, degree, threshold) == pytest.approx(math.log2(total), abs=1e-6)


def test_two_quorums_share_an_honest_client() -> None:
    check_two_quorums_share_an_honest_client()


def test_survivors_of_a_sparse_graph() -> None:
    check_survivors_of_a_sparse_graph()


def test_the_union_bound_is_that_of_the_chapter() -> None:
    check_the_union_bound_is_that_of_the_chapter()


def test_a_minimum_is_part_of_the_certificate() -> None:
    """What is certified is what is done: with three of ten lost, seven are left, and a floor of eight loses the round."""
    policy = Policy(max_dropout=0.3)
    assert certify(policy, 10).log2_recovery == certify(policy, 10, 7).log2_recovery == -math.inf
    found = certify(policy, 10, 8)
    assert (found.survivors, found.log2_recovery) == (8, 0.0)
    assert certify(replace(policy, adversary="active", max_corrupt=0.0), 10, 7).quorum == 7
    sparse = certify(SPARSE, 200, 175)
    assert (sparse.graph, sparse.survivors) == ("sparse", 180)
    with pytest.raises(ThresholdError, match="does not withstand"):
        certify(SPARSE, 200, 181)
    complete = certify(Policy(), 200, 181)
    assert (complete.graph, complete.survivors, complete.log2_recovery) == ("complete", 181, 0.0)
    with pytest.raises(ThresholdError, match="must be at least 12"):
        certify(policy, 10, 12)


def test_a_roster_that_could_not_sign_is_refused_at_once() -> None:
    with pytest.raises(ThresholdError, match="51 of a cohort of 100 clients: 56 must sign for a sum"):
        certify(Policy(roster_share=0.51), 51, 3, 100)


INFEASIBLE = Policy(graph="sparse", adversary="active", max_corrupt=0.3, max_dropout=0.3)


@pytest.mark.parametrize("clients", [300, 1500, 3000, 100_000])
@pytest.mark.parametrize("policy", [INFEASIBLE, replace(INFEASIBLE, graph="auto"), Policy(adversary="active"), SPARSE], ids=str)
def test_any_roster_has_its_numbers_within_two_seconds(policy: Policy, clients: int) -> None:
    begun = time.process_time()
    with contextlib.suppress(ThresholdError):
        certify(policy, clients)
    assert time.process_time() - begun < 2


def test_a_refusal_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    # No other test asks for these.
    policy, refusals = replace(INFEASIBLE, max_corrupt=0.29, neighbours=20), set[str]()
    for _ in range(2):
        with pytest.raises(ThresholdError, match="does not withstand") as caught:
            certify(policy, 50)
        refusals.add(str(caught.value))
        monkeypatch.setattr(certificate, "_chosen", lambda *_: pytest.fail("it was searched for again"))
    assert len(refusals) == 1


def test_tails_are_those_of_scipy() -> None:
    for total, marked, drawn in ((9, 3, 4), (99, 10, 22), (99, 95, 22), (999, 100, 300), (999, 0, 5), (7, 7, 7)):
        every = np.arange(drawn + 1)
        above, below = hypergeom.logsf(every, total, marked, drawn), hypergeom.logcdf(every, total, marked, drawn)
        np.testing.assert_allclose(certificate._log_above(total, marked, drawn), above, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(certificate._log_up_to(total, marked, drawn), below, rtol=1e-9, atol=1e-11)


def connected(near: dict[int, set[int]]) -> bool:
    """Whether all that are left can reach each other through those that are left."""
    if not near:
        return True
    reached, todo = set(), [next(iter(near))]
    while todo:
        one = todo.pop()
        if one not in reached:
            reached.add(one)
            todo.extend(near[one] & near.keys())
    return len(reached) == len(near)


# --- complete graphs and floors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("clients", [3, 4, 5, 9, 10, 33, 100])
def test_a_complete_graph_leaves_nothing_to_chance(clients: int) -> None:
    for corrupt in (0.0, 0.1, 0.25):
        semi = certify(Policy(graph="complete", max_corrupt=corrupt, adversary="semi_honest"), clients)
        active = certify(Policy(graph="complete", max_corrupt=corrupt), clients)
        bad = max(1, math.ceil(corrupt * clients - 1e-9))
        assert semi.threshold > bad
        assert 2 * semi.threshold > clients, "a server that lies once would have shares of both secrets"
        assert 2 * active.threshold > clients + bad
        assert 2 * active.quorum > clients + bad
        assert semi.quorum == 0
        assert min(semi.survivors, active.survivors) >= 2
        assert semi.log2_insecure == active.log2_insecure == -math.inf


def test_against_an_active_server_a_third_corrupt_gives_two_thirds() -> None:
    # Bonawitz et al. 2017, theorem 6.5
    for clients in (30, 99, 300):
        policy = Policy(graph="complete", adversary="active", max_corrupt=1 / 3, max_dropout=0.2)
        assert certify(policy, clients).threshold == 2 * clients // 3 + 1


def test_at_least_two_honest_clients_are_in_a_sum() -> None:
    for graph_kind in ("complete", "auto"):
        for clients in range(4, 40):
            for corrupt in (0.0, 0.1, 0.3):
                policy = Policy(graph=graph_kind, adversary="semi_honest", max_corrupt=corrupt, max_dropout=0.45)
                assert certify(policy, clients).survivors - max(1, math.ceil(corrupt * clients - 1e-9)) >= 2


def test_auto_is_complete_for_few_and_sparse_for_many() -> None:
    looking = Policy(adversary="semi_honest")
    assert [certify(looking, clients).graph for clients in (3, 63, 100, 1000)] == ["complete", "complete", "sparse", "sparse"]
    assert certify(Policy(), 100).graph == "complete"
    assert certify(Policy(), 2000).graph == "sparse"


@pytest.mark.parametrize(
    ("policy", "match"),
    [
        ({"max_corrupt": 1.0}, r"must be in \[0, 1\)"),
        ({"max_corrupt": 0.6, "max_dropout": 0.45}, "must be below 1"),
        ({"max_dropout": 0.5}, r"in \[0, 0.5\)"),
        ({"adversary": "active", "max_dropout": 0.45}, "no majority"),
        ({"security_bits": 39}, r"must be in \[40, 128\]"),
        ({"recovery_bits": 0}, r"must be in \[1, 128\]"),
        ({"roster_share": 0.5}, r"must be in \(0.5, 1\]"),
        ({"neighbours": 22, "threshold": 11}, "must be at least 12"),
        ({"neighbours": 21, "threshold": 11}, "must be at least 12"),
        ({"threshold": 1}, "at least 2"),
        ({"neighbours": 1}, "at least 2"),
        ({"graph": "complete", "neighbours": 4}, "for graph = 'sparse' only"),
    ],
    ids=str,
)
def test_senseless_policies_are_refused(policy: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Policy(**policy)  # type: ignore[arg-type]


def test_numbers_that_do_not_fit_the_roster_are_refused() -> None:
    with pytest.raises(ThresholdError, match="must be below 10 and even"):
        certify(replace(SPARSE, neighbours=10), 10)
    with pytest.raises(ThresholdError, match="and even"):
        certify(replace(SPARSE, neighbours=5), 10)
    with pytest.raises(ThresholdError, match="a threshold of 11 for 10 clients"):
        certify(Policy(graph="complete", threshold=11), 10)
    with pytest.raises(ThresholdError, match="a threshold of 5 for 10 clients: must be from 6"):
        certify(Policy(graph="complete", adversary="active", threshold=5), 10)
