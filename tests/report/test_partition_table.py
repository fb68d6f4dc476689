from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from privfl.report.partition_table import effective_classes, partition_table


def drawn(
    counts_KC: NDArray[np.int64], width: int = 80, classes: list[str] | None = None, clients: list[str] | None = None
) -> list[str]:
    buffer = io.StringIO()
    clients = clients or [f"client {number}" for number in range(len(counts_KC))]
    classes = classes or [f"class {number}" for number in range(counts_KC.shape[1])]
    Console(file=buffer, width=width).print(partition_table(counts_KC, classes, clients))
    return buffer.getvalue().splitlines()


def test_a_small_partition_is_drawn_so() -> None:
    counts = np.array([[0, 100, 1], [25, 0, 64], [4, 4, 4]])
    assert drawn(counts, classes=["cat", "dog", "eel"], clients=["Bern", "Oslo", "a town with a very long name"]) == [
        "0 cat  1 dog  2 eel",
        "",
        "                 012                         012                         012    ",
        "            Bern  █· 101                Oslo ▒ ▓  89    a town with a v… ···  12",
        "",
        "3 clients, 202 examples, 3 classes",
        "examples per client   min 12  median 89  max 101",
        "classes per client    min 2  median 2  max 3",
        "exp(label entropy)    min 1.1  median 1.8  max 3.0",
        "examples in a cell: · ≤4  ░ ≤16  ▒ ≤36  ▓ ≤64  █ ≤100",
    ]


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize(("clients", "classes"), [(1, 1), (4, 2), (100, 10), (100, 30), (121, 10), (1000, 100)])
def test_no_line_is_wider_than_the_terminal_and_no_drawing_longer_than_two_screens(
    width: int, clients: int, classes: int
) -> None:
    counts = np.random.default_rng(0).integers(2_000, size=(clients, classes))
    lines = drawn(counts, width)
    assert max(map(len, lines)) <= width
    assert len(lines) <= 150
    if clients == 100 and classes == 10 and width >= 80:
        assert len(lines) <= 48
        # every client is there with its size
        text = " ".join(lines)
        assert all(f" {row.sum():,}" in text for row in counts)


def test_many_clients_are_thinned_and_it_says_so() -> None:
    counts = np.random.default_rng(0).integers(20, size=(1000, 10))
    lines = drawn(counts)
    assert "880 of 1000 clients are not drawn" in "\n".join(lines)
    sizes = counts.sum(axis=1)
    assert any(line.endswith(f"max {sizes.max():,}") for line in lines)


def test_of_too_many_classes_neighbours_share_a_cell() -> None:
    counts = np.zeros((2, 100), dtype=np.int64)
    counts[0, 98:], counts[1, 0] = 5, 7
    lines = drawn(counts)
    assert "N class 98 to class 99" in "\n".join(lines)
    assert f"0 {' ' * 49}█ 10" in lines
    assert f"1 █{' ' * 49}  7" in lines


def test_an_empty_partition_is_drawn() -> None:
    assert drawn(np.zeros((2, 2), dtype=np.int64))


def test_effective_classes_are_the_exponential_of_the_entropy() -> None:
    counts = np.array([[5, 0, 0], [7, 7, 7], [0, 0, 0], [1, 3, 0]])
    quarter = np.exp(-0.25 * np.log(0.25) - 0.75 * np.log(0.75))
    np.testing.assert_allclose(effective_classes(counts), [1, 3, 1, quarter])
