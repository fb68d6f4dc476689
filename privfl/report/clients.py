"""The clients of a run: a row for each, and how evenly the model serves them."""

from __future__ import annotations

import statistics
from collections import Counter

from privfl.report.run_records import RunRecords
from privfl.report.table_files import Rows
from privfl.report.wording import NBSP, count, epsilon, measured, plural


def table(run: RunRecords) -> Rows:
    """Return a row for each client: its name, examples, rounds, metric on its own hold-out, and ε, if recorded.

    If clients have models of their own, the metric of those and that of training alone stand beside that of the global model.
    """
    figure, privacy, values = run.headline_metric, run.result.privacy, run.result.clients
    spent = privacy.epsilon_clients if privacy is not None else []
    rounds = Counter(client for record in run.rounds for client in set(record.survivors) & set(record.cohort))
    header = ["client", "examples", "rounds"]
    columns = [(f"{figure.title} on its own hold-out", values)] if values else []
    if (personal := run.result.personal) is not None:
        columns += [("its own model there", personal.own), ("training alone there", personal.local)]
    header += [title for title, _ in columns]
    header += ["cluster"] if run.result.cluster_of else []
    header += ["ε"] if spent else []
    rows = [header]
    for client, (name, counts) in enumerate(zip(run.partition.clients, run.partition.counts, strict=True)):
        row = [name, count(sum(counts)), count(rounds[client])]
        for _, of_clients in columns:
            value = of_clients[client]
            row.append("–" if value is None else measured(figure, value))
        if run.result.cluster_of:
            row.append(count(run.result.cluster_of[client] + 1))
        if spent:
            row.append(epsilon(spent[client]))
        rows.append(row)
    return rows


def fairness(run: RunRecords) -> list[tuple[str, str]]:
    """Return how evenly the model serves the clients: worst, median, best, deviation, Jain's index; empty if not recorded.

    Jain's index (Jain, Chiu & Hawe 1984, equation 2) is (Σx)² / (n Σx²): 1 if all clients have the same value, and 1/n if one
    client has all. It is left out if a value is negative.
    """
    known = [(value, name) for value, name in zip(run.result.clients, run.partition.clients, strict=False) if value is not None]
    if len(known) < 2:
        return []
    figure, values = run.headline_metric, [value for value, _ in known]
    low, high = min(known), max(known)
    worst, best = (low, high) if figure.higher_is_better else (high, low)
    facts = [
        ("worst client", f"{measured(figure, worst[0])} ({worst[1]})"),
        ("median client", measured(figure, statistics.median(values))),
        ("best client", f"{measured(figure, best[0])} ({best[1]})"),
        ("standard deviation over clients", measured(figure, statistics.pstdev(values))),
    ]
    squares = sum(value**2 for value in values)
    if min(values) >= 0 and squares > 0:
        facts.append(("Jain's index", f"{sum(values) ** 2 / (len(values) * squares):.3f}{NBSP}of{NBSP}1"))
    if left := len(run.result.clients) - len(known):
        facts.append(("without a held-out example", plural(left, "client")))
    return facts


def personal(run: RunRecords) -> Rows:
    """Return mean and worst client with own models, with the global model and with training alone; empty if not recorded."""
    found, figure = run.result.personal, run.headline_metric
    if found is None:
        return []
    names = {"own": "the clients' own models", "global": "the global model", "local": "each client alone"}
    rows = [[title, measured(figure, found.mean[name]), measured(figure, found.worst[name])] for name, title in names.items()]
    return [[f"{figure.title}, {plural(found.compared, 'client')}", "mean client", "worst client"], *rows]
