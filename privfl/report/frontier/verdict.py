"""The sentences at the top of a frontier's page: the leak without protection, the effect of each protection, and its price."""

from __future__ import annotations

from privfl.adversaries import Adversary
from privfl.auditing.evaluation import LOW_FPR
from privfl.report.frontier.points import Frontier, Point
from privfl.report.wording import NBSP, listing, measured, percent, rate


def sentences(frontier: Frontier) -> list[str]:
    """A sentence or two for each: no protection, secure aggregation alone, the weakest and the strongest promise."""
    named = [
        ("Without protection", _first(frontier, hidden=False)),
        ("With secure aggregation alone", _first(frontier, hidden=True)),
    ]
    named += [(f"With ε{NBSP}={NBSP}{point.target:g}", point) for point in _promised(frontier)]
    found: list[str] = []
    for name, point in named:
        if point is not None:
            start = f"{name} attackers find" if not found else f"{name} they find"
            found.append(f"{start} {_found(frontier, point, long=not found)} {_quality(frontier, point)}")
    return found


def _first(frontier: Frontier, hidden: bool) -> Point | None:
    """The first setting without a promise, with or without secure aggregation."""
    return next((one for one in frontier.points if not one.promises and one.hides_updates == hidden), None)


def _promised(frontier: Frontier) -> list[Point]:
    """The weakest and the strongest promise, under secure aggregation if there is a choice."""
    points = [one for one in frontier.points if one.promises]
    ordered = sorted([one for one in points if one.hides_updates] or points, key=lambda one: -one.target)
    return ordered[:1] if len(ordered) < 2 else [ordered[0], ordered[-1]]


def _found(frontier: Frontier, point: Point, long: bool) -> str:
    """The best attack of each adversary: a share of the members, or an AUC."""
    measure = frontier.measure
    told = [(who, found) for who in point.leakage if (found := measure.at(point, who)) is not None]
    if not told:
        return "nothing, for no attack was run."
    if not measure.percent:
        areas = listing([f"{found.value:.3f} {_TO[who]}" for who, found in told])
        return f"members with an AUC of {areas}; guessing has 0.5." if long else f"them with {areas}."
    shares = [f"{percent(found.value)} {_TO[who]}" for who, found in told]
    if long:
        shares[0] = (
            shares[0].replace(" from", " of the members from", 1) if told[0][0] == "external" else f"{shares[0]} of the members"
        )
        return f"{listing(shares)}; guessing finds {rate(LOW_FPR)}."
    return f"{listing(shares)}."


_TO: dict[Adversary, str] = {
    "external": "from the final model",
    "recipient": "from the clients' own models",
    "client": "as a client",
    "server": "as the server",
    "malicious_server": "as a malicious server",
}


def _quality(frontier: Frontier, point: Point) -> str:
    return f"The test {frontier.headline.title} is {measured(frontier.headline, point.quality.value)}."
