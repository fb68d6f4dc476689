"""A cohort for tests: the roles of the protocol played one by one, so that a test can step in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from privfl.errors import ProtocolError
from privfl.secagg.client import Client
from privfl.secagg.encoding import WeightedSum
from privfl.secagg.messages import MaskedInput
from privfl.secagg.server import Server
from privfl.secagg.session import Parameters

Vector = NDArray[np.float32]

# How often a test of uniformity fails although nothing is wrong. Keys cannot be seeded, so the rate has to be small.
ERROR_RATE = 1e-9


def parameters(dimension: int = 5, round: int = 3, population: int = 10, clip: float = 8.0, floor: int = 2) -> Parameters:  # noqa: A002
    return Parameters(round, dimension, population, clip, bytes(range(32)), floor)


def rounding_key(client: int) -> bytes:
    return bytes([client % 256]) * 32


@dataclass
class Cohort:
    """K clients with their updates, and one server, all of one round."""

    updates: list[Vector]
    weights: list[float]
    parameters: Parameters
    names: list[int] = field(default_factory=list)
    models: list[Vector] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = self.names or list(range(len(self.updates)))
        model = np.zeros(self.parameters.dimension, np.float32)
        self.models = self.models or [model] * len(self.updates)
        self.clients = [Client(name, self.parameters, sent) for name, sent in zip(self.names, self.models, strict=True)]
        self.server = Server(self.parameters, self.names, model)

    def advertise(self) -> bytes:
        """Everyone's key to the server; the roster."""
        for client in self.clients:
            self.server.receive_advert(client.advertise())
        return self.server.roster()

    def answer(self, index: int, roster: bytes) -> bytes:
        key = rounding_key(self.names[index])
        return self.clients[index].answer(roster, self.updates[index], self.weights[index], key)

    def answers(self) -> list[bytes]:
        """Everyone's masked vector."""
        roster = self.advertise()
        return [self.answer(index, roster) for index in range(len(self.clients))]

    def run(self) -> WeightedSum:
        """The whole round."""
        for message in self.answers():
            self.server.receive_input(message)
        return self.server.unmask()

    def plain(self) -> WeightedSum:
        """The encoded vectors added without masks."""
        encoding = self.parameters.encoding
        total = np.zeros(self.parameters.dimension + 1, np.uint32)
        for name, delta, weight in zip(self.names, self.updates, self.weights, strict=True):
            total += encoding.encode(delta, weight, rounding_key(name))[0]
        return encoding.decode(total, len(self.names))


def cohort(clients: int = 3, dimension: int = 5, number: int = 3) -> Cohort:
    """Clients with small seeded updates, in the given round."""
    generator = np.random.default_rng(clients)
    updates = [generator.normal(scale=0.01, size=dimension).astype(np.float32) for _ in range(clients)]
    return Cohort(updates, [1.0 - 0.1 * (index % 5) for index in range(clients)], parameters(dimension, number))


def masked_words(message: bytes) -> NDArray[np.uint32]:
    return MaskedInput.from_bytes(message).words


def patched(message: bytes, at: int, value: bytes) -> bytes:
    """The message with some of its bytes replaced."""
    return message[:at] + value + message[at + len(value) :]


def refused(call: Callable[..., object], *args: object, match: str = "") -> None:
    """The property that a call is refused, as an assertion that a mutated protocol can fail."""
    try:
        call(*args)
    except ProtocolError as error:
        assert match in str(error), f"{error} does not say {match!r}"  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        raise AssertionError(f"{call} was not refused")


def assert_uniform(words: NDArray[np.uint32], error_rate: float = ERROR_RATE) -> None:
    """χ² of the 256 values of each of a word's four bytes; fails on uniform words at most at the given rate."""
    octets = np.ascontiguousarray(words).view(np.uint8).reshape(-1, 4)
    for place in range(4):
        counts = np.bincount(octets[:, place], minlength=256)
        assert scipy.stats.chisquare(counts).pvalue > error_rate / 4, f"byte {place} is not uniform"


def assert_equal_sums(one: WeightedSum, other: WeightedSum) -> None:
    """Bit for bit."""
    assert one.sum_D.tobytes() == other.sum_D.tobytes()
    assert one.weight_sum == other.weight_sum
