"""The price of a history: ε and δ of everything that was released about one unit.

The accountants:

- ``pld``: the privacy loss distribution (:mod:`privfl.privacy.loss`), the headline: an upper bound that exceeds the exact
  value by less than 2e-4. After very many releases, if rounding has used it up, the smaller of it and ``rdp``.
- ``rdp``: Rényi DP (:mod:`privfl.privacy.renyi`), the cross-check, and the headline where no PLD is known: sampling without
  replacement, and the integer mechanisms.
- ``zcdp``: concentrated DP, for mechanisms without sampling.
- ``papers``: Rényi DP with the conversion that papers used before 2020, for comparison with their tables.

There is no GDP accountant: its central limit underestimates (ε 0.98 for a true 4.24 at q = 0.001, σ = 0.5, 1,000 steps).
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
from privfl.privacy import loss, renyi
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

# After so many releases rounding may use up what a PLD gains over Rényi DP.
_MANY: Final = 10**7

Accountant = Literal["pld", "rdp", "zcdp", "papers"]


def accountants(history: History) -> tuple[Accountant, ...]:
    """Those that can price a history; the first is the one that does when none is named."""
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


def chosen(history: History, accountant: Accountant | None) -> Accountant:
    """The accountant that prices a history when ``accountant`` is asked for; None: the best that can.

    Raises:
        PrivacyError: the one that is asked for cannot price it, or none can.
    """
    able = accountants(history)
    if not able:
        kinds = sorted({type(mechanism).__name__ for mechanism in history})
        raise PrivacyError(f"no accountant prices {' with '.join(kinds)} together; state what they share under one relation")
    if accountant is not None and accountant not in able:
        kinds = sorted({type(mechanism).__name__ for mechanism in history})
        raise PrivacyError(f"accountant {accountant!r} cannot price {', '.join(kinds)}; allowed here: {', '.join(able)}")
    return accountant or able[0]


@functools.lru_cache(maxsize=65536)
def epsilon(history: History, delta: float, accountant: Accountant | None = None) -> float:
    """ε at ``delta``; 0 for an empty history.

    Args:
        history: everything that was released about one unit.
        delta: from 1e-300, below 1.
        accountant: who prices it; None: the first of :func:`accountants`.

    Raises:
        PrivacyError: that accountant cannot price it, or δ is out of its range.
    """
    if not LEAST_DELTA <= delta < 1:
        raise PrivacyError(
            f"δ = {delta}: must be at least {LEAST_DELTA:g} and below 1; take less than one over the number of units"
        )
    match chosen(history, accountant):
        case _ if not history:
            return 0.0
        case "pld":
            found = loss.epsilon(history, delta)
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
        PrivacyError: a mechanism is not concentrated, or no bound of this form is known for it.
    """
    chosen(history, "zcdp")
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


def largest(histories: Iterable[History], delta: float, accountant: Accountant | None = None) -> float:
    """The largest ε over units whose data are disjoint (parallel composition); 0 where there are none.

    Rényi DP at integer orders bounds what the PLD would say, and Rényi DP at all orders, at a fraction of their time: a
    history whose bound is no larger than a price already found needs none.
    """
    front = [one for one in dominating(histories) if one]
    bounds = {one: _quick_bound(one, delta, accountant) for one in front}
    found = 0.0
    for one in sorted(front, key=lambda one: -bounds[one]):
        if bounds[one] > found:
            found = max(found, epsilon(one, delta, accountant))
    return found


def _quick_bound(history: History, delta: float, accountant: Accountant | None) -> float:
    if chosen(history, accountant) not in ("pld", "rdp") or "rdp" not in accountants(history):
        return math.inf
    return renyi.epsilon(renyi.composed(history, quick=True), delta)


def curve(histories: Iterable[History], epsilons: ArrayLike) -> NDArray[np.float64]:
    """δ(ε) that holds for every one of the histories: the largest at each ε, of the shape of ``epsilons``."""
    grid = np.asarray(epsilons, dtype=np.float64)
    deltas = np.zeros_like(grid)
    for one in dominating(histories):
        if one:
            by_pld = chosen(one, None) == "pld"
            found = loss.curve(one, grid) if by_pld else renyi.delta(renyi.composed(one), grid)
            deltas = np.maximum(deltas, found)
    return deltas


def dominating(histories: Iterable[History]) -> list[History]:
    """Those that no other surely exceeds: among them is the largest ε at every δ.

    One history exceeds another if every release of the latter can be paired with one of its own that is the same or,
    for Poisson samples at one noise, has at least its rate; a smaller rate is a post-processing of a larger one. So a hundred
    clients are priced by the few on this front.
    """
    distinct = list(dict.fromkeys(histories))
    counts_HM = _cumulative(distinct)
    front: list[int] = []
    # One that exceeds another has the larger sum, so it comes first.
    for place in np.argsort(-counts_HM.sum(axis=1), kind="stable"):
        if not (front and (counts_HM[front] >= counts_HM[place]).all(axis=1).any()):
            front.append(place)
    return [distinct[place] for place in front]


def _cumulative(histories: Sequence[History]) -> NDArray[np.int64]:
    """For each history and mechanism: how often that mechanism, or one that surely costs more, was used."""
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
    """The smallest noise multiplier, to ``digits`` decimals, whose largest ε is at most the target.

    Only the histories that are the most expensive at the guess are priced at every step of the search; the others are
    checked at its end, and join where they cost more. The guess comes from Rényi DP, which is priced quickly.

    Args:
        histories: what each unit will have gone through at a noise multiplier: as many, in the same order, at any.
        target_epsilon: the ε not to exceed.
        delta: the δ at which it is stated.
        accountant: who prices it; None: the first of :func:`accountants` for each history.
        digits: decimals of the result.

    Raises:
        ConfigError: no noise multiplier up to 1,000 reaches the target, or has a finite price.
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
    binding = [_dearest(at(guess), delta)]
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
    """Why no noise multiplier up to 1,000 suffices, ``least`` being ε at that one."""
    if not math.isfinite(least):
        return ConfigError(
            f"privacy.delta = {delta:g}: at a noise multiplier of 1000 ε is not finite; give fewer rounds, or raise delta"
        )
    return ConfigError(
        f"privacy.target_epsilon = {target_epsilon:g}: no noise multiplier up to 1000 reaches it, which costs ε = {least:.3g} "
        f"at δ = {delta:g}; allow a larger ε or fewer rounds"
    )


def _dearest(histories: Sequence[History], delta: float) -> int:
    """Where the most expensive history is; by Rényi DP, which is quick, where all have it."""
    front = dominating(histories)
    if all("rdp" in accountants(one) for one in front):
        return histories.index(max(front, key=lambda one: renyi.epsilon(renyi.composed(one, quick=True), delta)))
    return histories.index(max(front, key=lambda one: epsilon(one, delta)))


def _first_true(test: Callable[[int], bool], low: int, high: int, start: int) -> int | None:
    """The smallest integer in [low, high] at which a monotone test holds; the search spreads out from ``start``."""
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
