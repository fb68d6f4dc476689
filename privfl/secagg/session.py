"""Parameters of a round and its session id: a digest of everything on which all parties must agree before masks are made.

Every key of a round is derived under the session id. If two clients disagree on anything in it, such as the roster, the
parameters or the global model that they were sent, they derive different masks. Theirs do not cancel, and the sum is noise. A
server that sends different models to different clients, so that all updates but one vanish from the sum (Pasquini et al.
2022, "Eluding Secure Aggregation in Federated Learning via Model Inconsistency", CCS 2022), therefore learns nothing.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from privfl.errors import ConfigError, ProtocolError, ThresholdError
from privfl.secagg.agreement import check_public_key
from privfl.secagg.certificate import Certificate, Policy, certify
from privfl.secagg.framing import SERVER, VERSION
from privfl.secagg.graph import Clients
from privfl.secagg.messages import MEMBER, Table
from privfl.secagg.packing import TYPES, Bits, packed_bytes

_LABEL: Final = b"privfl secagg session"
_PARAMETERS_LABEL: Final = b"privfl secagg parameters"
_ROSTER_LABEL: Final = b"privfl secagg roster"
_SHARERS_LABEL: Final = b"privfl secagg sharers"
_TOLD_LABEL: Final = b"privfl secagg told"
_RUN_LABEL: Final = b"privfl secagg run"
_PARAMETERS: Final = struct.Struct("<B32sIIQBQQQ32s")
_POLICY: Final = struct.Struct("<BBdddIIQQ")


class Stage(StrEnum):
    """The stages of a round, in order; a client that is lost at a stage sends nothing from that stage on."""

    ADVERTISE_KEYS = "advertise_keys"
    SHARE_KEYS = "share_keys"
    MASKED_INPUT = "masked_input"
    CONSISTENCY_CHECK = "consistency_check"
    UNMASKING = "unmasking"


@dataclass(frozen=True)
class Parameters:
    """Parameters of a round, fixed before it begins. Each client has its own copy and takes none of it from the server.

    Args:
        run: name of the run, unique among all runs in which its clients use their identities, so that no message of one run is
            accepted in another.
        round: number of the round, from 0.
        length: number of words of a vector.
        bits: bits of each word; sums are modulo 2^bits.
        population: number of all clients; the encoding leaves room for a sum over so many.
        cohort: number of clients that were chosen for this round, which the clients know before it begins. No roster is longer,
            and none is shorter than the policy's share of it.
        context: 32 bytes, a digest of the meaning of the words: their encoding, and the names and shapes of the model.
        minimum_clients: a roster of fewer clients and a sum over fewer are refused; at least 2. One of two clients could
            subtract its own vector from their sum: the certificate therefore requires at least three.
        policy: the adversary and the losses that the round must withstand.
        attempt: number of the attempt at this round, from 0; a client uses each number once.

    Raises:
        ConfigError: a value is out of range.
    """

    run: str
    round: int
    length: int
    bits: Bits
    population: int
    cohort: int
    context: bytes
    minimum_clients: int = 3
    policy: Policy = field(default_factory=Policy)
    attempt: int = 0

    def __post_init__(self) -> None:
        if not self.run:
            raise ConfigError(
                "a run without a name: must have one, such as that of its folder, or one run's messages pass in another"
            )
        if not 0 <= self.attempt < 2**32:
            raise ConfigError(f"attempt {self.attempt}: must be in [0, 2^32)")
        if not (0 <= self.round < 2**32 and self.length >= 1 and len(self.context) == 32 and self.bits in TYPES):
            raise ConfigError(
                f"round {self.round}, length {self.length}, bits {self.bits}: must be in [0, 2^32), at least 1, and one of "
                f"{', '.join(map(str, TYPES))}"
            )
        if not 2 <= self.minimum_clients <= self.population < SERVER:
            raise ConfigError(
                f"minimum_clients = {self.minimum_clients} of {self.population} clients: "
                "must be at least 2 and at most the population; one client alone has nobody to hide among"
            )
        if not 1 <= self.cohort <= self.population:
            raise ConfigError(
                f"a cohort of {self.cohort} of {self.population} clients: must be at least 1 and at most all of them"
            )

    @property
    def active(self) -> bool:
        """Whether the server may lie; if so, adverts are signed and survivors are agreed upon before anything is revealed."""
        return self.policy.adversary == "active"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of a round under this policy."""
        return tuple(stage for stage in Stage if self.active or stage is not Stage.CONSISTENCY_CHECK)

    @property
    def packed_bytes(self) -> int:
        """The number of bytes of a packed masked vector."""
        return packed_bytes(self.length, self.bits)

    def certificate(self, clients: int) -> Certificate:
        """The certificate of a round with so many clients in the roster; clients and server compute it.

        Raises:
            ThresholdError: too few or too many clients.
        """
        least = max(self.minimum_clients, self.policy.least_roster(self.cohort))
        if not least <= clients <= self.cohort:
            raise ThresholdError(
                f"a roster of {clients} clients: must be at least {least} and at most the cohort of {self.cohort}; "
                "skip this round or begin it again"
            )
        return certify(self.policy, clients, self.minimum_clients, self.cohort)

    def to_bytes(self) -> bytes:
        """The unique encoding of the parameters and of the protocol's version."""
        policy = self.policy
        return _PARAMETERS.pack(
            VERSION,
            hashlib.sha256(_RUN_LABEL + self.run.encode()).digest(),
            self.round,
            self.attempt,
            self.length,
            self.bits,
            self.population,
            self.cohort,
            self.minimum_clients,
            self.context,
        ) + _POLICY.pack(
            ("auto", "complete", "sparse").index(policy.graph),
            self.active,
            policy.roster_share,
            policy.max_corrupt,
            policy.max_dropout,
            policy.security_bits,
            policy.recovery_bits,
            policy.neighbours or 0,
            policy.threshold or 0,
        )

    def digest(self) -> bytes:
        """SHA-256 of a label and the encoded parameters, 32 bytes."""
        return hashlib.sha256(_PARAMETERS_LABEL + self.to_bytes()).digest()


def roster_digest(members: Table) -> bytes:
    """Digest of a roster: SHA-256 of all clients with their keys, ascending; 32 bytes. Signatures are not part of it."""
    plain = np.empty(len(members), MEMBER)
    for name in MEMBER.names or ():
        plain[name] = members[name]
    return hashlib.sha256(_ROSTER_LABEL + plain.tobytes()).digest()


def round_context(layout: bytes, encoding: bytes, told: Mapping[str, NDArray[Any]]) -> bytes:
    """SHA-256 over the meaning of the words, and over everything that the server tells clients beside the model; 32 bytes.

    A server that told clients different things, such as a clipping norm of zero to all clients but one, could isolate one
    client's vector in the sum as with different models.

    Args:
        layout: digest of the model's names and shapes.
        encoding: digest of the encoding.
        told: by name, the numbers that the server sends to clients beside the model, as this party has them.
    """
    digests = layout + encoding
    if told:
        content = hashlib.sha256(_TOLD_LABEL)
        for name in sorted(told):
            octets, values = name.encode(), np.ascontiguousarray(told[name], "<f8").reshape(-1)
            content.update(struct.pack("<I", len(octets)) + octets + struct.pack("<Q", len(values)) + values.tobytes())
        digests += content.digest()
    return hashlib.sha256(digests).digest()


def session_id(parameters: Parameters, clients: int, digest: bytes, global_D: NDArray[np.float32]) -> bytes:
    """Session id: SHA-256 over version, parameters, number of clients, roster and global model; 32 bytes.

    Args:
        parameters: the round's parameters.
        clients: number of clients in the roster.
        digest: digest of the whole roster.
        global_D: the global model as this party has it, shape (D,).
    """
    model = hashlib.sha256(np.ascontiguousarray(global_D, "<f4").data.cast("B")).digest()
    return hashlib.sha256(_LABEL + parameters.to_bytes() + model + struct.pack("<I", clients) + digest).digest()


def masking_id(parameters: Parameters, session: bytes, sharers: Clients) -> bytes:
    """The id under which masks are derived: the session id; against an active server, SHA-256 of it and of all sharers.

    Sharers are the clients that shared their keys. If masks depended on the session id alone, an active server could tell two
    neighbours different things about who is still there, and so choose which of them mask with each other.
    """
    if not parameters.active:
        return session
    return hashlib.sha256(_SHARERS_LABEL + session + sharers.astype("<u4").tobytes()).digest()


def check_model(global_D: NDArray[Any]) -> None:
    """Refuse a global model that is not one float32 vector.

    Raises:
        ProtocolError: it is not.
    """
    if global_D.dtype != np.float32 or global_D.ndim != 1:
        raise ProtocolError(f"a global model of shape {global_D.shape} and type {global_D.dtype}: must be (D,) float32")


def check_members(members: Table) -> None:
    """Refuse a roster with keys that no honest client has.

    Raises:
        ProtocolError: a key occurs twice, at two clients or for two purposes, or is no valid public key.
    """
    keys = [key.tobytes() for name in ("channel_key", "mask_key") for key in members[name]]
    for key in keys:
        check_public_key(key)
    if len(set(keys)) != len(keys):
        raise ProtocolError(
            f"a roster of {len(members)} clients with {len(set(keys))} keys: must be two each; discard the round"
        )
