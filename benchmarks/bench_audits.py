"""Do the lower bounds hold, and do they notice noise that is half of what was promised?

Each mechanism releases a score for each of 1,000 candidates, of which an independent fair coin includes about half;
its true ε (or µ) is known. ``coverage.METHOD.MECHANISM`` is the share of runs in which the bound was not above the
truth; ``mean.METHOD.MECHANISM`` is the mean bound. Bounds on ε are held against every mechanism, bounds on the noise
(µ) against Gaussian noise, the only one that they speak of; ``as_epsilon.METHOD.laplace`` is how often they would
cover if they were taken for bounds on ε: hardly ever.

``halved_noise_flagged.METHOD`` has 2,000 candidates and half the promised noise: the least share of runs, over
promised µ of .5, 1 and 2, in which the bound is above the promise. ``correct_noise_flagged.METHOD`` is the largest
share with the noise that was promised.

    python benchmarks/bench_audits.py [--quick] [--json FILE]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from _harness import Figures, options, write_json
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import special

from privfl.auditing import chosen_guesses, clopper_pearson_audit, one_run_audit
from privfl.auditing.noise import gaussian_epsilon, gaussian_pair_audit, gdp_audit, one_run_noise_audit

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

CANDIDATES: Final = 1000
DELTA: Final = 1e-5
ROUNDS, RATE = 60, 0.1  # of the subsampled Gaussian


@dataclass(frozen=True)
class Mechanism:
    """A release whose privacy is known.

    Args:
        scores: of each candidate, higher means member.
        epsilon: at ``delta``.
        delta: 0 if the mechanism has none.
        mu: of Gaussian noise, else None.
    """

    scores: Callable[[BoolArray, np.random.Generator], FloatArray]
    epsilon: float
    delta: float = 0.0
    mu: float | None = None


def _gaussian(mu: float) -> Mechanism:
    return Mechanism(lambda member, rng: mu * member + rng.normal(size=member.shape), gaussian_epsilon(mu, DELTA), DELTA, mu)


def _laplace(epsilon: float) -> Mechanism:
    return Mechanism(lambda member, rng: member + rng.laplace(0, 1 / epsilon, member.shape), epsilon)


def _randomised_response(member: BoolArray, rng: np.random.Generator) -> FloatArray:
    return np.asarray(member ^ (rng.random(member.shape) < special.expit(-1.0)), dtype=float)


def _subsampled(member: BoolArray, rng: np.random.Generator) -> FloatArray:
    """The log-likelihood ratio of 60 rounds with noise multiplier 1, each taking a candidate with probability .1."""
    taken_TN = (rng.random((ROUNDS, len(member))) < RATE) & member
    seen_TN = taken_TN + rng.normal(size=taken_TN.shape)
    return np.asarray(np.log1p(RATE * np.expm1(seen_TN - 0.5)).sum(axis=0))


MECHANISMS: Final = {
    "laplace_1": _laplace(1.0),
    "laplace_2": _laplace(2.0),
    "randomised_response": Mechanism(_randomised_response, 1.0),
    "gaussian_1": _gaussian(1.0),
    "gaussian_2": _gaussian(2.0),
    "subsampled_gaussian": Mechanism(_subsampled, 5.573, DELTA),  # by privacy loss distributions
}


def _chosen(scores: FloatArray, member: BoolArray, delta: float, half: BoolArray) -> float:
    guesses = chosen_guesses(scores[half], member[half])
    return one_run_audit(scores[~half], member[~half], delta, guesses=guesses).value


Bound = Callable[[FloatArray, BoolArray, float, BoolArray], float]
EPSILON: Final[dict[str, Bound]] = {
    "one_run": lambda scores, member, delta, _: one_run_audit(scores, member, delta).value,
    "one_run_chosen": _chosen,
    "clopper_pearson": lambda scores, member, delta, half: clopper_pearson_audit(scores, member, half, delta).value,
}
NOISE: Final[dict[str, Bound]] = {
    "gdp": lambda scores, member, _, half: gdp_audit(scores, member, half).mu,
    "one_run_noise": lambda *seen: one_run_noise_audit(*seen[:2]).mu,
    "gaussian_pair": lambda *seen: gaussian_pair_audit(*seen[:2]).mu,
}


def _bounds(mechanism: Mechanism, methods: dict[str, Bound], runs: int, candidates: int) -> dict[str, FloatArray]:
    """The bound of each run, all methods on the same scores."""
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(runs):
        member = rng.random(candidates) < 0.5
        scores, half = mechanism.scores(member, rng), rng.permutation(candidates) < candidates // 2
        for name, bound in methods.items():
            found[name].append(bound(scores, member, mechanism.delta, half))
    return {name: np.array(values) for name, values in found.items()}


def coverage(runs: int) -> Figures:
    """How often each bound is at most the truth, and its mean."""
    flat: Figures = {}
    for name, mechanism in track(MECHANISMS.items(), "coverage", console=Console(stderr=True)):
        for method, found in _bounds(mechanism, EPSILON, runs, CANDIDATES).items():
            flat[f"coverage.{method}.{name}"] = float(np.mean(found <= mechanism.epsilon))
            flat[f"mean.{method}.{name}"] = float(found.mean())
        if mechanism.mu is None and name != "laplace_2":
            continue
        for method, found in _bounds(mechanism, NOISE, runs, CANDIDATES).items():
            if mechanism.mu is not None:
                flat[f"coverage.{method}.{name}"] = float(np.mean(found <= mechanism.mu))
                flat[f"mean.{method}.{name}"] = float(found.mean())
            else:
                taken = [gaussian_epsilon(mu, DELTA) for mu in found]
                flat[f"as_epsilon.{method}.laplace"] = float(np.mean(np.array(taken) <= mechanism.epsilon))
    return flat


def flagged(runs: int) -> Figures:
    """How often halved noise, and correct noise, is called less than promised."""
    halved: dict[str, list[float]] = {}
    correct: dict[str, list[float]] = {}
    for promised in track((0.5, 1.0, 2.0), "halved noise", console=Console(stderr=True)):
        for actual, shares in ((2 * promised, halved), (promised, correct)):
            mechanism = _gaussian(actual)
            for method, found in _bounds(mechanism, NOISE, runs, 2 * CANDIDATES).items():
                shares.setdefault(method, []).append(float(np.mean(found > promised)))
            (one_run,) = _bounds(mechanism, {"one_run": EPSILON["one_run"]}, runs, 2 * CANDIDATES).values()
            shares.setdefault("one_run", []).append(float(np.mean(one_run > gaussian_epsilon(promised, DELTA))))
    flat = {f"halved_noise_flagged.{method}": min(shares) for method, shares in halved.items()}
    return flat | {f"correct_noise_flagged.{method}": max(shares) for method, shares in correct.items()}


def main() -> None:
    """Measure, and print or write."""
    asked = options("Do the lower bounds of an audit hold?")
    flat = coverage(20 if asked.quick else 600) | flagged(5 if asked.quick else 180)
    if asked.json:
        write_json(asked.json, flat)
        return
    table = Table("figure", "", title="Audits", title_justify="left")
    for name, value in flat.items():
        table.add_row(name, f"{value:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
