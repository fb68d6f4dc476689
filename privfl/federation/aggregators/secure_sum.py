"""Secure aggregation in every round: the server learns Σ weight · update and Σ weight, and no single update."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from privfl.errors import ConfigError, ProtocolError, ThresholdError
from privfl.federation.aggregators import Aggregate, Aggregator, ClientUpdate, Cost, RoundContext
from privfl.federation.aggregators._codes import Code, FixedPointCode, NoisedCode
from privfl.federation.aggregators._cohort import in_order
from privfl.federation.aggregators._encoded import as_array
from privfl.records import SecureRecord, StageBytes, StageSeconds
from privfl.secagg.agreement import hkdf
from privfl.secagg.certificate import Certificate, Policy
from privfl.secagg.client import Client
from privfl.secagg.dropout import drawn_losses, with_late
from privfl.secagg.encoding import Encoding, WeightedSum
from privfl.secagg.identity import Directory, Identity
from privfl.secagg.memory import Memory
from privfl.secagg.prg import Words
from privfl.secagg.server import Server, Unmasked
from privfl.secagg.session import Parameters, Stage, round_context
from privfl.secagg.simulation import Meter, play
from privfl.secagg.transcript import Transcript
from privfl.secagg.two_faced import TwoFacedServer
from privfl.storage import storing
from privfl.tables import Frozen, contradiction

Rate = Annotated[float, Field(ge=0, le=1)]


class ScheduledDropout(Frozen):
    """A planned loss of clients: those of them that take part fall silent at that stage of that round."""

    round: NonNegativeInt
    stage: Literal["advertise_keys", "share_keys", "masked_input", "consistency_check", "unmasking"]
    clients: Annotated[tuple[NonNegativeInt, ...], Field(strict=False)]


class Dropout(Frozen):
    """Simulated client dropout: at each stage every client is lost with that stage's rate, and the schedule adds named clients.

    The schedule applies to the first attempt at a round. A repeated attempt draws new losses.
    """

    advertise_keys: Rate = 0.0
    share_keys: Rate = 0.0
    masked_input: Rate = 0.0
    consistency_check: Rate = 0.0
    unmasking: Rate = 0.0
    schedule: Annotated[tuple[ScheduledDropout, ...], Field(strict=False)] = ()

    def lost_at(self, clients: Sequence[int], round_number: int, attempt: int, key: bytes) -> dict[int, Stage]:
        """The stage at which each lost client falls silent, by client."""
        rates = {stage: float(getattr(self, stage)) for stage in Stage}
        lost = drawn_losses(clients, rates, key)
        if attempt == 0:
            for loss in self.schedule:
                if loss.round == round_number:
                    for client in loss.clients:
                        if client in clients:
                            # A client that is lost twice falls silent at the earlier stage.
                            lost[client] = min(lost.get(client, Stage(loss.stage)), Stage(loss.stage), key=list(Stage).index)
        return lost


class SecureSum(Aggregator):
    """Secure aggregation by the protocol of :mod:`privfl.secagg`. All of its messages are built, serialised and parsed.

    ``clip`` bounds every coordinate of an update before it is encoded. It guards against overflow and is not a means of
    privacy: 8 is far more than any weight changes in one round of a model that trains. It leaves 21 bits after the point for a
    population of 100 clients and 18 for 1,000. One client's weighted coordinate then has an unbiased error of at most 4e-6. In
    the mean this error is divided by the sum of the weights, so a cohort of small clients is averaged less exactly. A larger
    clip or population costs precision and never correctness: sums that could overflow are refused before anything is sent.
    ``bits`` is the size of a word on the wire. 16, 20 or 24 save bytes and leave fewer bits after the point, so lower ``clip``
    with them. 64 fits any population. Under a plan with distributed noise its codec encodes the updates. ``clip`` and ``bits``
    then come from the plan, and every weight is 1.

    ``graph``, ``adversary``, ``roster_share``, ``max_corrupt``, ``max_dropout``, ``security_bits``, ``recovery_bits``,
    ``neighbours`` and ``threshold`` state the corruption and dropout that a round must withstand
    (:class:`privfl.secagg.certificate.Policy`). ``dropout`` sets which clients the simulation loses. If too few clients are
    left, ``below_threshold`` decides: "repeat" begins the round again with fresh keys, up to ``attempts`` times in all, and
    then skips it. "skip" skips it at once, and "stop" ends the run with this round. A round is not repeated after clients were
    asked to reveal shares or to sign for survivors; it is then skipped.

    The result is determined by the updates and ``simulation_key``, although keys and masks are fresh. Each client's rounding
    key is HKDF(key of the round, client). The server sees ``sum_D`` (float64, exact) and ``weight_sum``.

    Guarantees: those of :mod:`privfl.secagg`. The mean is that of the survivors' encoded updates, exact up to its float32. In a
    repeated attempt a client sends the same encoded update under fresh masks. A round is repeated only if nobody was asked to
    reveal anything. A client that helped to release a sum refuses every other attempt at that round: two sums over different
    clients would reveal the updates in which they differ.

    Edges: fewer than three clients are refused, since one of two could subtract its own update from their sum. An update that
    is not finite and weights that add up to zero are refused too. A zero update is masked like any other.
    """

    clip: PositiveFloat = 8.0
    bits: Literal[16, 20, 24, 32, 64] = 32
    graph: Literal["auto", "complete", "sparse"] = "auto"
    adversary: Literal["semi_honest", "active"] = "active"
    roster_share: Rate = 2 / 3
    max_corrupt: Rate = 0.1
    max_dropout: Rate = 0.1
    security_bits: PositiveInt = 40
    recovery_bits: PositiveInt = 30
    neighbours: PositiveInt | None = None
    threshold: PositiveInt | None = None
    dropout: Dropout = Dropout()
    below_threshold: Literal["repeat", "skip", "stop"] = "repeat"
    attempts: PositiveInt = 3
    threads: PositiveInt = 1

    hides_updates = True
    linear = True
    decodes = False
    uses_codec = True
    minimum_clients = 3

    @model_validator(mode="after")
    def _sound(self) -> SecureSum:
        try:
            _ = self.policy
        except ConfigError as error:
            # A policy's error begins with the name of its setting.
            key = next((name for name in type(self).model_fields if str(error).startswith(name)), "adversary")
            allowed = str(error).removeprefix(f"{key} = {getattr(self, key)}: ")
            raise contradiction(key, getattr(self, key), allowed) from None
        signing = self.dropout.consistency_check or any(loss.stage == "consistency_check" for loss in self.dropout.schedule)
        if signing and self.adversary != "active":
            raise contradiction(
                "dropout.consistency_check",
                self.dropout.consistency_check,
                "only the active protocol has this stage; set aggregator.adversary = 'active', or take the losses away",
            )
        return self

    @property
    def policy(self) -> Policy:
        """The corruption and dropout that a round must withstand.

        Raises:
            ConfigError: the settings contradict each other.
        """
        return Policy(
            graph=self.graph,
            adversary=self.adversary,
            roster_share=self.roster_share,
            max_corrupt=self.max_corrupt,
            max_dropout=self.max_dropout,
            security_bits=self.security_bits,
            recovery_bits=self.recovery_bits,
            neighbours=self.neighbours,
            threshold=self.threshold,
        )

    def allowed(self, clients: int) -> tuple[int, int]:
        """The numbers of corrupt and of lost clients by ``max_corrupt``, rounded up and at least one, and ``max_dropout``."""
        return self.policy.corrupt(clients), self.policy.lost(clients)

    def encoding(self, context: RoundContext) -> Encoding:
        """The encoding of updates as words if the noise is not distributed.

        Raises:
            ConfigError: sums over the population cannot be encoded with this clip.
        """
        return Encoding.fit(self.clip, context.population, self.bits)

    def rounding_norm(self, context: RoundContext) -> float:
        """√D / scale, since rounding moves each of the D coordinates by less than a step."""
        return math.sqrt(context.layout.size) / self.encoding(context).update.scale

    def carries(self, entry: float, context: RoundContext) -> bool:
        """Whether the entry is within the clip and a multiple of a step."""
        return abs(entry) <= self.clip and (entry * self.encoding(context).update.scale).is_integer()

    def parameters(self, context: RoundContext, invited: int) -> Parameters:
        """The protocol parameters on which the cohort agrees.

        If the noise is distributed, a sum must contain enough honest survivors. The noise of corrupt clients counts for
        nothing, so the smallest sum that is revealed is over the honest survivors of the plan and as many corrupt clients as
        may have been invited.

        Raises:
            ConfigError: sums over the population cannot be encoded with this clip.
        """
        code, least = _code(self, context), self.minimum_clients
        if context.codec is not None:
            least = max(least, context.codec.survivors + self.policy.corrupt(invited))
        return Parameters(
            run=context.run,
            round=context.round,
            length=code.length,
            bits=code.bits,
            population=max(context.population, least),
            cohort=invited,
            context=round_context(context.layout.digest(), code.digest(), _told(context)),
            minimum_clients=least,
            policy=self.policy,
        )

    def aggregate(self, updates: Sequence[ClientUpdate], context: RoundContext) -> Aggregate:
        """Run the whole protocol with every role; see :meth:`privfl.federation.aggregators.Aggregator.aggregate`."""
        with closing(_Attempts(self, in_order(updates, context, self.minimum_clients), context)) as played:
            return played.deceived() if context.models else self._played(played)

    def _played(self, played: _Attempts) -> Aggregate:
        attempts = self.attempts if self.below_threshold == "repeat" else 1
        for attempt in range(attempts):
            try:
                unmasked = played.attempt(attempt)
            except ThresholdError as error:
                failed = error
                if played.releasing:
                    break
            else:
                return played.aggregate(unmasked)
        return replace(played.given_up(str(failed)), ends_run=self.below_threshold == "stop")


def _told(context: RoundContext) -> dict[str, NDArray[Any]]:
    return {name: value.detach().cpu().numpy() for name, value in context.told.items()}


def _code(settings: SecureSum, context: RoundContext) -> Code:
    if context.codec is not None:
        return NoisedCode(context.codec, context)
    return FixedPointCode(settings.encoding(context), context)


class _Attempts:
    """The attempts at one round."""

    def __init__(self, settings: SecureSum, cohort: Sequence[ClientUpdate], context: RoundContext) -> None:
        self._settings, self._context = settings, context
        self._updates = {update.client: update for update in cohort}
        self._parameters, self._code = settings.parameters(context, len(cohort)), _code(settings, context)
        self._global_D = as_array(context.global_D)
        sent = {client: as_array(model_D) for client, model_D in context.models.items()}
        self._models = {client: sent.get(client, self._global_D) for client in self._updates}
        self._meters: list[Meter] = []
        self._transcripts: list[Transcript] = []
        self._clipped: dict[int, int] = {}
        self._masks_clients = self._masks_server = 0
        self._certificate: Certificate | None = None
        self._lost: dict[int, Stage] = {}
        # A simulated client lives for one round, so memory is enough for it. A real client has a StoredMemory.
        self._memories = {client: Memory() for client in self._updates}
        self.releasing = False
        """Whether a client was asked to help release a sum. If so, the round must not be repeated."""

    def attempt(self, number: int) -> Unmasked:
        """Run the protocol once, with fresh keys."""
        key = hkdf(self._context.simulation_key, salt=b"privfl dropout", info=number.to_bytes(4, "little"))
        drawn = self._settings.dropout.lost_at(list(self._updates), self._context.round, number, key)
        self._lost = with_late(drawn, self._context.lost & self._updates.keys())
        parameters, meter = replace(self._parameters, attempt=number), Meter()
        self._meters.append(meter)
        if self._context.transcript is not None:
            meter.heard = self._listener(self._context.transcript)
        directory: Directory | None = None
        identities: dict[int, Identity] = {}
        if self._parameters.active:
            # In a deployment identities are long-lived, and the directory does not come from the server.
            identities = {client: Identity(os.urandom(32)) for client in self._updates}
            directory = Directory({client: identity.public for client, identity in identities.items()})
        shared: dict[str, Any] = {"directory": directory, "threads": self._settings.threads}
        clients = {
            client: Client(client, parameters, self._models[client], identity=identities.get(client), memory=memory, **shared)
            for client, memory in self._memories.items()
        }
        server = (
            TwoFacedServer(parameters, self._models, **shared)
            if self._context.models
            else Server(parameters, list(self._updates), self._global_D, **shared)
        )
        self._server = server
        try:
            return play(server, clients, self._encode, self._lost, meter)
        finally:
            self._certificate = server.certificate or self._certificate
            self.releasing |= server.releasing
            self._masks_clients += sum(client.masks_expanded for client in clients.values())
            self._masks_server += server.masks_expanded

    def _listener(self, folder: Path) -> Callable[[Stage, int, bytes], None]:
        """A function that writes the messages to the server in this attempt into a file."""
        with storing(folder):
            # The file has no name, so nothing of it is left if the run breaks off.
            file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        transcript = Transcript(self._parameters.length, self._parameters.bits, file)
        self._transcripts.append(transcript)

        def hear(stage: Stage, client: int, answer: bytes) -> None:
            with storing(folder):
                transcript.hear(stage, client, answer)

        return hear

    def aggregate(self, unmasked: Unmasked) -> Aggregate:
        """The aggregate of the survivors' sum."""
        total = self._code.decode(unmasked.words_D, len(unmasked.survivors))
        mean_D = torch.from_numpy(total.mean()).to(self._context.global_D)
        return self._ended(mean_D, unmasked.survivors, total, None)

    def deceived(self) -> Aggregate:
        """The sum, or the noise that is left of it, for a malicious server that sent the clients different models."""
        try:
            return self.aggregate(self.attempt(0))
        except ProtocolError as error:
            given_up, server = self.given_up(str(error)), self._server
        assert isinstance(server, TwoFacedServer)
        if not server.summed:
            return given_up
        left = self._code.noise(server.masked_sum())
        seen = {"sum_D": torch.from_numpy(left.sum_D), "weight_sum": torch.tensor(left.weight_sum, dtype=torch.float64)}
        return replace(given_up, seen=seen)

    def given_up(self, why: str) -> Aggregate:
        """The aggregate without a sum, since too few clients survived the last attempt."""
        return self._ended(None, (), None, why)

    def _ended(
        self, mean_D: Tensor | None, survivors: tuple[int, ...], total: WeightedSum | None, why: str | None
    ) -> Aggregate:
        sum_D = torch.from_numpy(total.sum_D) if total is not None else None
        weight_sum = total.weight_sum if total is not None else 0.0
        stages = [(stage, cost) for meter in self._meters for stage, cost in meter.stages.items()]
        names = [stage for stage in self._parameters.stages if any(found is stage for found, _ in stages)]
        seconds = tuple(
            StageSeconds(
                stage=name,
                client=sum(cost.client_seconds for found, cost in stages if found is name)
                / max(sum(cost.answers for found, cost in stages if found is name), 1),
                server=sum(cost.server_seconds for found, cost in stages if found is name),
            )
            for name in names
        )
        octets = [
            StageBytes(
                stage=name,
                bytes_up=sum(cost.bytes_up for found, cost in stages if found is name),
                bytes_down=sum(cost.bytes_down for found, cost in stages if found is name),
                answers=sum(cost.answers for found, cost in stages if found is name),
            )
            for name in names
        ]
        return Aggregate(
            mean_D=mean_D,
            sum_D=sum_D,
            weight_sum=weight_sum,
            survivors=survivors,
            failed=why,
            cost=Cost(
                bytes_up=sum(one.bytes_up for one in octets),
                bytes_down=sum(one.bytes_down for one in octets),
                client_seconds=sum(cost.client_seconds for _, cost in stages) / len(self._updates),
                server_seconds=sum(one.server for one in seconds),
            ),
            clipped=sum(self._clipped.values()),
            seen={"sum_D": sum_D, "weight_sum": torch.tensor(weight_sum, dtype=torch.float64)} if sum_D is not None else {},
            secure=self._record(octets),
            stages=seconds,
            transcripts=tuple(self._kept(transcript) for transcript in self._transcripts),
        )

    def close(self) -> None:
        """Close the transcripts' files. Tensors that are mapped from them stay readable."""
        for transcript in self._transcripts:
            transcript.file.close()

    def _kept(self, transcript: Transcript) -> dict[str, Tensor]:
        assert self._context.transcript is not None
        with storing(self._context.transcript):
            arrays = transcript.arrays()
        return {name: torch.from_numpy(one if one.flags.writeable else one.copy()) for name, one in arrays.items()}

    def _record(self, octets: list[StageBytes]) -> SecureRecord:
        found = self._certificate
        return SecureRecord(
            attempts=len(self._meters),
            clients=found.clients if found else None,
            graph=found.graph if found else None,
            adversary=self._settings.adversary,
            bits=self._parameters.bits,
            neighbours=found.neighbours if found else None,
            threshold=found.threshold if found else None,
            least_survivors=found.survivors if found else None,
            quorum=found.quorum if found else None,
            log2_insecure=_finite(found.log2_insecure) if found else None,
            log2_recovery=_finite(found.log2_recovery) if found else None,
            lost={
                stage: sorted(client for client, at in self._lost.items() if at is stage)
                for stage in Stage
                if stage in self._lost.values()
            },
            refused={str(client): str(error) for client, error in sorted(self._meters[-1].refused.items())},
            masks_clients=self._masks_clients,
            masks_server=self._masks_server,
            stages=octets,
        )

    def _encode(self, client: int) -> Words:
        words, self._clipped[client] = self._code.encode(self._updates[client])
        return words


def _finite(logarithm: float) -> float | None:
    return logarithm if math.isfinite(logarithm) else None
