"""Accountants: the ε and δ of a history, that is of everything that was released about one unit.

- ``pld``: privacy loss distributions (:mod:`privfl.privacy.privacy_loss`), the headline. It is an upper bound that exceeds the
  exact value by less than 2e-4 in the range tested there. After more than 10⁷ releases, when rounding may have used up its
  advantage, it is the smaller of this bound and ``rdp``.
- ``rdp``: Rényi DP (:mod:`privfl.privacy.renyi`), the cross-check. It is the headline if no privacy loss distribution is
  known: for sampling without replacement and for the integer mechanisms.
- ``zcdp``: zero-concentrated DP, for mechanisms without sampling.
- ``papers``: Rényi DP with the conversion that papers used before 2020, for comparison with their tables.

There is no GDP accountant, because its central limit underestimates: ε = 0.98 for a true 4.24 at q = 0.001, σ = 0.5 and 1,000
steps.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, assert_never

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from privfl.errors import ConfigError, PrivacyError
from privfl.privacy import privacy_loss, renyi
from privfl.privacy.mechanisms import (
    DiscreteGaussianSum,
    FixedSizeGaussian,
    Gaussian,
    History,
    MatrixGaussian,
    Mechanism,
    PoissonGaussian,
    ShuffledEpoch,
    SkellamSum,
)
from privfl.tables import LEAST_DELTA

# After more releases than this, rounding may use up the advantage of a PLD over Rényi DP.
_MANY: Final = 10**7

Accountant = Literal["pld", "rdp", "zcdp", "papers"]


def accountants(history: History) -> tuple[Accountant, ...]:
    """The accountants that can price a history, best first; the first is the default."""
    able: list[set[Accountant]] = [_able(mechanism) for mechanism in history]
    order: tuple[Accountant, ...] = ("pld", "rdp", "zcdp", "papers")
    return tuple(one for one in order if all(one in each for each in able))


def _able(mechanism: Mechanism) -> set[Accountant]:
    match mechanism:
        case Gaussian() | ShuffledEpoch() | MatrixGaussian():
            return {"pld", "rdp", "zcdp", "papers"}
        case PoissonGaussian(sample_rate=rate, relation=relation):
            if rate == 1.0:
                return {"pld", "rdp", "zcdp", "papers"}
            return {"pld", "rdp", "papers"} if relation == "add_or_remove_one" else {"pld"}
        case DiscreteGaussianSum(sample_rate=1.0):
            return {"rdp", "zcdp", "papers"}
        case FixedSizeGaussian() | SkellamSum() | DiscreteGaussianSum():
            return {"rdp", "papers"}
    assert_never(mechanism)


def chosen_accountant(history: History, accountant: Accountant | None) -> Accountant:
    """The accountant that prices a history: ``accountant``, or the best one that can if it is None.

    Raises:
        PrivacyError: ``accountant`` cannot price the history, or no accountant can.
    """
    able = accountants(history)
    if not able:
        kinds = sorted({type(mechanism).__name__ for mechanism in history})
        raise PrivacyError(
            f"no accountant prices {' with '.join(kinds)} together: they must share one; take mechanisms that do"
        )
    if accountant is not None and accountant not in able:
        kinds = sorted({type(mechanism).__name__ for mechanism in history})
        raise PrivacyError(f"accountant {accountant!r} cannot price {', '.join(kinds)}; allowed here: {', '.join(able)}")
    return accountant or able[0]


@functools.lru_cache(maxsize=65536)
def epsilon(history: History, delta: float, accountant: Accountant | None = None) -> float:
    """ε at ``delta``; 0 for an empty history.

    Args:
        history: everything that was released about one unit.
        delta: at least 1e-300 and below 1.
        accountant: prices it; None: the first of :func:`accountants`.

    Raises:
        PrivacyError: the accountant cannot price the history, or δ is out of range.
    """
    if not LEAST_DELTA <= delta < 1:
        raise PrivacyError(
            f"δ = {delta}: must be at least {LEAST_DELTA:g} and below 1; set it below one over the number of units"
        )
    match chosen_accountant(history, accountant):
        case _ if not history:
            return 0.0
        case "pld":
            found = privacy_loss.epsilon(history, delta)
            compared = sum(history.values()) > _MANY and "rdp" in accountants(history)
            return min(found, renyi.epsilon(renyi.composed(history), delta)) if compared else found
        case "rdp":
            return renyi.epsilon(renyi.composed(history), delta)
        case "papers":
            return renyi.epsilon_as_papers(renyi.composed(history), delta)
        case "zcdp":
            return _epsilon_of_rho(rho(history), delta)


def rho(history: History) -> float:
    """ρ of zero-concentrated DP: D_α ≤ ρ α for all α > 1 (Bun & Steinke 2016, definition 1.1).

    Raises:
        PrivacyError: no bound of this form is known for one of the mechanisms.
    """
    chosen_accountant(history, "zcdp")
    return sum(times * _rho(mechanism) for mechanism, times in history.items())


def _rho(mechanism: Mechanism) -> float:
    if isinstance(mechanism, DiscreteGaussianSum):
        return renyi.discrete_gaussian_rho(mechanism)
    # The divergence of a Gaussian release is α ρ.
    return float(renyi.divergences(mechanism)[0] / renyi.ORDERS[0])


def _epsilon_of_rho(total: float, delta: float) -> float:
    # min over α > 1 of ρα + log(1 − 1/α) − log(αδ)/(α − 1), with t = log(α − 1)
    def at(t: float) -> float:
        above = math.exp(t)
        return total * (1 + above) + math.log(above / (1 + above)) - (math.log(delta) + math.log1p(above)) / above

    return max(0.0, float(minimize_scalar(at, bounds=(-12, 25), method="bounded", options={"xatol": 1e-9}).fun))


def largest_epsilon(histories: Iterable[History], delta: float, accountant: Accountant | None = None) -> float:
    """The largest ε over units whose data are disjoint (parallel composition); 0 if there are none.

    Rényi DP at integer orders is an upper bound on the PLD's ε and on that of Rényi DP at all orders, and takes a fraction
    of their time. A history whose bound is no larger than an ε already found is therefore not priced.
    """
    front = [one for one in dominating(histories) if one]
    bounds = {one: _quick_bound(one, delta, accountant) for one in front}
    found = 0.0
    for one in sorted(front, key=lambda one: -bounds[one]):
        if bounds[one] > found:
            found = max(found, epsilon(one, delta, accountant))
    return found


def _quick_bound(history: History, delta: float, accountant: Accountant | None) -> float:
    if chosen_accountant(history, accountant) not in ("pld", "rdp") or "rdp" not in accountants(history):
        return math.inf
    return renyi.epsilon(renyi.composed(history, quick=True), delta)


def curve(histories: Iterable[History], epsilons: ArrayLike) -> NDArray[np.float64]:
    """The privacy curve that holds for all histories: the largest δ at each ε, of the shape of ``epsilons``."""
    grid = np.asarray(epsilons, dtype=np.float64)
    deltas = np.zeros_like(grid)
    for one in dominating(histories):
        if one:
            by_pld = chosen_accountant(one, None) == "pld"
            found = privacy_loss.curve(one, grid) if by_pld else renyi.delta(renyi.composed(one), grid)
            deltas = np.maximum(deltas, found)
    return deltas


def dominating(histories: Iterable[History]) -> list[History]:
    """The histories that no other is known to exceed; one of them has the largest ε at every δ.

    A history exceeds another if each release of the other can be paired with one of its own that is the same, or that is a
    Poisson sample at the same noise and at least the same rate. A release at a smaller rate is a post-processing of one at a
    larger rate. A hundred clients can thus be priced by a few histories.
    """
    distinct = list(dict.fromkeys(histories))
    counts_HM = _cumulative(distinct)
    front: list[int] = []
    # A history that exceeds another has the larger sum, so it comes first.
    for place in np.argsort(-counts_HM.sum(axis=1), kind="stable"):
        if not (front and (counts_HM[front] >= counts_HM[place]).all(axis=1).any()):
            front.append(place)
    return [distinct[place] for place in front]


def _cumulative(histories: Sequence[History]) -> NDArray[np.int64]:
    """Uses of each mechanism in each history, including uses of mechanisms that are known to cost more."""
    mechanisms = list(dict.fromkeys(itertools.chain.from_iterable(histories)))
    place = {mechanism: at for at, mechanism in enumerate(mechanisms)}
    counts_HM = np.zeros((len(histories), len(mechanisms)), np.int64)
    for row, history in enumerate(histories):
        for mechanism, times in history.items():
            counts_HM[row, place[mechanism]] = times
    groups: dict[tuple[float, str], list[PoissonGaussian]] = {}
    for mechanism in mechanisms:
        if isinstance(mechanism, PoissonGaussian):
            groups.setdefault((mechanism.noise_multiplier, mechanism.relation), []).append(mechanism)
    for group in groups.values():
        descending = [place[mechanism] for mechanism in sorted(group, reverse=True)]
        counts_HM[:, descending] = counts_HM[:, descending].cumsum(axis=1)
    return counts_HM


def calibrate(
    histories: Callable[[float], Sequence[History]],
    target_epsilon: float,
    delta: float,
    accountant: Accountant | None = None,
    digits: int = 3,
) -> float:
    """The smallest noise multiplier, to ``digits`` decimals, at which the largest ε over all units is at most the target.

    Every step of the search prices the history that was the most expensive at first. The others are checked at the end; if
    one exceeds the target, it joins the search, which goes on. The first guess comes from Rényi DP, which is quick.

    Args:
        histories: each unit's history at a noise multiplier; their number and order are the same at each.
        target_epsilon: the largest ε allowed.
        delta: the δ at which ε is stated.
        accountant: prices the histories; None: the first of :func:`accountants` for each history.
        digits: number of decimals of the result.

    Raises:
        ConfigError: ε exceeds the target, or is infinite, even at a noise multiplier of 1,000.
    """
    unit = 10.0**-digits

    def at(noise: int) -> Sequence[History]:
        return histories(round(noise * unit, digits))

    def enough(binding: Sequence[int], who: Accountant | None, noise: int) -> bool:
        now = at(noise)
        return all(epsilon(now[place], delta, who) <= target_epsilon for place in binding)

    def exceeding(noise: int) -> list[int]:
        now = at(noise)
        places = {history: place for place, history in enumerate(now)}
        return [places[one] for one in dominating(now) if epsilon(one, delta, accountant) > target_epsilon]

    guess, most = round(1 / unit), round(1000 / unit)
    binding = [_most_expensive(at(guess), delta)]
    if "rdp" in accountants(at(guess)[binding[0]]):
        guess = _first_true(functools.partial(enough, binding, "rdp"), 1, most, guess) or most
    while True:
        found = _first_true(functools.partial(enough, binding, accountant), 1, most, guess)
        if found is None:
            raise _unreachable(max(epsilon(at(most)[place], delta, accountant) for place in binding), target_epsilon, delta)
        above = [place for place in exceeding(found) if place not in binding]
        if not above:
            return round(found * unit, digits)
        binding, guess = [*binding, *above], found


def _unreachable(least: float, target_epsilon: float, delta: float) -> ConfigError:
    """The error if no noise multiplier up to 1,000 suffices; ``least`` is ε at 1,000."""
    if not math.isfinite(least):
        return ConfigError(
            f"privacy.delta = {delta:g}: at a noise multiplier of 1000 ε is not finite; give fewer rounds, or raise delta"
        )
    return ConfigError(
        f"privacy.target_epsilon = {target_epsilon:g}: no noise multiplier up to 1000 reaches it, which costs ε = {least:.3g} "
        f"at δ = {delta:g}; allow a larger ε or fewer rounds"
    )


def _most_expensive(histories: Sequence[History], delta: float) -> int:
    """Index of the most expensive history; found by Rényi DP, which is quick, if it can price all of them."""
    front = dominating(histories)
    if all("rdp" in accountants(one) for one in front):
        return histories.index(max(front, key=lambda one: renyi.epsilon(renyi.composed(one, quick=True), delta)))
    return histories.index(max(front, key=lambda one: epsilon(one, delta)))


def _first_true(test: Callable[[int], bool], low: int, high: int, start: int) -> int | None:
    """The smallest integer in [low, high] at which a monotone test holds, or None; the search starts at ``start``."""
    step, below, above = max(1, start // 16), low - 1, high + 1
    probe = min(max(start, low), high)
    while below < probe < above:
        if test(probe):
            above, probe = probe, probe - step
        else:
            below, probe = probe, probe + step
        step *= 2
    while above - below > 1:
        middle = (below + above) // 2
        if test(middle):
            above = middle
        else:
            below = middle
    return above if above <= high else None
