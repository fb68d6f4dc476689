"""What a report says of secure aggregation where a round did not come far."""

from __future__ import annotations

from made_runs import secure_record

from privfl.report.secure import _facts, certified

NEVER = secure_record(5).model_copy(
    update=dict.fromkeys(("clients", "graph", "neighbours", "threshold", "least_survivors", "quorum")) | {"attempts": 3}
)


def test_a_round_without_a_roster_has_no_numbers_and_counts_all_the_same() -> None:
    assert certified(NEVER) == "no roster was long enough"
    facts = dict(_facts([NEVER, secure_record(5), secure_record(4)]))
    assert facts["fewest in a sum"].startswith("3")
    assert facts["attempts begun again"] == "2"
    assert [name for name in facts if name.startswith("round of")] == ["round of 4 clients", "round of 5 clients"]
    assert dict(_facts([NEVER]))["rosters"] == certified(NEVER)
