"""Secure aggregation in a run: the certified numbers of its rounds, lost clients, and the cost of each stage."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from privfl.records import SecureRecord
from privfl.report.cost import CostRow
from privfl.report.run_records import RunRecords
from privfl.report.wording import NBSP, byte_size, count, duration, listing, percent, plural

_STAGES = {
    "advertise_keys": "advertise keys",
    "share_keys": "share keys",
    "masked_input": "masked input",
    "consistency_check": "consistency check",
    "unmasking": "unmasking",
}


@dataclass(frozen=True)
class SecureSummary:
    """The section on secure aggregation: facts by name, and a table of the protocol's stages."""

    facts: list[tuple[str, str]]
    stages: list[CostRow]

    @classmethod
    def of(cls, run: RunRecords) -> SecureSummary | None:
        """Summarize the rounds in which the protocol ran; None if it ran in no round."""
        records = [record.secure for record in run.rounds if record.secure is not None]
        if not records:
            return None
        alone = (
            [("sums of one client and zeros", plural(run.single_client_rounds, "round"))] if run.single_client_rounds else []
        )
        return cls([*_facts(records), *alone], _stages(run, records))


def certified_numbers(found: SecureRecord) -> str:
    """Return the certified numbers of one round in words: complete graph, 6 of 10 shares."""
    if found.neighbours is None:
        return "no roster was long enough"
    near = "" if found.graph == "complete" else f", {found.neighbours} neighbours"
    return f"{found.graph} graph{near}, {found.threshold} of {found.neighbours + 1} shares"


def risks(records: list[SecureRecord]) -> list[tuple[str, str]]:
    """Return the bounds on the probabilities of failure in the worst round, or the reason that failure is excluded."""
    insecure, lost = (_worst([getattr(one, name) for one in records]) for name in ("log2_insecure", "log2_recovery"))
    return [
        ("P(more than the sum is learned)", probability(insecure, "too few clients may be corrupt")),
        ("P(round is lost)", probability(lost, "enough clients remain after the allowed losses")),
    ]


def probability(log2: float | None, certain: str) -> str:
    """Format an upper bound on a probability, given its binary logarithm; it is rounded up: at most 2^-41.

    ``log2`` is None if the numbers of clients alone exclude the event; ``certain`` is the reason.
    """
    if log2 is None:
        return f"excluded: {certain}"
    power = math.ceil(round(log2, 6))
    return "at most 1" if power == 0 else f"at most 2^{power}".replace("-", "−")


def _facts(records: list[SecureRecord]) -> list[tuple[str, str]]:
    facts = [
        (
            "server",
            "active: it may deviate from the protocol"
            if records[0].adversary == "active"
            else "semi-honest: it follows the protocol",
        ),
        *_numbers(records),
        ("word", f"{records[0].bits}{NBSP}bits"),
    ]
    lost = Counter(stage for one in records for stage, clients in one.lost.items() for _ in clients)
    if lost:
        facts.append(("clients lost", listing([f"{count(number)} at {_STAGES[stage]}" for stage, number in lost.items()])))
    refused = sum(len(one.refused) for one in records)
    if refused:
        facts.append(("clients refused", count(refused)))
    repeated = sum(one.attempts - 1 for one in records)
    if repeated:
        facts.append(("repeated attempts", count(repeated)))
    masks = sum(one.masks_clients for one in records), sum(one.masks_server for one in records)
    return [*facts, ("masks expanded", f"{count(masks[0])} by clients, {count(masks[1])} by the server")]


def _numbers(records: list[SecureRecord]) -> list[tuple[str, str]]:
    """Return the numbers for the smallest and the largest roster; a round that ended before its roster has none."""
    by_size = {one.clients: one for one in records if one.clients is not None}
    if not by_size:
        return [("rosters", certified_numbers(records[0]))]
    both = {clients: by_size[clients] for clients in (min(by_size), max(by_size))}
    fewest = min(one.least_survivors for one in records if one.least_survivors is not None)
    return [
        *((f"round of {plural(clients, 'client')}", certified_numbers(one)) for clients, one in both.items()),
        ("fewest in a sum", plural(fewest, "client")),
        *risks(records),
    ]


def _worst(logarithms: list[float | None]) -> float | None:
    return max((one for one in logarithms if one is not None), default=None)


def _stages(run: RunRecords, records: list[SecureRecord]) -> list[CostRow]:
    rows = []
    seconds = {stage: [one for timing in run.timings for one in timing.stages if one.stage == stage] for stage in _STAGES}
    server_total = sum(one.server for found in seconds.values() for one in found)
    for stage, found in seconds.items():
        octets = [one for record in records for one in record.stages if one.stage == stage]
        if not found or not octets:
            continue
        answers = max(sum(one.answers for one in octets), 1)
        server = sum(one.server for one in found)
        rows.append(
            CostRow(
                _STAGES[stage],
                (
                    duration(sum(one.client for one in found) / len(found)),
                    duration(server / len(found)),
                    percent(server / server_total, 0) if server_total else "–",
                    byte_size(sum(one.bytes_up for one in octets) / answers),
                    byte_size(sum(one.bytes_down for one in octets) / answers),
                ),
            )
        )
    return rows
