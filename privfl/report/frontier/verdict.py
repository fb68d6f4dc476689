"""The sentences at the top of a frontier's page: the leak without protection, the effect of each protection, and its price."""

from __future__ import annotations

from privfl.adversaries import Adversary
from privfl.auditing.evaluation import LOW_FPR
from privfl.report.frontier.points import Frontier, Point
from privfl.report.wording import NBSP, listing, measured, percent, rate


def sentences(frontier: Frontier) -> list[str]:
    """Three sentences or so: the unprotected run, secure aggregation alone, and the weakest and the strongest promise."""
    bare = next((one for one in frontier.points if not one.promises and not one.hides_updates), None)
    hidden = next((one for one in frontier.points if not one.promises and one.hides_updates), None)
    found = []
    if bare is not None:
        found.append(f"Without protection {_found(frontier, bare)}; {_quality(frontier, bare)}.")
    if hidden is not None:
        start = (
            "Secure aggregation alone hides single updates from the server" if bare is not None else "Secure aggregation alone"
        )
        found.append(f"{start}: {_found(frontier, hidden)}; {_quality(frontier, hidden)}.")
    for point in _promised(frontier):
        name = f"With ε{NBSP}={NBSP}{point.target:g}"
        found.append(f"{name} {_found(frontier, point)}; {_quality(frontier, point)}.")
    return found


def _promised(frontier: Frontier) -> list[Point]:
    """The weakest and the strongest promise, under secure aggregation if there is a choice."""
    points = [one for one in frontier.points if one.promises]
    ordered = sorted([one for one in points if one.hides_updates] or points, key=lambda one: -one.target)
    return ordered[:1] if len(ordered) < 2 else [ordered[0], ordered[-1]]


def _found(frontier: Frontier, point: Point) -> str:
    """The best attack of each adversary: a share of the members, or an AUC."""
    measure = frontier.measure
    told = [(who, found) for who in point.leakage if (found := measure.at(point, who)) is not None]
    if not told:
        return "no attack was run"
    if not measure.percent:
        areas = [f"{found.value:.3f} {_TO[who]}" for who, found in told]
        return f"the best attack has an AUC of {listing(areas)} (guessing: 0.5)"
    shares = [f"{percent(found.value)} {_TO[who]}" for who, found in told]
    return f"the best attack finds {listing(shares)} of the members, accusing {rate(LOW_FPR)} of the others falsely"


_TO: dict[Adversary, str] = {
    "external": "from the final model",
    "client": "as a client",
    "server": "as the server",
    "malicious_server": "as a malicious server",
}


def _quality(frontier: Frontier, point: Point) -> str:
    return f"the test {frontier.headline.title} is {measured(frontier.headline, point.quality.value)}"
