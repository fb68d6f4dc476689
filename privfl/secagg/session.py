"""What everybody must agree on before a mask is made, and its name: the session id.

Every mask key is derived under the session id. Two clients who disagree on anything in it, be it the roster, the
parameters or the global model they were sent, derive different masks; theirs do not cancel, and the sum is noise. So a
server that sends different models to different clients, to make all updates but one vanish from the sum (Pasquini et
al. 2022, "Eluding Secure Aggregation in Federated Learning via Model Inconsistency", CCS 2022), learns nothing.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from privfl.errors import ConfigError, ProtocolError
from privfl.secagg.agreement import check_public_key
from privfl.secagg.encoding import Encoding
from privfl.secagg.messages import SERVER, VERSION

_LABEL: Final = b"privfl secagg session"
_PARAMETERS: Final = struct.Struct("<BIQQQd32s")
_ENTRY: Final = struct.Struct("<I32s")


@dataclass(frozen=True)
class Parameters:
    """What is fixed before a round begins. Each client holds its own copy and takes none of it from the server.

    Args:
        round: the round's number, from 0.
        dimension: D, the number of the model's parameters.
        population: the number of clients there are; no roster is longer.
        clip: the largest absolute value of an update's coordinate.
        layout_digest: SHA-256 of the names and shapes of the model's parameters.
        minimum_clients: a roster shorter than this is refused; at least 2.

    Raises:
        ConfigError: a value is out of range, or sums over the population cannot be encoded.
    """

    round: int
    dimension: int
    population: int
    clip: float
    layout_digest: bytes
    minimum_clients: int = 2

    def __post_init__(self) -> None:
        if not (0 <= self.round < 2**32 and self.dimension >= 1 and len(self.layout_digest) == 32):
            raise ConfigError(f"round {self.round}, dimension {self.dimension}: must be in [0, 2^32), and at least 1")
        if not 2 <= self.minimum_clients <= self.population < SERVER:
            raise ConfigError(
                f"minimum_clients = {self.minimum_clients} of {self.population} clients: "
                "must be at least 2 and at most the population; one client alone has nobody to hide among"
            )
        _ = self.encoding

    @property
    def encoding(self) -> Encoding:
        """How vectors are encoded; refuses sums that could wrap around."""
        return Encoding.fit(self.clip, self.population)

    def to_bytes(self) -> bytes:
        """The one encoding of the parameters and of the protocol's version."""
        return _PARAMETERS.pack(
            VERSION, self.round, self.dimension, self.population, self.minimum_clients, self.clip, self.layout_digest
        )


def session_id(parameters: Parameters, keys: Mapping[int, bytes], global_D: NDArray[np.float32]) -> bytes:
    """SHA-256 over version, parameters, roster and global model; 32 bytes.

    Args:
        parameters: the round's.
        keys: each client's public key.
        global_D: the model as this party has it.
    """
    digest = hashlib.sha256(_LABEL + parameters.to_bytes())
    digest.update(hashlib.sha256(global_D.astype("<f4", copy=False).tobytes()).digest())
    for client in sorted(keys):
        digest.update(_ENTRY.pack(client, keys[client]))
    return digest.digest()


def check_model(parameters: Parameters, global_D: NDArray[Any]) -> None:
    """Refuse a model that is not one float32 vector of length D.

    Raises:
        ProtocolError: it is not.
    """
    if global_D.dtype != np.float32 or global_D.shape != (parameters.dimension,):
        raise ProtocolError(
            f"a global model of shape {global_D.shape} and type {global_D.dtype}: must be ({parameters.dimension},) float32"
        )


def check_roster(parameters: Parameters, keys: Mapping[int, bytes]) -> None:
    """Refuse a roster that hides nobody or cannot be honest; both ends check.

    Raises:
        ProtocolError: too few or too many clients, two with one key, or a key that is none.
    """
    if not parameters.minimum_clients <= len(keys) <= parameters.population:
        raise ProtocolError(
            f"a roster of {len(keys)} clients: must be at least {parameters.minimum_clients} "
            f"and at most {parameters.population}; skip this round"
        )
    if len(set(keys.values())) != len(keys):
        raise ProtocolError(f"a roster where {len(keys)} clients have {len(set(keys.values()))} keys: must be one each")
    for key in keys.values():
        check_public_key(key)
