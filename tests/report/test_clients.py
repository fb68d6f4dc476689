"""The clients on the page: their rows, how evenly they are served, and the run folder's size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import Made, make
from page_reader import Reader
from small_runs import small

from privfl.report import clients, write_report
from privfl.report.run_records import RunRecords
from privfl.running.recording import run as begin


def plain(text: str) -> str:
    return text.replace("\u202f", " ").replace("\u00a0", " ")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> RunRecords:
    return RunRecords.read(make(tmp_path_factory.mktemp("clients") / "run", Made(clients=5, overrides=["cohort.size=3"])))


def with_values(run: RunRecords, values: list[float | None]) -> RunRecords:
    return replace(run, result=run.result.model_copy(update={"clients": tuple(values)}))


def test_each_client_has_a_row(records: RunRecords) -> None:
    header, *rows = clients.table(records)
    assert header == ["client", "examples", "rounds", "accuracy on its own hold-out", "ε"]
    assert [row[0] for row in rows] == records.partition.clients
    assert rows[0][3] == "–"
    for client, row in enumerate(rows):
        assert int(row[1].replace(",", "")) == sum(records.partition.counts[client])
        assert int(row[2]) == sum(client in record.survivors for record in records.rounds)
    bare = with_values(replace(records, result=records.result.model_copy(update={"privacy": None})), [])
    assert clients.table(bare)[0] == ["client", "examples", "rounds"]
    assert clients.fairness(bare) == []


def test_fairness(records: RunRecords) -> None:
    found = {name: plain(text) for name, text in clients.fairness(with_values(records, [0.5, 1.0, None, 0.75, 0.75]))}
    assert found == {
        "worst client": "50.0 % (client 0)",
        "median client": "75.0 %",
        "best client": "100.0 % (client 1)",
        "standard deviation over clients": "17.7 %",
        # 3² / (4 · 2.375)
        "Jain's index": "0.947 of 1",
        "without a held-out example": "1 client",
    }
    equal = dict(clients.fairness(with_values(records, [0.5] * 5)))
    assert plain(equal["Jain's index"]) == "1.000 of 1"


def test_a_run_records_each_clients_metric_and_its_size_on_disk(tmp_path: Path) -> None:
    folder = begin(small(rounds=2), tmp_path / "run")
    run = RunRecords.read(folder)
    known = [value for value in run.result.clients if value is not None]
    spread = run.result.evaluation.clients
    assert spread is not None
    assert len(run.result.clients) == len(run.partition.clients)
    assert (min(known), max(known)) == pytest.approx((spread.minimum, spread.maximum))
    page = write_report([folder], folder.path / "report.html")
    again = RunRecords.read(folder)
    assert again.disk == run.disk, "the page is not counted"
    files = [file for file in folder.path.rglob("*") if file.is_file() and file.name != ".lock"]
    written = [page, folder.path / "privacy_card.json", *(folder.path / "figures").iterdir()]
    assert sum(run.disk.values()) == sum(file.stat().st_size for file in files) - sum(file.stat().st_size for file in written)
    assert run.disk["views of the adversaries"] > 0
    assert "messages of secure aggregation" not in run.disk, "they are kept only if asked for"
    text = plain(Reader(page.read_text()).text)
    assert "Jain's index" in text
    assert "on disk" in text
    assert "All 10 clients" in text
