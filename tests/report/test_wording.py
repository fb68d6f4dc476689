"""Figures in words."""

from __future__ import annotations

import pytest

from privfl.report import wording


def plain(text: str) -> str:
    return text.replace("\u202f", " ").replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (wording.percent(0.84234), "84.2 %"),
        (wording.percent(0), "0.0 %"),
        (wording.percent(0.00004), "0.004 %"),
        (wording.percent(0.00004, 2), "0.004 %"),
        (wording.percent(0.0006), "0.1 %"),
        (wording.percent_at_most(0.01001), "1.1 %"),
        (wording.percent_at_most(0.337), "33.7 %"),
        (wording.percent_at_most(1.0), "100.0 %"),
        (wording.rate(1e-4), "0.01 %"),
        (wording.scientific(1e-5), "10⁻⁵"),
        (wording.scientific(2.5e-6), "2.5·10⁻⁶"),
        (wording.scientific(0.99e-5), "9.9·10⁻⁶"),
        (wording.epsilon(7.999), "8.00"),
        (wording.epsilon(612345.6), "612,346"),
        (wording.byte_size(0), "0 bytes"),
        (wording.byte_size(999.6), "1 kB"),
        (wording.byte_size(104044), "104 kB"),
        (wording.byte_size(999_999), "1 MB"),
        (wording.byte_size(15_300_000), "15.3 MB"),
        (wording.byte_size(3.2e12), "3.2 TB"),
        (wording.duration(0), "0 ms"),
        (wording.duration(0.00098765), "0.99 ms"),
        (wording.duration(1.2345), "1.23 s"),
        (wording.duration(250), "4 min 10 s"),
        (wording.duration(7265), "2 h 1 min"),
        (wording.listing(["a"]), "a"),
        (wording.listing(["a", "b", "c"]), "a, b and c"),
        (wording.listing([]), "nobody"),
        (wording.plural(1, "round"), "1 round"),
        (wording.plural(0, "class", "classes"), "0 classes"),
        (wording.attack_name("membership/lira", "offline, fixed variance"), "lira · offline, fixed variance"),
        (wording.attack_name("membership/loss", "loss"), "loss"),
    ],
)
def test_wording(made: str, expected: str) -> None:
    assert plain(made) == expected
