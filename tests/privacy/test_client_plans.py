"""What client-level plans release: how far one client can move it, how much noise there is, and where it comes from.

Each statistical check fails a correct plan for fewer than one seed in 10,000; all are seeded. The ``check_...`` functions
are put to plans that were broken on purpose as well (``test_privacy_mutants.py``).
"""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from fixed_updates import (
    CLIP,
    LAYOUT,
    POPULATION,
    CodedSum,
    D,
    central,
    distributed,
    dpftrl,
    local,
    loud,
    play,
    released,
    updates,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_factorization import strategy as matrix_of
from test_factorization import worst
from torch import Tensor

from privfl.errors import PrivacyError
from privfl.federation.aggregators import ClientUpdate, RoundContext
from privfl.federation.aggregators.mean import Mean
from privfl.federation.aggregators.plain_sum import PlainSum
from privfl.federation.aggregators.secure_sum import SecureSum
from privfl.federation.rounds import skip_reason
from privfl.privacy import gaussian
from privfl.privacy.client_plans import ClientPlan
from privfl.privacy.clipping import clip_update
from privfl.privacy.events import CohortSum
from privfl.privacy.factorization import Participation
from privfl.privacy.ledger import Ledger
from privfl.privacy.mechanisms import History, MatrixGaussian
from privfl.privacy.plans._clipping import AdaptiveClipping
from privfl.privacy.plans.client_central import CentralPlan, Imagined
from privfl.seeding import Seed
from privfl.vectors import Layout

ERROR = 1e-4

ADAPTIVE = AdaptiveClipping(kind="adaptive")

QUIET: dict[str, ClientPlan] = {
    "central": central(),
    "central per layer": central(scheme="per_layer"),
    "central fixed": central(sampler="fixed"),
    "central everybody": central(sampler="all", size=POPULATION),
    "central adaptive": central(adaptive=ADAPTIVE),
    "dpftrl": dpftrl(),
    "dpftrl, tree": dpftrl(factorization="tree", scheme="per_layer"),
    "local": local(),
    "local per layer": local(scheme="per_layer"),
}
"""Plans whose noise is too small to be seen: what they release is what they release before noise."""


def adversarial() -> Iterator[Tensor]:
    """Updates that a client may make up to move the sum as far as it can."""
    yield torch.full((D,), 1e30)
    yield torch.full((D,), -3e38)
    yield torch.full((D,), torch.nan)
    yield torch.cat([torch.tensor([torch.inf]), torch.zeros(D - 1)])
    yield torch.cat([torch.tensor([CLIP]), torch.zeros(D - 1)])
    yield torch.cat([torch.tensor([1e-38]), torch.zeros(D - 1)])
    yield torch.zeros(D)
    yield torch.cat([torch.full((20,), 1e-3), torch.full((4,), 1e6)])


def moved(plan: ClientPlan, others: dict[int, Tensor], one: Tensor, another: Tensor | None) -> float:
    """How far the release moves when client 7 hands in ``one``, and ``another``, or is not there (or sends a zero)."""
    gone = {} if isinstance(plan, CentralPlan) else {7: torch.zeros(D)}
    second = gone if another is None else {7: another}
    return float((released(plan, {**others, 7: one}) - released(plan, {**others, **second})).norm())


def check_sensitivity(plan: ClientPlan | None = None) -> None:
    """One client more or less moves the sum by at most C, another in its place by at most 2C; for empty, single and full
    cohorts and whatever it makes up."""
    for quiet in QUIET.values() if plan is None else [plan]:
        for count in (0, 1, POPULATION - 5):
            for one in adversarial():
                # 2e-6: a mean is handed on in float32.
                assert moved(quiet, updates(count), one, None) <= CLIP * (1 + 1e-5) + 2e-6
                assert moved(quiet, updates(count), one, -one) <= 2 * CLIP * (1 + 1e-5) + 2e-6


@pytest.mark.parametrize("name", QUIET)
def test_sensitivity(name: str) -> None:
    check_sensitivity(QUIET[name])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(QUIET)),
    st.integers(0, 6),
    st.lists(st.floats(width=32), min_size=D, max_size=D),
    st.lists(st.floats(width=32), min_size=D, max_size=D),
)
def test_sensitivity_to_random_records(name: str, count: int, one: list[float], another: list[float]) -> None:
    first, second = torch.tensor(one), torch.tensor(another)
    assert moved(QUIET[name], updates(count), first, None) <= CLIP * (1 + 1e-5) + 2e-6
    assert moved(QUIET[name], updates(count), first, second) <= 2 * CLIP * (1 + 1e-5) + 2e-6


def test_sensitivity_of_a_distributed_sum_is_that_of_its_integers() -> None:
    """The codec's own bound, over its scale; the same noise is subtracted."""
    plan = distributed()
    codec = plan.codec(bytes(32))
    bound = codec.sensitivity_l2 / codec.scale
    for one in adversarial():
        assert moved(plan, updates(5), one, None) <= bound * (1 + 1e-5) + 2e-6
        assert moved(plan, updates(5), one, -one) <= 2 * bound * (1 + 1e-5) + 2e-6


@pytest.mark.parametrize("name", QUIET)
def test_a_plan_does_nothing_else_than_clip_and_add(name: str) -> None:
    check_a_plan_only_clips_and_adds(name)


def check_rounding_is_covered() -> None:
    """In a round through coarse words: the sum is at most C long whatever way the entries were rounded."""
    plan, secure = central(noise_multiplier=1e-9), SecureSum(kind="secure_sum", bits=16)
    lengths = []
    for number in range(20):
        one = {0: torch.from_numpy(np.random.default_rng(number).normal(size=D)).float()}
        lengths.append(float(released(plan, one, aggregator=secure, seed=Seed(number)).norm()))
    assert max(lengths) <= CLIP * (1 + 1e-5)
    assert max(lengths) > 0.9 * CLIP


def check_participations_are_counted() -> None:
    """How far one client moves the stream, by every schedule that the separation allows: the accounted sensitivity."""
    for rounds in (3, 12, 13):
        plan = dpftrl(rounds=rounds)
        strategy = plan.strategy()
        exact = worst(matrix_of(strategy), Participation(3, rounds))
        assert plan.planned().sensitivity == pytest.approx(exact, rel=1e-9)


def check_a_plan_only_clips_and_adds(name: str = "central") -> None:
    """Σ Δ · min(1, C/‖Δ‖), computed here."""
    plan, deltas = QUIET[name], updates(6)
    if plan.scheme == "per_layer":
        limit = CLIP / np.sqrt(2)
        parts = [(delta[:20], delta[20:]) for delta in deltas.values()]
        expected = sum(torch.cat([p * min(1.0, float(limit / p.norm())) for p in pair]) for pair in parts)
    else:
        expected = sum(delta * min(1.0, float(CLIP / delta.norm())) for delta in deltas.values())
    assert torch.allclose(released(plan, deltas).float(), torch.as_tensor(expected), atol=1e-5)


def check_denominator_is_fixed() -> None:
    """The step of one client alone is C/m, with m the expected cohort, whoever else came."""
    plan = central(size=4)
    one = torch.cat([torch.tensor([9.0]), torch.zeros(D - 1)])
    for count in (1, 2, 8):
        step = play(plan, dict.fromkeys(range(count), one)).state.global_D
        assert float(step[0]) == pytest.approx(count * CLIP / 4, rel=1e-5)


def check_weights_are_uniform() -> None:
    """Client 0 has one example, the others 900: all move the sum alike."""
    one = torch.cat([torch.tensor([9.0]), torch.zeros(D - 1)])
    zeros = {client: torch.zeros(D) for client in range(3)}
    for plan in (central(), local()):
        steps = [float(released(plan, {**zeros, client: one})[0]) for client in (0, 1)]
        assert steps == pytest.approx([CLIP, CLIP], rel=1e-5)


def noise_of(plan: ClientPlan, count: int, seeds: int, **changes: object) -> np.ndarray:
    """What is added to the sum, over many seeds: (seeds, D)."""
    quiet, deltas = loud(plan, 1e-9), updates(count)
    rows = [
        released(plan, deltas, seed=Seed(number), **changes) - released(quiet, deltas, seed=Seed(number), **changes)
        for number in range(seeds)
    ]
    return torch.stack(rows).numpy()


def check_noise() -> None:
    """The noise on the sum has standard deviation zC, by χ² with an error rate of 1e-4, in full and empty cohorts."""
    for plan, count, deviation in (
        (central(noise_multiplier=2.0), 5, 2.0 * CLIP),
        (central(noise_multiplier=2.0), 0, 2.0 * CLIP),
        (central(noise_multiplier=2.0), 1, 2.0 * CLIP),
        (central(noise_multiplier=2.0, randomness="secure"), 5, 2.0 * CLIP),
        (local(noise_multiplier=2.0), 4, 2.0 * CLIP * np.sqrt(4)),
        (local(noise_multiplier=2.0, randomness="secure"), 4, 2.0 * CLIP * np.sqrt(4)),
        (dpftrl(noise_multiplier=2.0), 4, 2.0 * CLIP),
    ):
        standard = noise_of(plan, count, 60).ravel() / deviation
        low, high = stats.chi2.ppf([ERROR / 2, 1 - ERROR / 2], len(standard)) / len(standard)
        assert low <= np.square(standard).mean() <= high, (plan, count)
        assert stats.kstest(standard, "norm").pvalue > ERROR


def check_noise_is_independent() -> None:
    """Across rounds for a server, across clients and rounds where clients draw: |r| below 4.1/√n."""
    deltas = {client: torch.zeros(D) for client in range(2)}
    plan, rounds = local(noise_multiplier=3.0), 60
    alone = [
        torch.cat([play(plan, {client: deltas[client]}, number=number).state.global_D for number in range(rounds)])
        for client in (0, 1)
    ]
    server = torch.cat([play(central(noise_multiplier=3.0), {}, number=number).state.global_D for number in range(2 * rounds)])
    for one, other in ((alone[0], alone[1]), (alone[0][:-D], alone[0][D:]), (server[:-D], server[D:])):
        assert abs(np.corrcoef(one.numpy(), other.numpy())[0, 1]) < 4.1 / np.sqrt(len(one))


def check_an_empty_cohort_is_a_round() -> None:
    """Nobody came: noise is drawn, stepped along and charged, and no reason is found to skip."""
    plan = central(noise_multiplier=2.0)
    outcome = play(plan, {})
    assert skip_reason([], SecureSum(kind="secure_sum"), plan) is None
    assert outcome.skipped is None
    assert outcome.events == {"everybody": plan.planned()}
    assert float(outcome.state.global_D.norm()) > 0.1


def check_shares_suffice_for_the_survivors() -> None:
    """Whoever is lost, down to the floor: the noise in the sum is at least what is accounted, and at the floor no more."""
    plan = distributed(noise_multiplier=2.0, survivors=3)
    zeros = {client: torch.zeros(D) for client in range(6)}
    for lost, shares in (((), 6), ((0, 1), 4), ((0, 1, 2), 3)):
        aggregator = CodedSum(kind="coded", lost=lost)
        rows = [play(plan, zeros, seed=Seed(number), aggregator=aggregator).state.global_D * shares for number in range(60)]
        standard = torch.stack(rows).numpy().ravel() / (2.0 * CLIP * np.sqrt(shares / 3))
        low, high = stats.chi2.ppf([ERROR / 2, 1 - ERROR / 2], len(standard)) / len(standard)
        assert low <= np.square(standard).mean() <= high


@pytest.mark.parametrize(
    "check",
    [
        check_denominator_is_fixed,
        check_weights_are_uniform,
        check_noise,
        check_noise_is_independent,
        check_an_empty_cohort_is_a_round,
        check_rounding_is_covered,
        check_participations_are_counted,
        check_shares_suffice_for_the_survivors,
    ],
)
def test_promises(check: object) -> None:
    check()  # type: ignore[operator]


def test_the_accounted_share_is_what_the_floor_of_survivors_adds_up_to() -> None:
    event = distributed(noise_multiplier=2.0).planned()
    codec = distributed(noise_multiplier=2.0).codec(bytes(32))
    (mechanism,) = event.releases(1)
    assert mechanism == codec.mechanism()
    assert codec.noise_deviation == pytest.approx(2.0 * CLIP, rel=1e-6)


# --- noise that is correlated over rounds -------------------------------------------------------------------------------


@pytest.mark.parametrize("factorization", ["banded", "tree"])
def test_correlated_noise_is_the_factorisation_s(factorization: str) -> None:
    """C w = z: applied to what was added round by round, the strategy gives back independent rows of deviation zC."""
    plan = dpftrl(noise_multiplier=2.0, factorization=factorization)
    rows, state = [], None
    for number in range(plan.rounds):
        before = torch.zeros(D) if state is None else state.global_D
        outcome = play(plan, {}, number=number, state=state)
        state = outcome.state
        rows.append(((state.global_D - before).double() * plan.size).numpy())
    added_nD = np.stack(rows)
    error = np.sqrt(np.mean(np.square(added_nD.cumsum(axis=0)))) / (2.0 * CLIP)
    assert error == pytest.approx(plan.strategy().error(), rel=0.25)


def test_a_run_of_correlated_noise_is_one_release() -> None:
    plan = dpftrl(noise_multiplier=2.0)
    ledger = Ledger(plan.delta)
    for number in range(plan.rounds):
        ledger.record(number, play(plan, {}, number=number).events)
    (history,) = ledger.histories()
    assert history == History({MatrixGaussian(2.0, plan.planned().sensitivity): 1})
    # Orthogonal columns: four participations cost twice one.
    assert plan.planned().sensitivity == pytest.approx(2 * dpftrl(rounds=3).planned().sensitivity, rel=0.2)


# --- cohorts in secret ----------------------------------------------------------------------------------------------


def test_a_cohort_too_small_to_hide_is_filled_up_with_zeros() -> None:
    """A skipped round would tell who was not there. Two zeros stand in; the sum is the one client's."""
    plan, one = central(), updates(1)
    outcome = play(plan, one, aggregator=SecureSum(kind="secure_sum"))
    assert outcome.participants == [0, 1, 2]
    assert outcome.skipped is None
    assert torch.allclose(outcome.state.global_D, play(plan, one).state.global_D, atol=1e-5)


def test_who_is_protected_from_whom() -> None:
    """A secure sum's roster tells a cohort's clients of each other; amplification then holds against outsiders alone."""
    assert central().adversaries == ("external", "client")
    assert central(names_cohort=True).adversaries == ("external",)
    assert central(names_cohort=True, sampler="all", size=POPULATION).adversaries == ("external", "client")
    assert "server" not in central().adversaries + dpftrl().adversaries
    assert local().adversaries == distributed().adversaries == ("external", "client", "server")


def test_a_fixed_cohort_is_priced_by_replacement() -> None:
    assert central(sampler="fixed").relation == "replace_one"
    assert central().relation == "add_or_remove_one"


def test_a_cohort_below_the_floor_of_survivors_is_not_asked() -> None:
    reason = skip_reason([1, 2], CodedSum(kind="coded"), distributed(survivors=3))
    assert reason is not None
    assert "at least 3" in reason


# --- executed and extrapolated ----------------------------------------------------------------------------------------


def test_an_imagined_population_never_lends_its_epsilon_to_the_run() -> None:
    """Noise for 400 of 100,000 is a hundredth of it on the executed sum of 4 of 12, and the ledger says so."""
    plan = central(noise_multiplier=1.0, imagined=Imagined(100_000, 400))
    outcome = play(plan, updates(3))
    (event,) = outcome.events.values()
    assert isinstance(event, CohortSum)
    assert (event.noise_multiplier, event.population, event.size) == (0.01, POPULATION, 4)
    wide = plan.extrapolated()
    assert wide is not None
    assert (wide.noise_multiplier, wide.population, wide.size) == (1.0, 100_000, 400)
    ledger = Ledger(plan.delta)
    ledger.record(0, outcome.events)
    assert ledger.epsilon() > 1000
    standard = np.concatenate([released(plan, {}, seed=Seed(number)).numpy() for number in range(60)]) / (0.01 * CLIP)
    low, high = stats.chi2.ppf([ERROR / 2, 1 - ERROR / 2], len(standard)) / len(standard)
    assert low <= np.square(standard).mean() <= high


# --- clipping and refusals --------------------------------------------------------------------------------------------


def test_clip_update_says_whether_it_had_to() -> None:
    short, long_ = torch.full((D,), 0.01), torch.full((D,), 1.0)
    kept, cut = clip_update(short, CLIP, LAYOUT, "flat"), clip_update(long_, CLIP, LAYOUT, "flat")
    assert torch.equal(kept.delta_D, short)
    assert kept.within
    assert not cut.within
    assert float(cut.delta_D.norm()) == pytest.approx(CLIP, rel=1e-6)
    layers = LAYOUT.unflatten(clip_update(long_, CLIP, LAYOUT, "per_layer").delta_D)
    assert [float(part.norm()) for part in layers.values()] == pytest.approx([CLIP / np.sqrt(2)] * 2, rel=1e-6)


def test_noise_that_is_too_small_is_caught_as_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    original = gaussian.gaussian
    monkeypatch.setattr(gaussian, "gaussian", lambda size, deviation, *rest: original(size, 0.0 * deviation, *rest))
    for plan in (central(noise_multiplier=1.0), local(noise_multiplier=1.0)):
        with pytest.raises(PrivacyError, match="is accounted; nothing was sent"):
            play(plan, updates(3))


def test_a_central_sum_is_as_sensitive_as_it_is_priced_in_coarse_words_too() -> None:
    """What a client adds to the sum of a 16-bit secure sum is at most C long, rounding included."""
    secure, plain = SecureSum(kind="secure_sum", bits=16, clip=0.5), PlainSum(kind="plain_sum", bits=16, clip=0.5)
    plan = central(max_update_norm=0.3, noise_multiplier=1e-9)
    layout = Layout(("w",), ((40,),))
    where = RoundContext(0, torch.zeros(40), layout, 20, b"k" * 32, "tests")
    worst = 0.0
    for number in range(50):
        delta_D = torch.from_numpy(np.random.default_rng(number).normal(size=40)).float()
        handed_in = plan.at_client(delta_D, layout, {}, Seed(number), secure.rounding_norm(where))
        others = [ClientUpdate(client, torch.zeros(40), 1.0) for client in (1, 2)]
        sum_D = plain.aggregate([ClientUpdate(0, handed_in.delta_D, 1.0), *others], where).sum_D
        assert sum_D is not None
        worst = max(worst, float(sum_D.norm()))
    assert 0.25 < worst <= 0.3 * (1 + 1e-5)


def test_an_aggregator_that_would_leave_the_noise_out_is_refused() -> None:
    """The clients' shares are in the codec's words only: summed as they are, updates would be released without noise."""
    with pytest.raises(PrivacyError, match="does not encode with the plan's codec"):
        play(distributed(), updates(5), aggregator=Mean(kind="mean"))
