"""Paired runs: runs that drew the same cohorts, batches and noise, so that they differ only by their settings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from privfl.records import RoundRecord
from privfl.report.run_records import RunRecords


def shared_rounds(one: RunRecords, other: RunRecords) -> int:
    """Count the rounds, from the first on, in which two runs had the same cohort and the same random streams.

    The count is 0 if the runs differ in their data, in the owners of examples or in the numbers of members.
    """
    if one.partition != other.partition:
        return 0
    pairs = zip(one.rounds, other.rounds, strict=False)
    alike = takewhile(lambda pair: pair[0].streams is not None and _chance(pair[0]) == _chance(pair[1]), pairs)
    return sum(1 for _ in alike)


def pairings(runs: Sequence[tuple[str, RunRecords]]) -> list[str]:
    """Say for each run with which earlier run it is paired, and for how many rounds; the first run has an empty string."""
    said = [""] if runs else []
    for place, (_, run) in enumerate(runs[1:], 1):
        earlier = runs[:place]
        tag, other = max(earlier, key=lambda tagged: shared_rounds(tagged[1], run))
        shared, common = shared_rounds(other, run), min(len(other.rounds), len(run.rounds))
        if not shared:
            said.append("unpaired")
        elif shared == common:
            said.append(f"paired with {tag}")
        else:
            first = "the first round" if shared == 1 else f"the first {shared:,} rounds"
            said.append(f"paired with {tag} in {first} of {common:,}, unpaired from there")
    return said


def _chance(record: RoundRecord) -> tuple[object, ...]:
    return record.streams, record.cohort
