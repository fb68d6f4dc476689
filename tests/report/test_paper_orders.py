"""Orders between rows of papers, with a margin on either side."""

from __future__ import annotations

import pytest

from privfl.papers import Figure
from privfl.records import PaperCell, PaperResult
from privfl.report.papers.tables import _claim
from privfl.report.papers.verdict import _disagreement


def result(values: list[float | None]) -> PaperResult:
    return PaperResult(
        row="other",
        digest="0",
        seeds=[0, 1],
        cells=[PaperCell(name="", values=values)],
        prices={},
        delta=None,
        unit=None,
        minutes=1.0,
        device="cpu",
        versions={},
        date="2026-01-01",
    )


@pytest.mark.parametrize(
    ("order", "by", "ours", "holds"),
    [
        ("above", 0.0, 0.81, True),
        ("above", 0.0, 0.79, False),
        ("above", 0.02, 0.81, False),
        ("above", -0.02, 0.79, True),
        ("above", -0.02, 0.77, False),
        ("below", 0.0, 0.79, True),
        ("below", 0.02, 0.79, False),
        ("below", -0.02, 0.81, True),
        ("below", -0.02, 0.83, False),
    ],
)
def test_an_order_asks_for_its_margin_on_every_seed(order: str, by: float, ours: float, holds: bool) -> None:
    figure = Figure.model_validate({order: "other", "by": by})
    cell = PaperCell(name="", values=[ours, ours])
    words = _disagreement(figure, cell, [0, 1], {"other": result([0.8, 0.8])})
    assert (words is None) == holds
    # One seed of two is not enough.
    far = 0.5 if order == "above" else 1.0
    mixed = _disagreement(figure, PaperCell(name="", values=[ours, far]), [0, 1], {"other": result([0.8, 0.8])})
    assert mixed == f"it is {order} other on {int(holds)} of 2 seeds"


def test_a_claim_says_on_which_side_its_margin_is() -> None:
    assert _claim(Figure(above=("other",), by=0.02)).startswith("above other by ")
    assert _claim(Figure(above=("other",), by=-0.02)).startswith("above other, or short of it by less than ")
    assert _claim(Figure(above=("other",))) == "above other"
