"""Numbers as a reader expects them: units, thin spaces, typographic minus, no false precision."""

from __future__ import annotations

import math
from collections.abc import Sequence

from privfl.learning.tasks import Figure
from privfl.records import Interval

SPACE = "\u202f"
"""A narrow space that does not break: between a number and its unit."""

HARD = "\u00a0"
"""A space that does not break."""

ABSENT = frozenset({"no promise", "not measured", "not resolvable", "off"})
"""What stands where a figure would, where there is none."""

_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def count(value: int) -> str:
    """26010 -> 26,010."""
    return f"{value:,}"


def percent(share: float, digits: int = 1) -> str:
    """0.8423 -> 84.2 %; of a share that would round to nothing one digit that is not 0: 0.00004 -> 0.004 %."""
    small = 0 < abs(share) * 100 < 0.5 * 0.1**digits
    return f"{share * 100:{'.1g' if small else f'.{digits}f'}}{SPACE}%"


def percent_at_most(share: float) -> str:
    """A bound, never below itself: 0.01049 -> 1.1 %."""
    return f"{min(math.ceil(round(share * 1000, 6)) / 10, 100):.1f}{SPACE}%"


def percent_range(interval: Interval, digits: int = 1) -> str:
    """Both ends of an interval: 83.5 – 84.9 %."""
    return f"{interval.low * 100:.{digits}f}{HARD}–{HARD}{interval.high * 100:.{digits}f}{SPACE}%"


def interval(found: Interval, digits: int = 1) -> str:
    """Both ends, and what they are: 83.5 – 84.9 % (95 % interval)."""
    return f"{percent_range(found, digits)} ({level(found.level)}{HARD}interval)"


def measured(figure: Figure, value: float) -> str:
    """A metric with its unit: 84.2 %, or 0.213 nats."""
    return percent(value) if figure.unit == "%" else f"{value:.3g}{SPACE}{figure.unit}".strip()


def measured_range(figure: Figure, found: Interval) -> str:
    """Both ends of a metric's interval, with the unit: 83.5 – 84.9 %, or 0.2 – 0.23 nats."""
    if figure.unit == "%":
        return percent_range(found)
    return f"{found.low:.3g}{HARD}–{HARD}{found.high:.3g}{SPACE}{figure.unit}".strip()


def capital(words: str) -> str:
    """Words that begin a line."""
    return words[:1].upper() + words[1:]


def axis_of(figure: Figure) -> str:
    """A metric's name and unit, for an axis."""
    return f"{figure.title}, {figure.unit}" if figure.unit else figure.title


def better(figure: Figure) -> str:
    """Where the better runs are in a figure whose vertical axis is a metric."""
    return f"{'Up' if figure.higher_is_better else 'Down'} and to the left is better."


def level(share: float) -> str:
    """0.95 -> 95 %."""
    return f"{share * 100:g}{SPACE}%"


def rate(share: float) -> str:
    """A false positive rate, without trailing zeros: 0.001 -> 0.1 %."""
    return f"{share * 100:g}{SPACE}%"


def scientific(value: float) -> str:
    """1e-5 -> 10⁻⁵; 2.5e-6 -> 2.5·10⁻⁶."""
    mantissa, exponent = f"{value:.1e}".split("e")
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPTS)
    return power if float(mantissa) == 1 else f"{float(mantissa):g}·{power}"


def epsilon(value: float) -> str:
    """ε with two digits after the point; large ones as whole numbers, and of small ones one digit that is not 0."""
    if 0 < value < 0.01:
        return f"{value:.1g}"
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def factor(value: float) -> str:
    """A ratio: 1.0234 -> 1.02."""
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def amount(size: float) -> str:
    """Bytes in decimal units, three digits: 1.23 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if round(size) < 1000:
            return f"{size:.0f}{SPACE}{unit}" if unit == "bytes" or size >= 100 else f"{size:.3g}{SPACE}{unit}"
        size /= 1000
    return f"{size:,.3g}{SPACE}TB"


def duration(seconds: float) -> str:
    """Seconds as one would say them: 12 ms, 1.3 s, 4 min 10 s."""
    if seconds < 1:
        return f"{seconds * 1000:.{2 if seconds < 0.01 else 3}g}{SPACE}ms"
    if seconds < 120:
        return f"{seconds:.3g}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes}{SPACE}min {rest}{SPACE}s"
    return f"{minutes // 60}{SPACE}h {minutes % 60}{SPACE}min"


def listing(words: Sequence[str]) -> str:
    """a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "nobody"


def plural(number: int, noun: str, nouns: str = "") -> str:
    """1 round, 20 rounds; ``nouns`` where it is not ``noun`` and an s."""
    return f"{count(number)} {noun if number == 1 else nouns or noun + 's'}"


def rounds_read(rounds: Sequence[int]) -> str:
    """The rounds that an attack looked at: rounds 1 to 20; round 3; the final model, if it looked at none."""
    if not rounds:
        return "the final model"
    if len(rounds) == 1:
        return f"round {rounds[0] + 1}"
    if list(rounds) == list(range(rounds[0], rounds[-1] + 1)):
        return f"rounds {rounds[0] + 1} to {rounds[-1] + 1}"
    return f"{len(rounds)} rounds from {rounds[0] + 1} to {rounds[-1] + 1}"


def attack_name(attack: str, variant: str) -> str:
    """``membership/lira``, ``offline`` -> lira · offline."""
    name = attack.rpartition("/")[2].replace("_", " ")
    return name if variant in ("", name) else f"{name}{HARD}·{HARD}{variant}"
