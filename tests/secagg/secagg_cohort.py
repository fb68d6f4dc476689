"""A cohort for tests: the roles of the protocol played stage by stage, so that a test can step in between.

All entropy is deterministic, and what X25519 and Ed25519 computed once is remembered, so that thousands of rounds are
played in seconds. Nothing else of the protocol is replaced.
"""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import scipy.stats
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from numpy.typing import NDArray

from privfl.errors import ProtocolError, ThresholdError
from privfl.secagg import agreement, identity
from privfl.secagg.certificate import Policy
from privfl.secagg.client import Client
from privfl.secagg.framing import SERVER, sender_of
from privfl.secagg.identity import Directory, Identity
from privfl.secagg.memory import Memory
from privfl.secagg.messages import MaskedInput
from privfl.secagg.packing import TYPES, Bits, unpack
from privfl.secagg.prg import Keystream, Words
from privfl.secagg.server import Server, Unmasked
from privfl.secagg.session import Parameters, Stage

Vector = NDArray[np.float32]
Answers = dict[int, bytes]

# How often a test of uniformity fails although nothing is wrong, if entropy were fresh.
ERROR_RATE = 1e-9


@dataclass(frozen=True)
class Weak(Policy):
    """A policy that no client accepts: four clients on a sparse graph cannot be certified at 2^-40.

    It tests what happens, not how likely it is.
    """

    max_corrupt: float = 0.0
    security_bits: int = 2

    def __post_init__(self) -> None:
        pass

    def corrupt(self, clients: int) -> int:
        return int(self.max_corrupt * clients)


COMPLETE = Policy(graph="complete", adversary="semi_honest")
COMPLETE_ACTIVE = Policy(graph="complete")
SPARSE = Weak(graph="sparse", adversary="semi_honest", neighbours=2, threshold=2, max_dropout=0.25)
SPARSE_ACTIVE = Weak(graph="sparse", neighbours=2, threshold=2, max_dropout=0.4)
POLICIES = {
    "complete": COMPLETE,
    "complete, active": COMPLETE_ACTIVE,
    "sparse": SPARSE,
    "sparse, active": SPARSE_ACTIVE,
}


def parameters(policy: Policy = COMPLETE, **changes: Any) -> Parameters:
    values: dict[str, Any] = {
        "run": "tests",
        "round": 3,
        "length": 5,
        "bits": 32,
        "population": 10,
        "cohort": 4,
        "minimum_clients": 2,
        "context": bytes(range(32)),
        "policy": policy,
    }
    return Parameters(**{**values, **changes})


@dataclass
class Entropy:
    """A stream of bytes of that name."""

    name: tuple[object, ...]
    calls: int = 0

    def __call__(self, size: int) -> bytes:
        self.calls += 1
        return hashlib.shake_256(repr((self.name, self.calls)).encode()).digest(size)

    def copy(self) -> Entropy:
        return copy.copy(self)


def entropy(*name: object) -> Entropy:
    return Entropy(name)


@functools.cache
def identity_of(client: int) -> Identity:
    return Identity(identity_private(client))


def identity_private(client: int) -> bytes:
    return entropy("identity", client)(32)


def directory_of(clients: Iterable[int]) -> Directory:
    return Directory({client: identity_of(client).public for client in clients})


def vector_of(client: int, length: int, bits: Bits) -> Words:
    """A client's vector: any words."""
    words = np.empty(length, TYPES[bits])
    Keystream(entropy("vector", client)(32)).fill(words)
    if bits in (20, 24):
        words &= np.uint32((1 << bits) - 1)
    return words


@dataclass
class Group:
    """Clients and a server, all of one round."""

    parameters: Parameters
    numbers: tuple[int, ...] = (0, 1, 2, 3)
    seed: str = "group"
    models: Mapping[int, Vector] = field(default_factory=dict)
    zero: bool = False
    memories: Mapping[int, Memory] = field(default_factory=dict)

    def __post_init__(self) -> None:
        model = np.zeros(3, np.float32)
        directory = directory_of(self.numbers) if self.parameters.active else None
        self.clients = {
            number: Client(
                number,
                self.parameters,
                self.models.get(number, model),
                identity=identity_of(number) if self.parameters.active else None,
                directory=directory,
                entropy=entropy(self.seed, number),
                memory=self.memories.get(number) or Memory(),
            )
            for number in self.numbers
        }
        self.server = Server(self.parameters, self.numbers, model, directory=directory, entropy=entropy(self.seed, "server"))

    def vector(self, client: int) -> Words:
        words = vector_of(client, self.parameters.length, self.parameters.bits)
        return np.zeros_like(words) if self.zero else words

    def answer(self, client: int, request: bytes | None, stage: Stage | None = None) -> bytes:
        """One client's answer to a request."""
        one = self.clients[client]
        match stage or self.server.stage:
            case Stage.ADVERTISE_KEYS:
                return one.advertise()
            case Stage.SHARE_KEYS:
                return one.share_keys(request or b"")
            case Stage.MASKED_INPUT:
                return one.masked_input(request or b"", self.vector(client))
            case Stage.CONSISTENCY_CHECK:
                return one.consent(request or b"")
            case _:
                return one.reveal(request or b"")

    def answers(self, silent: Iterable[int] = ()) -> Answers:
        """What everyone who is awaited would answer in this stage."""
        return {
            number: self.answer(number, self.server.request(number)) for number in sorted(self.server.awaited - set(silent))
        }

    def receive(self, message: bytes, peer: int | None = None) -> None:
        """The server takes a message from whoever says that it sent it, or from another peer."""
        sender = sender_of(message)
        assert peer is not None or sender is not None
        self.server.receive(sender if peer is None else peer, message)  # type: ignore[arg-type]

    def close(self, answers: Answers) -> None:
        for number, message in answers.items():
            self.server.receive(number, message)
        self.server.close()

    def to(self, stage: Stage, lost: Mapping[int, Stage] | None = None) -> Group:
        """Play up to a stage; what happens in it is the test's."""
        while self.server.stage is not stage:
            self.close(self.answers([client for client, at in (lost or {}).items() if at is self.server.stage]))
        return self

    def end(self, lost: Mapping[int, Stage] | None = None) -> Unmasked:
        """Play to the end."""
        while self.server.stage is not None:
            self.close(self.answers([client for client, at in (lost or {}).items() if at is self.server.stage]))
        return self.server.result()

    def fork(self) -> Group:
        """A copy that goes on by itself from here."""
        twin = copy.copy(self)
        twin.server, twin.clients = _fork(self.server), {number: _fork(one) for number, one in self.clients.items()}
        return twin

    def plain(self, clients: Iterable[int]) -> Words:
        """The sum without any masks."""
        total = np.zeros(self.parameters.length, TYPES[self.parameters.bits])
        for client in clients:
            total += self.vector(client)
        if self.parameters.bits in (20, 24):
            total &= np.uint32((1 << self.parameters.bits) - 1)
        return total

    def words(self, message: bytes) -> Words:
        return unpack(MaskedInput.from_bytes(message).packed, self.parameters.length, self.parameters.bits)


Machine = TypeVar("Machine", Client, Server)


def _fork(machine: Machine) -> Machine:
    """A copy of a state machine; what it changes in place is copied, what it only replaces is shared."""
    twin = copy.copy(machine)
    for name, value in vars(machine).items():
        if isinstance(value, dict | set | list | np.ndarray | Entropy):
            setattr(twin, name, value.copy())
        elif isinstance(value, Memory):
            setattr(twin, name, copy.deepcopy(value))
    return twin


def group(policy: Policy = COMPLETE, clients: int = 4, seed: str = "group", **changes: Any) -> Group:
    return Group(parameters(policy, **{"cohort": clients, **changes}), tuple(range(clients)), seed)


def refused(
    call: Callable[..., object], *args: object, match: str = "", stage: str | None = None, peer: str | None = None
) -> None:
    """The property that a call is refused in one line, as an assertion that a mutated protocol can fail."""
    try:
        call(*args)
    except ProtocolError as error:
        assert match in str(error), f"{error} does not say {match!r}"  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
        assert stage in (None, error.stage), f"{error} is not of stage {stage}"  # noqa: PT017
        assert peer in (None, error.peer), f"{error} is not about {peer}"  # noqa: PT017
    else:
        raise AssertionError(f"{call} was not refused")


def below(call: Callable[..., object], *args: object, match: str = "") -> None:
    """Refused, and for the reason that too few are left."""
    try:
        call(*args)
    except ThresholdError as error:
        assert match in str(error), f"{error} does not say {match!r}"  # noqa: PT017
    else:
        raise AssertionError(f"{call} found enough clients")


def patched(message: bytes, at: int, value: bytes) -> bytes:
    """The message with some of its bytes replaced."""
    return message[:at] + value + message[at + len(value) :]


def from_server(message: bytes) -> bool:
    return message[8:12] == SERVER.to_bytes(4, "little")


def assert_uniform(words: Words, error_rate: float = ERROR_RATE) -> None:
    """χ² of the 256 values of each byte of a word; fails on uniform words at most at the given rate."""
    octets = np.ascontiguousarray(words).view(np.uint8).reshape(-1, words.itemsize)
    for place in range(words.itemsize):
        counts = np.bincount(octets[:, place], minlength=256)
        assert scipy.stats.chisquare(counts).pvalue > error_rate / words.itemsize, f"byte {place} is not uniform"


# --- what was computed once ---------------------------------------------------------------------------------------------


class _RememberedKey:
    """An X25519 private key that remembers its public half and its exchanges."""

    def __init__(self, private: bytes) -> None:
        self._private = private

    @classmethod
    def from_private_bytes(cls, private: bytes) -> _RememberedKey:
        return cls(private)

    def public_key(self) -> _RememberedKey:
        return self

    def public_bytes_raw(self) -> bytes:
        return _public(self._private)

    def exchange(self, peer: X25519PublicKey) -> bytes:
        return _exchange(self._private, peer.public_bytes_raw())


@functools.cache
def _public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


@functools.cache
def _exchange(private: bytes, peer: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(peer))


class _RememberedIdentity:
    """An Ed25519 public key that remembers which signatures were its own."""

    def __init__(self, public: bytes) -> None:
        self._public = public

    @classmethod
    def from_public_bytes(cls, public: bytes) -> _RememberedIdentity:
        return cls(public)

    def verify(self, signature: bytes, statement: bytes) -> None:
        if not _verified(self._public, signature, statement):
            raise InvalidSignature


@functools.cache
def _verified(public: bytes, signature: bytes, statement: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, statement)
    except InvalidSignature:
        return False
    return True


def remember(monkeypatch: Any) -> None:
    """Let curves be computed once for each input in the tests of this folder."""
    monkeypatch.setattr(agreement, "X25519PrivateKey", _RememberedKey)
    monkeypatch.setattr(identity, "Ed25519PublicKey", _RememberedIdentity)
