"""The server's side of one round: collect the keys, send the roster, add up the masked vectors.

::

    ADVERTS --roster()--> INPUTS --unmask()--> DONE
    (receive_advert)      (receive_input)
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from privfl.errors import ProtocolError
from privfl.secagg.agreement import check_public_key
from privfl.secagg.encoding import WeightedSum
from privfl.secagg.messages import Advert, MaskedInput, Roster
from privfl.secagg.session import Parameters, check_model, check_roster, session_id


class Stage(Enum):
    """What the server is waiting for."""

    ADVERTS = auto()
    INPUTS = auto()
    DONE = auto()


class Server:
    """The server in one round; make a new one for each round.

    Guarantees: the sum is returned only when every client of the cohort handed in exactly one vector of the right
    length for this very session; then, if the clients are honest, it is the exact sum of their encoded vectors. A message
    that is refused leaves the server as it was. Masked vectors are added as they come and not kept.

    Edges: an empty cohort and a cohort of one are refused when the roster is made. A sum that no honest cohort can have
    made is refused when it is decoded.

    Args:
        parameters: the round's.
        cohort: the clients that take part.
        global_D: the global model that was sent to them, float32 of length D.

    Raises:
        ProtocolError: the model has another shape or type.
    """

    def __init__(self, parameters: Parameters, cohort: Collection[int], global_D: NDArray[np.float32]) -> None:
        check_model(parameters, global_D)
        self.parameters, self.cohort, self._global_D = parameters, frozenset(cohort), global_D
        self._stage = Stage.ADVERTS
        self._keys: dict[int, bytes] = {}
        self._session = b""
        self._received: set[int] = set()
        self._sum_D1 = np.zeros(parameters.dimension + 1, np.uint32)

    def receive_advert(self, message: bytes) -> None:
        """Take in one client's :class:`Advert`.

        Raises:
            ProtocolError: out of turn, damaged, of another round, from a stranger, a second one, or with a bad key.
        """
        self._expect(Stage.ADVERTS)
        advert = Advert.from_bytes(message)
        self._check_sender(advert, self._keys)
        check_public_key(advert.public_key)
        if advert.public_key in self._keys.values():
            raise ProtocolError(f"client {advert.sender} sent another client's key: must be its own; exclude it")
        self._keys[advert.sender] = advert.public_key

    def roster(self) -> bytes:
        """The :class:`Roster`, the same bytes for every client; ends the first stage.

        Raises:
            ProtocolError: out of turn, a client is missing, or the cohort is too small or too large.
        """
        self._expect(Stage.ADVERTS)
        self._check_complete(self._keys, "sent no key")
        check_roster(self.parameters, self._keys)
        self._session = session_id(self.parameters, self._keys, self._global_D)
        self._stage = Stage.INPUTS
        return Roster(self.parameters.round, tuple(sorted(self._keys.items()))).to_bytes()

    def receive_input(self, message: bytes) -> None:
        """Add one client's :class:`MaskedInput` to the sum.

        Raises:
            ProtocolError: out of turn, damaged, of another round or session, from a stranger, a second one, or of
                another length.
        """
        self._expect(Stage.INPUTS)
        masked = MaskedInput.from_bytes(message)
        self._check_sender(masked, self._received)
        if masked.session != self._session:
            raise ProtocolError(
                f"client {masked.sender} is in another session: its roster, parameters or global model differ; "
                "discard the round"
            )
        if len(masked.words) != len(self._sum_D1):
            raise ProtocolError(f"client {masked.sender} sent {len(masked.words)} words: must be {len(self._sum_D1)}")
        np.add(self._sum_D1, masked.words, out=self._sum_D1)
        self._received.add(masked.sender)

    def unmask(self) -> WeightedSum:
        """The decoded sum; ends the round.

        Raises:
            ProtocolError: out of turn, a client is missing, the sum is noise, or its weights add up to nothing.
        """
        self._expect(Stage.INPUTS)
        self._check_complete(self._received, "sent no masked vector")
        self._stage = Stage.DONE
        return self.parameters.encoding.decode(self._sum_D1, len(self.cohort))

    def _expect(self, stage: Stage) -> None:
        if self._stage is not stage:
            raise ProtocolError(f"the server waits for {self._stage.name}, not for {stage.name}; begin a new round")

    def _check_sender(self, message: Advert | MaskedInput, seen: Collection[int]) -> None:
        if message.round != self.parameters.round:
            raise ProtocolError(f"a message of round {message.round}: must be of round {self.parameters.round}")
        if message.sender not in self.cohort or message.sender in seen:
            raise ProtocolError(f"client {message.sender} is not of the cohort or answered twice; its message is refused")

    def _check_complete(self, seen: Collection[int], omission: str) -> None:
        missing = sorted(self.cohort.difference(seen))
        if missing:
            raise ProtocolError(
                f"client {missing[0]} ({len(missing)} in all) {omission}: everyone must answer; repeat the round"
            )
