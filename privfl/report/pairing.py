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


def how_paired(pairs: Sequence[tuple[RunRecords, RunRecords]]) -> str:
    """Say whether the two runs of every pair are paired, and for how many rounds; no pair is unpaired."""
    if not pairs:
        return "unpaired"
    shared, common = min((shared_rounds(one, other), min(len(one.rounds), len(other.rounds))) for one, other in pairs)
    if not shared:
        return "unpaired"
    if all(shared_rounds(one, other) == min(len(one.rounds), len(other.rounds)) for one, other in pairs):
        return "paired"
    first = "the first round" if shared == 1 else f"the first {shared:,} rounds"
    return f"paired in {first} of {common:,}, unpaired from there"


def _chance(record: RoundRecord) -> tuple[object, ...]:
    return record.streams, record.cohort
