"""What a run cost: bytes and seconds."""

from __future__ import annotations

from dataclasses import dataclass

from privfl.report.recorded import Run
from privfl.report.wording import SPACE, amount, duration, factor, percent


@dataclass(frozen=True)
class Overhead:
    """What secure aggregation added: all its bytes over the bytes in the clear, and mean seconds a round."""

    bytes_ratio: float
    client: float
    server: float

    @property
    def extra(self) -> str:
        """The bytes in words: +0.4 %, or 1.73 ×."""
        if self.bytes_ratio < 1.5:
            more = self.bytes_ratio - 1
            return f"{'+' if more >= 0 else '−'}{percent(abs(more))}"
        return f"{factor(self.bytes_ratio)}{SPACE}×"

    @classmethod
    def of(cls, run: Run) -> Overhead:
        """Over the rounds in which somebody trained."""
        skipped = {record.round for record in run.skipped}
        counted = [timing for timing in run.timings if timing.round not in skipped]
        return cls(
            bytes_ratio=(run.result.bytes_up + run.result.bytes_down) / max(run.result.bytes_plain, 1),
            client=sum(timing.aggregate_client for timing in counted) / max(len(counted), 1),
            server=sum(timing.aggregate_server for timing in counted) / max(len(counted), 1),
        )


@dataclass(frozen=True)
class Row:
    """One line of a table of costs."""

    label: str
    cells: tuple[str, ...]


def bytes_table(run: Run) -> list[Row]:
    """Up, down and in the clear: in all, by rounds in which anything was sent, and by updates that reached a sum."""
    rounds = max(sum(record.bytes_up + record.bytes_down > 0 for record in run.rounds), 1)
    contributions = max(run.contributions, 1)
    rows = {
        "sent by clients": run.result.bytes_up,
        "the same in the clear": run.result.bytes_plain,
        "sent to clients, beside the model": run.result.bytes_down,
    }
    return [Row(label, (amount(size), amount(size / rounds), amount(size / contributions))) for label, size in rows.items()]


def seconds_table(run: Run) -> list[Row]:
    """Where the time of this simulation went. Clients are simulated one after another on one machine."""
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
        Row(label, (duration(seconds), duration(seconds / rounds), percent(seconds / total) if total > 0 else "–"))
        for label, seconds in parts.items()
    ]
    return [*rows, Row("in all", (duration(total), duration(total / rounds), ""))]
