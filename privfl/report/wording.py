"""Formatting of numbers for readers: units, spaces that do not break, and no false precision."""

from __future__ import annotations

import math
from collections.abc import Sequence

from privfl.adversaries import Adversary
from privfl.learning.tasks import Figure
from privfl.records import Interval

NNBSP = "\u202f"
"""The narrow no-break space between a number and its unit."""

NBSP = "\u00a0"
"""The no-break space."""

ABSENT = frozenset({"no promise", "not measured", "not resolvable", "off"})
"""The words shown in place of a figure that does not exist."""

_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def count(value: int) -> str:
    """Format a whole number: 26010 -> 26,010."""
    return f"{value:,}"


def percent(share: float, digits: int = 1) -> str:
    """Format a share in percent: 0.8423 -> 84.2 %. If it would round to 0, keep one digit: 0.00004 -> 0.004 %."""
    small = 0 < abs(share) * 100 < 0.5 * 0.1**digits
    return f"{share * 100:{'.1g' if small else f'.{digits}f'}}{NNBSP}%"


def percent_at_most(share: float) -> str:
    """Format an upper bound in percent, rounded up: 0.01049 -> 1.1 %."""
    return f"{min(math.ceil(round(share * 1000, 6)) / 10, 100):.1f}{NNBSP}%"


def percent_range(interval: Interval, digits: int = 1) -> str:
    """Format an interval in percent: 83.5 – 84.9 %."""
    return f"{interval.low * 100:.{digits}f}{NBSP}–{NBSP}{interval.high * 100:.{digits}f}{NNBSP}%"


def interval_and_level(found: Interval, digits: int = 1) -> str:
    """Format an interval with its level: 83.5 – 84.9 % (95 % interval)."""
    return f"{percent_range(found, digits)} ({level(found.level)}{NBSP}interval)"


def measured(figure: Figure, value: float) -> str:
    """Format a metric with its unit: 84.2 %, or 0.213 nats."""
    return percent(value) if figure.unit == "%" else f"{value:.3g}{NNBSP}{figure.unit}".strip()


def measured_range(figure: Figure, found: Interval) -> str:
    """Format the interval of a metric with its unit: 83.5 – 84.9 %, or 0.2 – 0.23 nats."""
    if figure.unit == "%":
        return percent_range(found)
    return f"{found.low:.3g}{NBSP}–{NBSP}{found.high:.3g}{NNBSP}{figure.unit}".strip()


def capitalize(words: str) -> str:
    """Write the first letter as a capital and leave the others as they are."""
    return words[:1].upper() + words[1:]


def lower_first(words: str) -> str:
    """Write the first letter small, unless the word is an abbreviation or a symbol."""
    return words[:1].lower() + words[1:]


def axis_of(figure: Figure) -> str:
    """Return the label of a metric's axis: its name and unit."""
    return f"{figure.title}, {figure.unit}" if figure.unit else figure.title


def better_direction(figure: Figure) -> str:
    """Say in which direction runs are better, in a figure with a metric on the vertical axis."""
    return f"{'Up' if figure.higher_is_better else 'Down'} and to the left is better."


def level(share: float) -> str:
    """Format a confidence level: 0.95 -> 95 %."""
    return f"{share * 100:g}{NNBSP}%"


def rate(share: float) -> str:
    """Format a false positive rate, without trailing zeros: 0.001 -> 0.1 %."""
    return f"{share * 100:g}{NNBSP}%"


def scientific(value: float) -> str:
    """Format a number as a power of ten: 1e-5 -> 10⁻⁵; 2.5e-6 -> 2.5·10⁻⁶."""
    mantissa, exponent = f"{value:.1e}".split("e")
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPTS)
    return power if float(mantissa) == 1 else f"{float(mantissa):g}·{power}"


def epsilon(value: float) -> str:
    """Format an ε with two decimals; from 100 on as a whole number, below 0.01 with one significant digit."""
    if 0 < value < 0.01:
        return f"{value:.1g}"
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def factor(value: float) -> str:
    """Format a ratio: 1.0234 -> 1.02."""
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def byte_size(size: float) -> str:
    """Format bytes in decimal units with three digits: 1.23 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if round(size) < 1000:
            return f"{size:.0f}{NNBSP}{unit}" if unit == "bytes" or size >= 100 else f"{size:.3g}{NNBSP}{unit}"
        size /= 1000
    return f"{size:,.3g}{NNBSP}TB"


def duration(seconds: float) -> str:
    """Format seconds in a fitting unit: 12 ms, 1.3 s, 4 min 10 s."""
    if seconds < 1:
        return f"{seconds * 1000:.{2 if seconds < 0.01 else 3}g}{NNBSP}ms"
    if seconds < 120:
        return f"{seconds:.3g}{NNBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes}{NNBSP}min {rest}{NNBSP}s"
    return f"{minutes // 60}{NNBSP}h {minutes % 60}{NNBSP}min"


def listing(words: Sequence[str]) -> str:
    """Join words to a list in a sentence: a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "nobody"


def plural(number: int, noun: str, nouns: str = "") -> str:
    """Format a number with its noun: 1 round, 20 rounds; ``nouns`` is the plural if it is not ``noun`` with an s."""
    return f"{count(number)} {noun if number == 1 else nouns or noun + 's'}"


def rounds_read(rounds: Sequence[int]) -> str:
    """Name the rounds that an attack read: rounds 1 to 20; round 3; the final model if it read none."""
    if not rounds:
        return "the final model"
    if len(rounds) == 1:
        return f"round {rounds[0] + 1}"
    if list(rounds) == list(range(rounds[0], rounds[-1] + 1)):
        return f"rounds {rounds[0] + 1} to {rounds[-1] + 1}"
    return f"{len(rounds)} rounds from {rounds[0] + 1} to {rounds[-1] + 1}"


def adversary_name(adversary: Adversary) -> str:
    """Return the displayed name of an adversary: ``malicious_server`` -> malicious server."""
    return {"external": "external adversary", "malicious_server": "malicious server"}.get(adversary, adversary)


def attack_name(attack: str, variant: str) -> str:
    """Return the displayed name of an attack: ``membership/lira``, ``offline`` -> lira · offline."""
    name = attack.rpartition("/")[2].replace("_", " ")
    return name if variant in ("", name) else f"{name}{NBSP}·{NBSP}{variant}"
