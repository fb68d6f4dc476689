"""What a run writes down, as typed records: the language between those who measure and those who show."""

from __future__ import annotations

from typing import Literal

from privfl.config import Frozen


class Interval(Frozen):
    """An estimate and its two-sided interval at ``level``, from ``n`` observations."""

    value: float
    low: float
    high: float
    n: int
    level: float = 0.95


class Spread(Frozen):
    """How a figure is spread over clients: minimum, 10th, 50th and 90th percentile, maximum."""

    minimum: float
    p10: float
    median: float
    p90: float
    maximum: float


class Evaluation(Frozen):
    """Accuracy and mean cross entropy (nats) on the central test split, and accuracy spread over clients' hold-outs."""

    accuracy: Interval
    loss: Interval
    clients: Spread | None


class RoundRecord(Frozen):
    """What one round did. ``round`` counts from 0.

    ``skipped`` says why nobody trained, where the cohort was too small. ``epsilon`` is the largest ε over the clients
    so far, None where nothing is promised. ``clipped_share`` is the share of per-example gradients that were clipped,
    ``clipped_coordinates`` how many coordinates the secure sum's encoding clipped; no server sees either.
    """

    round: int
    cohort: list[int]
    skipped: str | None
    train_loss: float | None
    clipped_share: float | None
    clipped_coordinates: int
    epsilon: float | None
    bytes_up: int
    bytes_down: int
    evaluation: Evaluation | None


class TimingRecord(Frozen):
    """Seconds that one round took: training of the whole cohort, one client's and the server's part of aggregation."""

    round: int
    train: float
    aggregate_client: float
    aggregate_server: float
    evaluate: float
    total: float


class Environment(Frozen):
    """What a reader needs to reproduce the run beside its configuration."""

    format: int
    privfl: str
    python: str
    platform: str
    processor: str
    device: str
    packages: dict[str, str]


class PartitionRecord(Frozen):
    """Who has how much of which class: ``counts`` has a row for each client, a column for each class.

    ``digest`` is the SHA-256 of all the data and of who owns what; a run is resumed and attacked on the same data only.
    """

    clients: list[str]
    classes: list[str]
    counts: list[list[int]]
    provenance: str
    digest: str


class PrivacyResult(Frozen):
    """What was promised, priced from the ledger alone.

    ``epsilon`` is the largest over the clients by PLD, ``epsilon_rdp`` the same by RDP. ``curve_epsilon`` and
    ``curve_delta`` are the privacy curve that holds for every client: δ(ε), the largest over the clients at each ε.
    """

    unit: Literal["example", "client"]
    relation: str
    sampler: str
    adversaries: list[str]
    delta: float
    noise_multiplier: float
    max_grad_norm: float
    epsilon: float
    epsilon_rdp: float
    epsilon_clients: list[float]
    budget: float | None
    curve_epsilon: list[float]
    curve_delta: list[float]


class Result(Frozen):
    """The figures of a run. ``stopped`` says why it ended before its last round, where it did.

    ``bytes_plain`` is what the same uploads would have cost in the clear.
    """

    rounds: int
    stopped: str | None
    parameters: int
    evaluation: Evaluation
    train_accuracy: float
    privacy: PrivacyResult | None
    hides_updates: bool
    bytes_up: int
    bytes_down: int
    bytes_plain: int


class RateAt(Frozen):
    """True positive rate at one false positive rate; ``tpr`` is None, with the reason, where the sample cannot tell."""

    fpr: float
    tpr: Interval | None
    reason: str | None = None


class AttackRecord(Frozen):
    """What one variant of one attack found, on all candidates.

    ``roc_fpr`` and ``roc_tpr`` are the ROC, thinned for drawing. ``exceeds_bound`` says whether, at one of the
    ``rates``, it beat what the promised ε allows by more than chance (corrected for all variants and rates); None where
    nothing is promised.
    """

    attack: str
    variant: str
    adversary: str
    auc: Interval
    balanced_accuracy: float
    rates: list[RateAt]
    roc_fpr: list[float]
    roc_tpr: list[float]
    exceeds_bound: bool | None


class BestAttack(Frozen):
    """The attack that did best on one half of the candidates, measured on the other half.

    ``epsilon_lower`` is a lower bound on ε that holds with probability ``level`` (one-run audit, Steinke 2023).
    """

    attack: str
    variant: str
    candidates: int
    rates: list[RateAt]
    epsilon_lower: float
    level: float
    delta: float


class Leakage(Frozen):
    """``attacks/summary.json``: what the membership attacks found on the final model."""

    members: int
    nonmembers: int
    shadow_models: int
    attacks: list[AttackRecord]
    best: BestAttack
