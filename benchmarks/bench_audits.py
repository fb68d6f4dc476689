"""Do the lower bounds hold, and do they notice noise that is half of what was promised?

Each mechanism releases a score for each of 1,000 candidates, of which an independent fair coin includes about half;
its true ε (or µ) is known. ``coverage.METHOD.MECHANISM`` is the share of runs in which the bound was not above the
truth; ``mean.METHOD.MECHANISM`` is the mean bound. Bounds on ε are held against every mechanism, bounds on the noise
(µ) against Gaussian noise, the only one that they speak of; ``as_epsilon.METHOD.laplace`` is how often they would
cover if they were taken for bounds on ε: hardly ever.

``halved_noise_flagged.METHOD`` has 2,000 candidates and half the promised noise: the least share of runs, over
promised µ of .5, 1 and 2, in which the bound is above the promise. ``correct_noise_flagged.METHOD`` is the largest
share with the noise that was promised.

The last three bounds on the noise know the mechanism with its noise left open, as the audit of a run does
(:mod:`privfl.auditing.family`); for the subsampled Gaussian they are the only ones.

``audited_runs.flagged.KIND`` trains small models on digits with 800 gradient canaries, with the promised noise, half of it,
none, and without the clip: the share of runs in which an audit of the rounds refutes the promised noise.

``tpr_interval_coverage`` is the least share of samples, over twelve cases of normal scores (members shifted by 0, 1 or 2;
1,000 or 4,000 of each kind; an FPR of 1 or 5 %), in which the 95 % interval of the TPR holds the true TPR at that FPR.

    python benchmarks/bench_audits.py [--quick] [--json FILE]
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from _harness import Figures, options, write_json
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import special

from privfl.auditing import chosen_guesses, clopper_pearson_audit, one_run_audit, roc
from privfl.auditing.bound import NoiseFamily
from privfl.auditing.family import clopper_pearson_noise, gaussian_pair_noise, one_run_noise
from privfl.auditing.noise import gaussian_epsilon, gaussian_pair_audit, gdp_audit, one_run_noise_audit
from privfl.auditing.questions.noise import NoiseFinding
from privfl.learning.training.opacus import CountingDPOptimizer
from privfl.loading import loads
from privfl.privacy import accounting
from privfl.privacy.mechanisms import Gaussian, History, PoissonGaussian
from privfl.running.attacking import attack
from privfl.running.auditing import audited
from privfl.running.recording import run

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

CANDIDATES: Final = 1000
DELTA: Final = 1e-5
GRID: Final = np.linspace(0, 20, 401)
Release = Gaussian | PoissonGaussian
ROUNDS, RATE = 60, 0.1  # of the subsampled Gaussian


@dataclass(frozen=True)
class Mechanism:
    """A release whose privacy is known.

    Args:
        scores: of each candidate, higher means member.
        epsilon: at ``delta``.
        delta: 0 if the mechanism has none.
        mu: of Gaussian noise, else None.
        family: the mechanism with its noise left open; None if it has no Gaussian noise.
        linear: scores that are sums of the releases, if ``scores`` are not.
    """

    scores: Callable[[BoolArray, np.random.Generator], FloatArray]
    epsilon: float
    delta: float = 0.0
    mu: float | None = None
    family: NoiseFamily | None = None
    linear: Callable[[BoolArray, np.random.Generator], FloatArray] | None = None


def _family(promised: float, release: Callable[[float], Release], times: int, rate: float = 1.0) -> NoiseFamily:
    @functools.cache
    def curve(noise: float) -> tuple[list[float], list[float]]:
        return GRID.tolist(), accounting.curve([History({release(noise): times})], GRID).tolist()

    return NoiseFamily(promised, curve, ((rate, times),))


def _gaussian(mu: float, promised: float | None = None) -> Mechanism:
    """Gaussian noise of that µ, and the family of a promise, the same unless it is given."""
    family = _family(1 / (promised or mu), Gaussian, 1)
    epsilon = gaussian_epsilon(mu, DELTA)
    return Mechanism(lambda member, rng: mu * member + rng.normal(size=member.shape), epsilon, DELTA, mu, family)


def _laplace(epsilon: float) -> Mechanism:
    return Mechanism(lambda member, rng: member + rng.laplace(0, 1 / epsilon, member.shape), epsilon)


def _randomised_response(member: BoolArray, rng: np.random.Generator) -> FloatArray:
    return np.asarray(member ^ (rng.random(member.shape) < special.expit(-1.0)), dtype=float)


def _subsampled(member: BoolArray, rng: np.random.Generator) -> FloatArray:
    """The log-likelihood ratio of 60 rounds with noise multiplier 1, each taking a candidate with probability .1."""
    taken_TN = (rng.random((ROUNDS, len(member))) < RATE) & member
    seen_TN = taken_TN + rng.normal(size=taken_TN.shape)
    return np.asarray(np.log1p(RATE * np.expm1(seen_TN - 0.5)).sum(axis=0))


def _sums(member: BoolArray, rng: np.random.Generator) -> FloatArray:
    """The sums of the same rounds' releases."""
    return np.asarray(rng.binomial(ROUNDS, RATE, len(member)) * member + np.sqrt(ROUNDS) * rng.normal(size=len(member)))


MECHANISMS: Final = {
    "laplace_1": _laplace(1.0),
    "laplace_2": _laplace(2.0),
    "randomised_response": Mechanism(_randomised_response, 1.0),
    "gaussian_1": _gaussian(1.0),
    "gaussian_2": _gaussian(2.0),
    # ε by privacy loss distributions.
    "subsampled_gaussian": Mechanism(
        _subsampled, 5.573, DELTA, family=_family(1.0, functools.partial(PoissonGaussian, RATE), ROUNDS, RATE), linear=_sums
    ),
}


def _chosen(scores: FloatArray, member: BoolArray, delta: float, order: IntArray) -> float:
    half = order < len(order) // 2
    guesses = chosen_guesses(scores[half], member[half])
    return one_run_audit(scores[~half], member[~half], delta, guesses=guesses).value


Bound = Callable[[FloatArray, BoolArray, float, IntArray], float]
EPSILON: Final[dict[str, Bound]] = {
    "one_run": lambda scores, member, delta, _: one_run_audit(scores, member, delta).value,
    "one_run_chosen": _chosen,
    "clopper_pearson": lambda scores, member, delta, order: (
        clopper_pearson_audit(scores, member, order < len(order) // 2, delta).value
    ),
}
NOISE: Final[dict[str, Bound]] = {
    "gdp": lambda scores, member, _, order: gdp_audit(scores, member, order < len(order) // 3).mu,
    "one_run_noise": lambda *seen: one_run_noise_audit(*seen[:2]).mu,
    "gaussian_pair": lambda *seen: gaussian_pair_audit(*seen[:2]).mu,
}


def _bounds(mechanism: Mechanism, methods: dict[str, Bound], runs: int, candidates: int) -> dict[str, FloatArray]:
    """The bound of each run, all methods on the same scores."""
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(runs):
        member = rng.random(candidates) < 0.5
        scores, order = mechanism.scores(member, rng), rng.permutation(candidates)
        for name, bound in methods.items():
            found[name].append(bound(scores, member, mechanism.delta, order))
    return {name: np.array(values) for name, values in found.items()}


def _noise_by_mechanism(mechanism: Mechanism, runs: int, candidates: int) -> dict[str, float]:
    """The share of runs in which each bound that knows the mechanism refutes the promised noise."""
    rng, family, linear = np.random.default_rng(1), mechanism.family, mechanism.linear or mechanism.scores
    assert family is not None
    refuted: dict[str, list[bool]] = {}
    for _ in range(runs):
        member = rng.random(candidates) < 0.5
        scores, chosen = mechanism.scores(member, rng), rng.permutation(candidates) < candidates // 3
        bounds = {
            "clopper_pearson_noise_of_mechanism": clopper_pearson_noise(scores, member, chosen, family),
            "one_run_noise_of_mechanism": one_run_noise(scores, member, family),
            "gaussian_pair_noise_of_mechanism": gaussian_pair_noise(linear(member, rng), member, family),
        }
        for method, found in bounds.items():
            assert found is not None
            refuted.setdefault(method, []).append(found.below is not None and found.below <= family.promised)
    return {method: float(np.mean(shares)) for method, shares in refuted.items()}


def coverage(runs: int) -> Figures:
    """How often each bound is at most the truth, and its mean."""
    flat: Figures = {}
    for name, mechanism in track(MECHANISMS.items(), "coverage", console=Console(stderr=True)):
        for method, found in _bounds(mechanism, EPSILON, runs, CANDIDATES).items():
            flat[f"coverage.{method}.{name}"] = float(np.mean(found <= mechanism.epsilon))
            flat[f"mean.{method}.{name}"] = float(found.mean())
        if mechanism.family is not None:
            for method, share in _noise_by_mechanism(mechanism, runs, CANDIDATES).items():
                flat[f"coverage.{method}.{name}"] = 1 - share
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
            mechanism = _gaussian(actual, promised)
            for method, share in _noise_by_mechanism(mechanism, runs, 2 * CANDIDATES).items():
                shares.setdefault(method, []).append(share)
            for method, found in _bounds(mechanism, NOISE, runs, 2 * CANDIDATES).items():
                shares.setdefault(method, []).append(float(np.mean(found > promised)))
            (one_run,) = _bounds(mechanism, {"one_run": EPSILON["one_run"]}, runs, 2 * CANDIDATES).values()
            shares.setdefault("one_run", []).append(float(np.mean(one_run > gaussian_epsilon(promised, DELTA))))
    flat = {f"halved_noise_flagged.{method}": min(shares) for method, shares in halved.items()}
    return flat | {f"correct_noise_flagged.{method}": max(shares) for method, shares in correct.items()}


def tpr_intervals(samples: int) -> Figures:
    """The least coverage of the interval of a TPR at an FPR, over twelve cases."""
    rng, shares = np.random.default_rng(2), []
    cases = [(shift, count, fpr) for shift in (0.0, 1.0, 2.0) for count in (1000, 4000) for fpr in (0.01, 0.05)]
    for shift, count, fpr in track(cases, "intervals of a TPR", console=Console(stderr=True)):
        member = np.arange(2 * count) < count
        truth = float(special.ndtr(special.ndtri(fpr) + shift))
        held = 0
        for _ in range(samples):
            low, high = roc(rng.normal(size=2 * count) + shift * member, member).limits(fpr)
            held += bool(low[0] <= truth <= high[0])
        shares.append(held / samples)
    return {"tpr_interval_coverage": min(shares)}


# --- real training runs -------------------------------------------------------------------------------------------------

AUDITED: Final = {
    "name": "audited",
    "rounds": 4,
    "data": {"kind": "digits", "clients": 2},
    "model": {"kind": "mlp", "hidden": [32]},
    "cohort": {"kind": "all"},
    "training": {"engine": "opacus", "local_steps": 1, "batch_size": 2000, "lr": 0.1},
    "privacy": {"kind": "example", "noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 1.0},
    "aggregator": {"kind": "mean"},
    "server": {"kind": "fedavg"},
}


@contextmanager
def _build(noise: float, clip: float) -> Iterator[None]:
    """An engine that draws so many times the noise and clips to so many times the norm, and reports what was planned."""
    kept = {name: getattr(CountingDPOptimizer, name) for name in ("add_noise", "clip_and_accumulate", "require_noise")}

    def add_noise(self: CountingDPOptimizer) -> None:
        promised, self.noise_multiplier = self.noise_multiplier, self.noise_multiplier * noise
        kept["add_noise"](self)
        self.noise_multiplier = promised

    def clip_and_accumulate(self: CountingDPOptimizer) -> None:
        promised, self.max_grad_norm = self.max_grad_norm, self.max_grad_norm * clip
        kept["clip_and_accumulate"](self)
        self.max_grad_norm = promised

    broken = {"add_noise": add_noise, "clip_and_accumulate": clip_and_accumulate, "require_noise": lambda *_: None}
    if (noise, clip) == (1.0, 1.0):
        broken = kept
    try:
        for name, method in broken.items():
            setattr(CountingDPOptimizer, name, method)
        yield
    finally:
        for name, method in kept.items():
            setattr(CountingDPOptimizer, name, method)


def audited_runs(runs: int) -> Figures:
    """How often the audit of a whole run refutes the promised noise, right builds and broken ones."""
    flat: Figures = {}
    builds = {"correct": (1.0, 1.0), "halved_noise": (0.5, 1.0), "no_noise": (0.0, 1.0), "no_clip": (1.0, 1e6)}
    for kind, build in track(builds.items(), "audited runs", console=Console(stderr=True)):
        flags = []
        for seed in range(runs):
            with tempfile.TemporaryDirectory() as place, _build(*build):
                folder = run(audited(loads({**AUDITED, "seed": seed}), 800), Path(place) / "run")
                findings = [one for one in attack(folder) if isinstance(one, NoiseFinding) and one.adversary == "server"]
                flags.append(any(one.contradicts() for one in findings))
        flat[f"audited_runs.flagged.{kind}"] = float(np.mean(flags))
    return flat


def main() -> None:
    """Measure, and print or write."""
    asked = options("Do the lower bounds of an audit hold?")
    flat = coverage(20 if asked.quick else 600) | flagged(5 if asked.quick else 180)
    flat |= tpr_intervals(50 if asked.quick else 400) | audited_runs(1 if asked.quick else 20)
    if asked.json:
        write_json(asked.json, flat)
        return
    table = Table("figure", "", title="Audits", title_justify="left")
    for name, value in flat.items():
        table.add_row(name, f"{value:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
