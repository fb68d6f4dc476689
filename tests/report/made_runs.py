"""Run folders made up for the page: plausible figures, no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from privfl.auditing import clopper_pearson, one_run_epsilon
from privfl.auditing.evaluation import FPRS, headline_fpr
from privfl.auditing.questions.membership import AttackRecord, BestAttack, MembershipFinding, RateAt
from privfl.config import ExperimentConfig
from privfl.loading import load
from privfl.privacy.plans.example import Example
from privfl.records import (
    Environment,
    Evaluation,
    Interval,
    PartitionRecord,
    Price,
    PrivacyResult,
    Result,
    RoundRecord,
    SecureRecord,
    Spread,
    StageBytes,
    StageSeconds,
    TimingRecord,
)
from privfl.running.run_folder import RunFolder

PARAMETERS = 26010
STAGES = ("advertise_keys", "share_keys", "masked_input", "unmasking")
QUICKSTART = Path(__file__).parents[2] / "paper_configs" / "quickstart.toml"
CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
VARIANTS = [
    ("membership/loss", "loss", 0.14),
    ("membership/lira", "online", 0.16),
    ("membership/lira", "online, fixed variance", 0.2),
    ("membership/lira", "offline", 0.18),
    ("membership/lira", "offline, fixed variance", 0.22),
    ("membership/rmia", "offline, gamma 1", 0.25),
    ("membership/rmia", "offline, gamma 2", 0.24),
]


@dataclass(frozen=True)
class Made:
    """What a made-up run is to look like."""

    name: str = "quickstart"
    overrides: Sequence[str] = ()
    accuracy: float = 0.81
    epsilon: float = 7.99
    attacked: bool = True
    leak: float = 1.0
    nonmembers: int = 6000
    skipped: tuple[int, ...] = ()
    stopped: str | None = None
    done: int | None = None
    classes: Sequence[str] = tuple(CLASSES)
    clients: int = 100
    exceeds: bool = False
    epsilon_lower: float = 0.21


def make(path: Path, made: Made) -> RunFolder:
    config = load(QUICKSTART, f"name={made.name!r}", "rounds=20", f"data.clients={made.clients}", *made.overrides)
    folder = RunFolder.reserve(path)
    generator = np.random.default_rng(0)
    rounds = made.done or config.rounds
    folder.begin(config, environment(), {}, partition(made, generator))
    evaluations = [evaluation(made.accuracy * (1 - 0.55 * np.exp(-(index + 1) / 4)), generator) for index in range(rounds)]
    for index in range(rounds):
        last = index == rounds - 1
        evaluated = evaluations[index] if (index + 1) % config.evaluation.every == 0 or last else None
        folder.append(*one_round(config, made, index, rounds, evaluated, generator))
    uploads = sum(len(record.survivors) for record in folder.rounds())
    folder.write(
        "result.json",
        Result(
            rounds=rounds,
            stopped=made.stopped,
            parameters=PARAMETERS,
            engine="fused: each layer has a rule",
            evaluation=evaluations[-1],
            clients=(None, *generator.uniform(made.accuracy - 0.1, made.accuracy + 0.1, made.clients - 1).tolist()),
            train=made.accuracy + 0.007,
            privacy=privacy(config, made, generator),
            hides_updates=config.aggregator.kind == "secure_sum",
            bytes_up=sum(record.bytes_up for record in folder.rounds()),
            bytes_down=sum(record.bytes_down for record in folder.rounds()),
            bytes_plain=uploads * 4 * (PARAMETERS + 1),
        ),
    )
    if made.attacked:
        folder.write_findings([leakage(made)])
    return folder


def environment() -> Environment:
    return Environment(
        format=1,
        privfl="0.1.0",
        python="3.11.7",
        platform="Linux-6.1-x86_64-with-glibc2.36",
        processor="x86_64",
        device="cpu",
        packages={"torch": "2.13.0+cpu", "opacus": "1.6.0", "dp-accounting": "0.6.0", "numpy": "2.4.6"},
    )


def proportion(value: float, n: int) -> Interval:
    low, high = clopper_pearson(round(value * n), n)
    return Interval(value=value, low=float(low), high=float(high), n=n)


def evaluation(accuracy: float, generator: np.random.Generator) -> Evaluation:
    accuracy += float(generator.normal(0, 0.004))
    loss = 2.3 - 2.1 * accuracy
    return Evaluation(
        metrics={
            "accuracy": proportion(round(accuracy, 4), 10000),
            "loss": Interval(value=loss, low=loss - 0.015, high=loss + 0.015, n=10000),
        },
        clients=Spread(minimum=accuracy - 0.3, p10=accuracy - 0.13, median=accuracy + 0.01, p90=accuracy + 0.09, maximum=1.0),
    )


def one_round(
    config: ExperimentConfig, made: Made, index: int, rounds: int, evaluated: Evaluation | None, generator: np.random.Generator
) -> tuple[RoundRecord, TimingRecord]:
    skipped = index in made.skipped
    size = 1 if skipped else int(generator.integers(min(2, made.clients), min(14, made.clients) + 1))
    cohort = sorted(generator.choice(made.clients, size=size, replace=False).tolist())
    private, secure = config.privacy.kind != "none", config.aggregator.kind == "secure_sum"
    active = 0 if skipped else len(cohort)
    record = RoundRecord(
        round=index,
        cohort=cohort,
        survivors=[] if skipped else cohort,
        skipped="1 clients took part; secure_sum needs 2" if skipped else None,
        train_loss=None if skipped else 2.0 * float(np.exp(-index / 9)) + 0.4,
        clipped_share=0.55 + 0.45 * float(np.exp(-index / 7)) if private and not skipped else None,
        clipped_coordinates=0,
        epsilon=made.epsilon * (0.6 + 0.4 * (index + 1) / rounds) if private else None,
        bytes_up=active * (4 * (PARAMETERS + 1) + (104 if secure else 0)),
        bytes_down=active * active * 36 if secure else 0,
        secure=secure_record(active) if secure and active else None,
        evaluation=evaluated,
    )
    timing = TimingRecord(
        round=index,
        processes=1,
        train=0.12 * active + 0.1,
        aggregate_client=0.0007 if secure and active else 0.0,
        aggregate_server=0.0005 if active else 0.0,
        evaluate=1.8 if evaluated else 0.0,
        total=0.12 * active + 2.0,
        stages=[StageSeconds(stage=stage, client=0.0002, server=0.0001) for stage in STAGES] if secure and active else [],
    )
    return record, timing


def secure_record(clients: int) -> SecureRecord:
    return SecureRecord(
        attempts=1,
        clients=clients,
        graph="complete",
        adversary="semi_honest",
        bits=32,
        neighbours=clients - 1,
        threshold=clients // 2 + 1,
        least_survivors=clients // 2 + 1,
        quorum=0,
        log2_insecure=None,
        log2_recovery=None,
        lost={},
        refused={},
        masks_clients=clients**2,
        masks_server=clients,
        stages=[StageBytes(stage=stage, bytes_up=100 * clients, bytes_down=80 * clients, answers=clients) for stage in STAGES],
    )


def partition(made: Made, generator: np.random.Generator) -> PartitionRecord:
    shares = generator.dirichlet(np.full(made.clients, 1.0), size=len(made.classes))
    counts: NDArray[Any] = np.stack([generator.multinomial(4800, share) for share in shares], axis=1)
    return PartitionRecord(
        clients=[f"client {index}" for index in range(made.clients)],
        classes=list(made.classes),
        counts=counts.tolist(),
        provenance="Fashion-MNIST (Zalando Research, 2017), the original files, with its own test split.",
        digest="0" * 64,
        constants="0" * 64,
    )


def privacy(config: ExperimentConfig, made: Made, generator: np.random.Generator) -> PrivacyResult | None:
    if not isinstance(config.privacy, Example):
        return None
    # A Gaussian mechanism's curve (Balle & Wang 2018, theorem 5), scaled to about the ε that is asked for.
    mu, grid = made.epsilon / 4.2, np.linspace(0, 20, 81)
    delta = norm.cdf(mu / 2 - grid / mu) - np.exp(grid) * norm.cdf(-mu / 2 - grid / mu)
    spent = np.append(generator.uniform(0.3, 1, made.clients - 1) * made.epsilon, made.epsilon)
    spent[0] = 0.0 if made.clients > 1 else made.epsilon
    return PrivacyResult(
        plan="example",
        unit="example",
        units=60_000,
        relation="add_or_remove_one",
        sampler="poisson",
        randomness="seeded",
        extrapolated=None,
        zeroed=0,
        clip_end=None,
        adversaries=["external", "client", "server"],
        delta=config.privacy.delta,
        noise_multiplier=0.8134,
        clip=config.privacy.max_grad_norm,
        epsilon=made.epsilon,
        prices=[
            Price(accountant="pld", relation="add_or_remove_one", epsilon=made.epsilon),
            Price(accountant="rdp", relation="add_or_remove_one", epsilon=made.epsilon * 1.07),
            Price(accountant="pld", relation="replace_one", epsilon=made.epsilon * 1.6),
        ],
        epsilon_clients=spent.tolist(),
        budget=config.privacy.budget,
        attack_relation="add_or_remove_one",
        attack_epsilon=made.epsilon,
        curve_epsilon=grid.tolist(),
        curve_delta=np.clip(delta, 0, 1).tolist(),
    )


def leakage(made: Made) -> MembershipFinding:
    attacks = [attack(made, name, variant, made.leak * shift) for name, variant, shift in VARIANTS]
    guesses = made.nonmembers // 10
    half = attack(made, "membership/rmia", "offline, gamma 1", made.leak * 0.2)
    return MembershipFinding(
        question="membership",
        adversary="external",
        members=made.nonmembers + 37,
        nonmembers=made.nonmembers,
        shadow_models=4,
        attacks=attacks,
        best=BestAttack(
            attack="membership/rmia",
            variant="offline, gamma 1",
            candidates=made.nonmembers,
            auc=half.auc,
            rates=rates(made.leak * 0.2, made.nonmembers // 2),
            headline_fpr=headline_fpr(made.nonmembers // 2),
            roc_fpr=half.roc_fpr,
            roc_tpr=half.roc_tpr,
            epsilon_lower=made.epsilon_lower,
            epsilon_ceiling=max(made.epsilon_lower, one_run_epsilon(guesses, guesses, made.nonmembers, 1e-5)),
            level=0.95,
            delta=1e-5,
        ),
        groupings=[],
        exposed=[],
    )


def attack(made: Made, name: str, variant: str, shift: float) -> AttackRecord:
    fpr = np.geomspace(1 / made.nonmembers, 1, 90)
    tpr = norm.cdf(norm.ppf(np.minimum(fpr, 1 - 1e-12)) + shift)
    area = float(norm.cdf(shift / np.sqrt(2)))
    return AttackRecord(
        attack=name,
        variant=variant,
        question="membership",
        adversary="external",
        rounds=[],
        auc=Interval(value=area, low=area - 0.007, high=area + 0.007, n=2 * made.nonmembers),
        balanced_accuracy=0.5 + (area - 0.5) * 0.7,
        rates=rates(shift, made.nonmembers),
        roc_fpr=[0.0, *fpr.tolist()],
        roc_tpr=[0.0, *tpr.tolist()],
        exceeds_bound=made.exceeds and variant == "online",
    )


def rates(shift: float, n: int) -> list[RateAt]:
    found = []
    for fpr in FPRS:
        if fpr * n < 10:
            found.append(RateAt(fpr=fpr, tpr=None, reason=f"not resolvable: {n} non-members, {round(10 / fpr)} needed"))
        else:
            found.append(RateAt(fpr=fpr, tpr=proportion(float(norm.cdf(norm.ppf(fpr) + shift)), n)))
    return found
