"""The price of events: ε and δ of compositions of the Poisson-sampled Gaussian mechanism.

The headline is the privacy loss distribution (PLD) of dp_accounting, "connect the dots", pessimistic: an upper bound
that exceeds the exact value by the discretisation only. RDP with the conversion of Canonne, Kamath & Steinke (2020,
proposition 12) stands beside it as a cross-check that shares no code with it. Both under add/remove-one adjacency.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import dp_accounting
import numpy as np
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.rdp import RdpAccountant
from numpy.typing import ArrayLike, NDArray

from privfl.errors import ConfigError

# Privacy losses are discretised at the fine interval, the library's default, unless one step's loss spreads so widely
# that the coarse one moves ε by less than 1e-5 of its value, at a tenth of the time (measured: tests/privacy).
_FINE, _COARSE, _WIDE = 1e-4, 1e-3, 0.05

# Rényi orders. Fractional ones cost a hundred times an integer one, so there are few of them; any set gives a bound.
_ORDERS = (*(order / 4 for order in range(5, 24) if order % 4), *range(2, 65), 80, 96, 128, 192, 256, 384, 512)


class _NoConvergenceChatter(logging.Filter):
    """Drops the notice that a fractional Rényi order was left out; the minimum over the other orders stays a bound."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "failed to converge" not in str(record.msg)


logging.getLogger("absl").addFilter(_NoConvergenceChatter())


@dataclass(frozen=True, order=True)
class Composition:
    """``steps`` independent uses of the Gaussian mechanism on Poisson samples of rate ``sample_rate``.

    The noise's standard deviation is ``noise_multiplier`` times the L2 sensitivity.
    """

    sample_rate: float
    noise_multiplier: float
    steps: int


@functools.lru_cache(maxsize=64)
def _one_step(sample_rate: float, noise_multiplier: float) -> privacy_loss_distribution.PrivacyLossDistribution:
    # Standard deviation of one step's privacy loss, for small q: q √(exp(1/σ²) − 1)
    spread = sample_rate * math.sqrt(math.expm1(min(noise_multiplier**-2, 100.0)))
    return privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier,
        sampling_prob=sample_rate,
        value_discretization_interval=_COARSE if spread > _WIDE else _FINE,
        pessimistic_estimate=True,
        use_connect_dots=True,
    )


def _pld(composition: Composition) -> privacy_loss_distribution.PrivacyLossDistribution:
    one = _one_step(composition.sample_rate, composition.noise_multiplier)
    return one.self_compose(composition.steps)


@functools.lru_cache(maxsize=65536)
def epsilon(composition: Composition, delta: float) -> float:
    """ε at ``delta`` by PLD; 0 for no steps."""
    return float(_pld(composition).get_epsilon_for_delta(delta)) if composition.steps else 0.0


@functools.lru_cache(maxsize=65536)
def epsilon_rdp(composition: Composition, delta: float) -> float:
    """ε at ``delta`` by Rényi DP; 0 for no steps."""
    return float(_rdp(composition).get_epsilon(delta)) if composition.steps else 0.0


def dominating(compositions: Iterable[Composition]) -> list[Composition]:
    """Those that no other exceeds in both rate and steps, at one noise: among them is the largest ε at every δ.

    ε grows with the rate and with the steps, so a hundred clients are priced by the few on this front.
    """
    front: list[Composition] = []
    ordered = sorted(set(compositions), key=lambda one: (one.noise_multiplier, -one.sample_rate, -one.steps))
    for one in ordered:
        if not any(other.noise_multiplier == one.noise_multiplier and other.steps >= one.steps for other in front):
            front.append(one)
    return front


def largest(compositions: Iterable[Composition], price: Callable[[Composition], float]) -> float:
    """The largest price over independent parts of the data (parallel composition); 0 where there are none."""
    return max((price(one) for one in dominating(compositions)), default=0.0)


def curve(compositions: Iterable[Composition], epsilons: ArrayLike) -> NDArray[np.float64]:
    """δ(ε) that holds for every one of the compositions: the largest at each ε, of the shape of ``epsilons``."""
    grid = np.asarray(epsilons, dtype=np.float64)
    deltas = np.zeros_like(grid)
    for one in dominating(compositions):
        if one.steps:
            deltas = np.maximum(deltas, np.asarray(_pld(one).get_delta_for_epsilon(grid), dtype=np.float64))
    return deltas


def calibrate(parts: Iterable[tuple[float, int]], target_epsilon: float, delta: float, digits: int = 3) -> float:
    """The smallest noise multiplier, to ``digits`` decimals, whose largest ε by PLD is at most the target.

    Only the part that is the most expensive at the guess is priced at every step of the search; the others are checked
    at its end, and join it where they cost more.

    Args:
        parts: sample rate and steps of each independent part of the data.
        target_epsilon: the ε not to exceed.
        delta: the δ at which it is stated.
        digits: decimals of the result.

    Raises:
        ConfigError: no noise multiplier up to 1,000 reaches the target.
    """
    unit = 10.0**-digits
    front = dominating(Composition(rate, 1.0, steps) for rate, steps in parts)

    def price(part: Composition, noise: int) -> float:
        return epsilon(replace(part, noise_multiplier=noise * unit), delta)

    def enough(among: list[Composition], noise: int) -> bool:
        return all(price(part, noise) <= target_epsilon for part in among)

    guess, most = round(1 / unit), round(1000 / unit)
    binding = [max(front, key=lambda part: price(part, guess))]
    while True:
        found = _first_true(functools.partial(enough, binding), 1, most, guess)
        if found is None:
            raise ConfigError(
                f"privacy.target_epsilon = {target_epsilon:g}: no noise multiplier up to 1000 reaches it; "
                "allow a larger ε or fewer rounds"
            )
        above = [part for part in front if part not in binding and price(part, found) > target_epsilon]
        if not above:
            return round(found * unit, digits)
        binding, guess = [*binding, *above], found


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


def epsilon_as_papers(composition: Composition, delta: float) -> float:
    """ε as papers before 2020 state it: min over α of rdp(α) + log(1/δ)/(α − 1) (Mironov 2017, proposition 3); 0 for no
    steps. For comparison with their tables.
    """
    if not composition.steps:
        return 0.0
    orders = np.asarray(_ORDERS, dtype=np.float64)
    # The library offers the divergences themselves under no public name.
    divergences = np.asarray(_rdp(composition)._rdp, dtype=np.float64)
    return float(np.min(divergences + math.log(1 / delta) / (orders - 1)))


def _rdp(composition: Composition) -> RdpAccountant:
    event = dp_accounting.PoissonSampledDpEvent(
        composition.sample_rate, dp_accounting.GaussianDpEvent(composition.noise_multiplier)
    )
    return RdpAccountant(_ORDERS).compose(dp_accounting.SelfComposedDpEvent(event, composition.steps))
