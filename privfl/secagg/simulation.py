"""All roles of a round, played in one process: for simulations, benchmarks and tests."""

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
    """What one stage took: seconds and bytes of all clients together, and the server's seconds."""

    client_seconds: float = 0.0
    server_seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    answers: int = 0


@dataclass
class Meter:
    """Measures a round as it is played.

    Args:
        clock: seconds; ``time.process_time`` counts those of this process alone.
        heard: called with every answer that reaches the server, for a transcript.
    """

    clock: Callable[[], float] = time.perf_counter
    heard: Callable[[Stage, int, bytes], None] | None = None
    stages: dict[Stage, StageCost] = field(default_factory=dict)
    refused: dict[int, ProtocolError] = field(default_factory=dict)
    """Who dropped out because it refused a message, or its own was refused, and why; who revealed a wrong share."""

    def of(self, stage: Stage) -> StageCost:
        """The stage's cost so far."""
        return self.stages.setdefault(stage, StageCost())

    @contextmanager
    def client(self, stage: Stage, number: int) -> Iterator[None]:  # noqa: ARG002 (a meter may look at some clients only)
        """A client at work."""
        begun = self.clock()
        try:
            yield
        finally:
            self.of(stage).client_seconds += self.clock() - begun

    @contextmanager
    def server(self, stage: Stage) -> Iterator[None]:
        """The server at work."""
        begun = self.clock()
        try:
            yield
        finally:
            self.of(stage).server_seconds += self.clock() - begun

    def asked(self, stage: Stage, request: bytes | None) -> None:
        """What went down, whether or not the client is still there."""
        self.of(stage).bytes_down += len(request or b"")

    def answered(self, stage: Stage, client: int, answer: bytes) -> None:
        """What came up."""
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
    """One round from beginning to end.

    A client that refuses a message says so and is out of the round, as is one whose message is refused.

    Args:
        server: a new one.
        clients: new ones, by number: those whom the server invited.
        vector: gives a client's encoded vector when it is needed, so that no two are in memory.
        lost: at which stage a client falls silent.
        meter: measures; none is needed.

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
