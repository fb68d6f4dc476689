"""A malicious server that sent its clients different models; for simulations of its attack.

Source: Pasquini et al. 2022, "Eluding Secure Aggregation in Federated Learning via Model Inconsistency", CCS 2022.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from privfl.secagg.agreement import Entropy
from privfl.secagg.framing import HEADER_BYTES, SESSION_BYTES, Kind, kind_of
from privfl.secagg.identity import Directory
from privfl.secagg.messages import Consent, MaskedInput
from privfl.secagg.prg import Words
from privfl.secagg.server import Server
from privfl.secagg.session import Parameters, session_id

_WITHOUT_SESSION: Final = (Kind.ADVERT, Kind.ROSTER, Kind.REFUSAL)


class TwoFacedServer(Server):
    """A malicious server that answers each client as if all others had that client's model.

    The model is a part of the session id, which stands in every message after the roster. This server writes each client's
    session id into each message to that client, and its own into each message from it. It plays the protocol to its end if the
    clients let it; otherwise it has :meth:`masked_sum`.

    Guarantees: none. It is an adversary, and a weak point of the protocol is one of its successes.

    Args:
        parameters: the round's.
        models: the model that each client was sent, float32 of length D; they are the invited clients.
        directory, entropy, threads: see :class:`privfl.secagg.server.Server`.

    Raises:
        ProtocolError, ConfigError: as :class:`privfl.secagg.server.Server`.
    """

    def __init__(
        self,
        parameters: Parameters,
        models: Mapping[int, NDArray[np.float32]],
        *,
        directory: Directory | None = None,
        entropy: Entropy = os.urandom,
        threads: int = 1,
    ) -> None:
        ((commonest, _),) = Counter(model.tobytes() for model in models.values()).most_common(1)
        model = np.frombuffer(commonest, np.float32)
        super().__init__(parameters, models.keys(), model, directory=directory, entropy=entropy, threads=threads)
        self._models = models
        self.summed: list[int] = []
        """The clients whose masked vectors came."""

    def request(self, client: int) -> bytes | None:
        """See :class:`privfl.secagg.server.Server`: under the client's own session id."""
        message = super().request(client)
        return None if message is None else self._under(message, self._session_of(client))

    def receive(self, peer: int, message: bytes) -> None:
        """See :class:`privfl.secagg.server.Server`: under any session id."""
        super().receive(peer, message if self.certificate is None else self._under(message, self._session))

    def masked_sum(self) -> Words:
        """The sum modulo 2^bits of the masked vectors of :attr:`summed`, with all masks that did not cancel in it."""
        spare = 8 * self._sum_D.itemsize - self.parameters.bits
        return self._sum_D & self._sum_D.dtype.type((1 << self.parameters.bits) - 1) if spare else self._sum_D

    def _session_of(self, client: int) -> bytes:
        return session_id(self.parameters, len(self._members), self._digest, self._models[client])

    def _under(self, message: bytes, session: bytes) -> bytes:
        if kind_of(message) in _WITHOUT_SESSION:
            return message
        return message[:HEADER_BYTES] + session + message[HEADER_BYTES + SESSION_BYTES :]

    def _take_input(self, masked: MaskedInput) -> None:
        super()._take_input(masked)
        self.summed.append(masked.sender)

    def _take_consent(self, consent: Consent) -> None:
        # Clients sign for their own sessions. They will look at the signatures; this server does not.
        self._check_sender(consent, consent.session)
        self._signatures[consent.sender] = consent.signature
        self._answered.add(consent.sender)
