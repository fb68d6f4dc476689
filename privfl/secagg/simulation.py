"""Simulation of a round: the server and all clients in one process, for experiments, benchmarks and tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from privfl.errors import ProtocolError
from privfl.secagg.client import Client
from privfl.secagg.prg import Words
from privfl.secagg.server import Server, Unmasked
from privfl.secagg.session import Stage


@dataclass
class StageCost:
    """Cost of one stage: seconds and bytes of all clients together, and the server's seconds."""

    client_seconds: float = 0.0
    server_seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    answers: int = 0


@dataclass
class Meter:
    """Meter of a simulated round: time, bytes, and the clients that dropped out by a refusal.

    Args:
        clock: returns seconds; ``time.process_time`` counts the CPU time of this process alone.
        heard: called with every answer that reaches the server, for a transcript.
    """

    clock: Callable[[], float] = time.perf_counter
    heard: Callable[[Stage, int, bytes], None] | None = None
    stages: dict[Stage, StageCost] = field(default_factory=dict)
    refused: dict[int, ProtocolError] = field(default_factory=dict)
    """Each client that refused a message, whose own message was refused, or that revealed a wrong share, and the reason."""

    def of(self, stage: Stage) -> StageCost:
        """The stage's cost so far."""
        return self.stages.setdefault(stage, StageCost())

    @contextmanager
    def client(self, stage: Stage, number: int) -> Iterator[None]:  # noqa: ARG002 (a meter may look at some clients only)
        """Context in which a client works; its time is added to the stage."""
        begun = self.clock()
        try:
            yield
        finally:
            self.of(stage).client_seconds += self.clock() - begun

    @contextmanager
    def server(self, stage: Stage) -> Iterator[None]:
        """Context in which the server works; its time is added to the stage."""
        begun = self.clock()
        try:
            yield
        finally:
            self.of(stage).server_seconds += self.clock() - begun

    def asked(self, stage: Stage, request: bytes | None) -> None:
        """Count the bytes of the server's request to a client, even if the client is lost."""
        self.of(stage).bytes_down += len(request or b"")

    def answered(self, stage: Stage, client: int, answer: bytes) -> None:
        """Count the bytes of a client's answer, and pass it to ``heard``."""
        cost = self.of(stage)
        cost.bytes_up += len(answer)
        cost.answers += 1
        if self.heard is not None:
            self.heard(stage, client, answer)


def play(
    server: Server,
    clients: Mapping[int, Client],
    vector: Callable[[int], Words],
    lost: Mapping[int, Stage] | None = None,
    meter: Meter | None = None,
) -> Unmasked:
    """Simulate one round from beginning to end and return the sum.

    A client that refuses a message sends a :class:`~privfl.secagg.messages.Refusal` and leaves the round. A client whose
    message is refused leaves it too.

    Args:
        server: a new server.
        clients: a new client for each one invited, by number.
        vector: returns a client's encoded vector when it is needed, so that no two of them are in memory.
        lost: the stage from which on a client is silent, for each client that is lost.
        meter: takes the measurements; None: nothing is measured.

    Raises:
        ThresholdError: too few clients were left.
        ProtocolError: the revealed shares did not fit together.
    """
    lost, meter = lost or {}, meter or Meter()
    while (stage := server.stage) is not None:
        for number in sorted(server.awaited):
            # A server learns that a client is lost by asking it.
            with meter.server(stage):
                request = server.request(number)
            meter.asked(stage, request)
            if lost.get(number) is stage:
                continue
            try:
                with meter.client(stage, number):
                    answer = _answer(clients[number], stage, request, vector)
            except ProtocolError as error:
                meter.refused[number] = error
                refusal = clients[number].refusal(error)
                meter.of(stage).bytes_up += len(refusal)
                server.receive(number, refusal)
                continue
            meter.answered(stage, number, answer)
            try:
                with meter.server(stage):
                    server.receive(number, answer)
            except ProtocolError as error:
                meter.refused[number] = error
        with meter.server(stage):
            server.close()
    meter.refused |= server.liars
    return server.result()


def _answer(client: Client, stage: Stage, request: bytes | None, vector: Callable[[int], Words]) -> bytes:
    if request is None:
        return client.advertise()
    match stage:
        case Stage.SHARE_KEYS:
            return client.share_keys(request)
        case Stage.MASKED_INPUT:
            return client.masked_input(request, vector(client.client))
        case Stage.CONSISTENCY_CHECK:
            return client.consent(request)
        case _:
            return client.reveal(request)
