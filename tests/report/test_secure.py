"""What a report says of secure aggregation where a round did not come far."""

from __future__ import annotations

import pytest
from made_runs import secure_record

from privfl.report.secure import _facts, certified_numbers, risks

NEVER = secure_record(5).model_copy(
    update=dict.fromkeys(("clients", "graph", "neighbours", "threshold", "least_survivors", "quorum")) | {"attempts": 3}
)


@pytest.mark.parametrize(
    ("insecure", "lost", "said"),
    [
        # A bound is never printed below itself.
        (-40.6, -30.0, ("at most 2^−40", "at most 2^−30")),
        (-41.0, 0.0, ("at most 2^−41", "at most 1")),
        (-0.4, -0.6, ("at most 1", "at most 1")),
        # Where nothing is left to chance there is no probability, and what excludes it is said instead of 0.
        (None, None, ("excluded: too few clients may be corrupt", "excluded: enough clients remain after the allowed losses")),
    ],
)
def test_what_may_fail_is_bounded_or_excluded(insecure: float | None, lost: float | None, said: tuple[str, str]) -> None:
    record = secure_record(5).model_copy(update={"log2_insecure": insecure, "log2_recovery": lost})
    # The worst of the rounds counts; one that left nothing to chance is no worse.
    better_direction = record.model_copy(update={"log2_insecure": None, "log2_recovery": None})
    assert tuple(text for _, text in risks([better_direction, record, better_direction])) == said


def test_a_round_without_a_roster_has_no_numbers_and_counts_all_the_same() -> None:
    assert certified_numbers(NEVER) == "no roster was long enough"
    facts = dict(_facts([NEVER, secure_record(5), secure_record(4)]))
    assert facts["fewest in a sum"].startswith("3")
    assert facts["repeated attempts"] == "2"
    assert [name for name in facts if name.startswith("round of")] == ["round of 4 clients", "round of 5 clients"]
    assert dict(_facts([NEVER]))["rosters"] == certified_numbers(NEVER)
