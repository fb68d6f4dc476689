"""Synthetic(α, β): made-up clients, each with a linear model and inputs of its own (Li et al. 2020, FedProx, section 5.1)."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveInt

from privfl.config import Fraction
from privfl.data.datasets import About, MadeUp
from privfl.data.federated import Examples, LoadedData
from privfl.seeding import Seed

_LEAST = 50
_SIZES = (4.0, 2.0)
"""A client has int(exp(N(4, 2²))) + 50 examples."""

Rows = NDArray[np.float64]


class Synthetic(MadeUp):
    """x: normal numbers, shape (N, 60); y: the largest of 10 linear functions of x, which are another ones at each client.

    Client k draws u_k ~ N(0, α²) and B_k ~ N(0, β²). Its inputs are x ~ N(v_k, diag(j^-1.2)) with v_kj ~ N(B_k, 1), and
    its labels argmax(W_k x + b_k) with entries of W_k and b_k from N(u_k, 1). α and β are standard deviations, as in the
    authors' code. The last ``test_share`` of each client's examples are the test part.

    Args:
        alpha: α, how much the clients' linear functions differ.
        beta: β, how much the clients' inputs differ.
        alike: whether all clients have one linear function and inputs of mean 0, the paper's IID data; α and β are then unused.
        people: K, the number of clients, which are natural clients.
        features, labels: the number of inputs and of classes.
        test_share: the share of each client's examples in the test part: .2 in the paper, .1 in the authors' code.
    """

    about: ClassVar[About] = About(
        title="synthetic(α, β), clients with linear models of their own",
        train=None,
        test=None,
        classes=None,
        licence="made up",
        homepage="https://arxiv.org/abs/1812.06127",
    )

    alpha: NonNegativeFloat = 1.0
    beta: NonNegativeFloat = 1.0
    alike: bool = False
    people: PositiveInt = 30
    features: PositiveInt = 60
    labels: Annotated[int, Field(ge=2)] = 10
    test_share: Fraction = 0.2

    def read(self) -> LoadedData:
        """Draw the data; the same settings give the same bytes."""
        draw = (Seed(self.draw_seed) / "data" / "synthetic").numpy()
        sizes_K = np.exp(draw.normal(*_SIZES, size=self.people)).astype(np.int64) + _LEAST
        shared = self._functions(0.0, draw) if self.alike else None
        clients = [self._client(int(size), shared, draw) for size in sizes_K]
        x, y = (np.concatenate([client[part] for client in clients]) for part in (0, 1))
        owner_N = np.repeat(np.arange(self.people), sizes_K)
        test_N = np.concatenate([np.arange(size) >= size - max(1, round(self.test_share * size)) for size in sizes_K])
        return LoadedData(
            train=Examples(x[~test_N].astype(np.float32), y[~test_N]),
            test=Examples(x[test_N].astype(np.float32), y[test_N]),
            classes=tuple(str(label) for label in range(self.labels)),
            provenance=f"Drawn by the rule of synthetic({self.alpha:g}, {self.beta:g}) (FedProx, 2020) from the seed "
            f"{self.draw_seed}{', all clients alike' if self.alike else ''}; the authors' own draw is another one.",
            natural_N=owner_N[~test_N],
            natural_names=tuple(f"client {number}" for number in range(self.people)),
        )

    def _client(self, size: int, shared: tuple[Rows, Rows] | None, draw: np.random.Generator) -> tuple[Rows, NDArray[np.int64]]:
        """Inputs of shape (n, F) and classes of shape (n,) of one client."""
        mean_F = np.zeros(self.features)
        if shared is None:
            shared = self._functions(self.alpha * draw.normal(), draw)
            mean_F = draw.normal(self.beta * draw.normal(), 1.0, size=self.features)
        weights_FC, bias_C = shared
        deviation_F = np.arange(1, self.features + 1) ** -0.6
        x = mean_F + deviation_F * draw.normal(size=(size, self.features))
        return x, (x @ weights_FC + bias_C).argmax(axis=1)

    def _functions(self, mean: float, draw: np.random.Generator) -> tuple[Rows, Rows]:
        """W and b, with entries from N(mean, 1)."""
        return draw.normal(mean, 1.0, size=(self.features, self.labels)), draw.normal(mean, 1.0, size=self.labels)
