"""Whether runs that are compared had the same chance: then what they differ in is the settings' doing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from privfl.records import RoundRecord
from privfl.report.recorded import Run


def shared_rounds(one: Run, other: Run) -> int:
    """How many rounds from the first on had the same cohort, and drew batches and noise from the same streams.

    0 where the runs do not have the same data, owners and numbers of members.
    """
    if one.partition != other.partition:
        return 0
    pairs = zip(one.rounds, other.rounds, strict=False)
    alike = takewhile(lambda pair: pair[0].streams is not None and _chance(pair[0]) == _chance(pair[1]), pairs)
    return sum(1 for _ in alike)


def pairings(runs: Sequence[tuple[str, Run]]) -> list[str]:
    """Of each run, with which of those before it it is paired, and how far; nothing is said of the first."""
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
