"""The clusters of a run with several global models: their sizes, how the models serve their clients, and who knows of them."""

from __future__ import annotations

from privfl.report.run_records import RunRecords
from privfl.report.wording import measured, percent, plural


def facts(run: RunRecords) -> list[tuple[str, str]]:
    """Return each cluster with its clients and their mean and worst figure; empty if there is one global model."""
    figure, found = run.headline_metric, []
    for place, one in enumerate(run.result.clusters):
        text = plural(one.clients, "client")
        if one.mean is not None and one.worst is not None:
            text += f", mean {measured(figure, one.mean)}, worst {measured(figure, one.worst)}"
        found.append((f"cluster {place + 1}", text))
    if run.result.in_group is not None:
        found.append(("clients in the cluster of their group", percent(run.result.in_group)))
    return found


def note(run: RunRecords) -> str:
    """Return who learns which client is in which cluster, and how often a cluster was too small to be summed alone."""
    parts = ["Each client's figure is that of its own cluster's model, on its own held-out examples."]
    counted = [record.clusters for record in run.rounds if record.clusters is not None]
    if run.result.cluster_of:
        parts.append("The server knows who is in which cluster; the table of all clients says it.")
    elif any(one.wanted is not None for one in counted):
        parts.append(
            "The secure sum hides who is in which cluster. The server learns how many clients are in each, in every round."
        )
    else:
        parts.append("The server does not learn who is in which cluster, since slots and counts are noised.")
    closed = [one for one in counted if any(one.wanted is None or one.wanted[place] for place in one.closed)]
    if closed:
        parts.append(
            f"In {plural(len(closed), 'round')} a cluster had too few clients to be summed alone: they joined another one, or "
            "sent zeros."
        )
    parts.append("All adversaries see all models.")
    return " ".join(parts)
