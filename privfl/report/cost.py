"""The cost of a run in bytes and seconds."""

from __future__ import annotations

from dataclasses import dataclass

from privfl.report.run_records import RunRecords
from privfl.report.wording import NNBSP, byte_size, duration, factor, percent


@dataclass(frozen=True)
class Overhead:
    """The overhead of secure aggregation.

    Args:
        bytes_ratio: all bytes that were sent, over the bytes of the same updates in the clear.
        client: mean seconds of one client in a round.
        server: mean seconds of the server in a round.
    """

    bytes_ratio: float
    client: float
    server: float

    @property
    def extra(self) -> str:
        """The additional bytes in words: +0.4 %, or 1.73 × if they are at least half as many again."""
        if self.bytes_ratio < 1.5:
            more = self.bytes_ratio - 1
            return f"{'+' if more >= 0 else '−'}{percent(abs(more))}"
        return f"{factor(self.bytes_ratio)}{NNBSP}×"

    @classmethod
    def of(cls, run: RunRecords) -> Overhead:
        """Compute the overhead of a run; rounds that were skipped do not count for the seconds."""
        skipped = {record.round for record in run.skipped_rounds}
        counted = [timing for timing in run.timings if timing.round not in skipped]
        return cls(
            bytes_ratio=(run.result.bytes_up + run.result.bytes_down) / max(run.result.bytes_plain, 1),
            client=sum(timing.aggregate_client for timing in counted) / max(len(counted), 1),
            server=sum(timing.aggregate_server for timing in counted) / max(len(counted), 1),
        )


@dataclass(frozen=True)
class CostRow:
    """A row of a table of costs: its label, its cells, and whether it is the sum of the others."""

    label: str
    cells: tuple[str, ...]
    total: bool = False


def bytes_table(run: RunRecords) -> list[CostRow]:
    """Return the bytes sent by clients, in the clear, and to clients: total, per round with traffic, per update in a sum."""
    rounds = max(sum(record.bytes_up + record.bytes_down > 0 for record in run.rounds), 1)
    contributions = max(run.contributions, 1)
    rows = {
        "sent by clients": run.result.bytes_up,
        "the same in the clear": run.result.bytes_plain,
        **({} if (whole := run.result.bytes_uncompressed) is None else {"the same in the clear, uncompressed": whole}),
        "sent to clients, beside the model": run.result.bytes_down,
    }
    return [
        CostRow(label, (byte_size(size), byte_size(size / rounds), byte_size(size / contributions)))
        for label, size in rows.items()
    ]


def disk_table(run: RunRecords) -> list[CostRow]:
    """Return the bytes of each part of the run folder, with their sum."""
    total = sum(run.disk.values())
    rows = [CostRow(name, (byte_size(size), percent(size / max(total, 1)))) for name, size in run.disk.items()]
    return [*rows, CostRow("in all", (byte_size(total), ""), total=True)]


def seconds_table(run: RunRecords) -> list[CostRow]:
    """Return the seconds of each part of the simulation, with the sum; clients are simulated one after another."""
    cohorts = {record.round: len(record.cohort) for record in run.rounds}
    parts = {
        "training, all clients": sum(timing.train for timing in run.timings),
        "aggregation, all clients": sum(timing.aggregate_client * cohorts.get(timing.round, 0) for timing in run.timings),
        "aggregation, the server": sum(timing.aggregate_server for timing in run.timings),
        "evaluation": sum(timing.evaluate for timing in run.timings),
    }
    total = sum(timing.total for timing in run.timings)
    parts["records and the rest"] = max(total - sum(parts.values()), 0.0)
    rounds = max(len(run.timings), 1)
    rows = [
        CostRow(label, (duration(seconds), duration(seconds / rounds), percent(seconds / total) if total > 0 else "–"))
        for label, seconds in parts.items()
    ]
    return [*rows, CostRow("in all", (duration(total), duration(total / rounds), ""), total=True)]
