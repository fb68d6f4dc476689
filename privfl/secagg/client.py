"""The client's side of one round: advertise a key, then answer the roster with a masked vector.

::

    READY --advertise()--> ADVERTISED --answer(roster, ...)--> DONE
"""

from __future__ import annotations

from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from privfl.errors import ProtocolError
from privfl.secagg import prg
from privfl.secagg.agreement import MASK, KeyPair
from privfl.secagg.encoding import Floats
from privfl.secagg.messages import SERVER, Advert, MaskedInput, Roster
from privfl.secagg.session import Parameters, check_model, check_roster, session_id


class Stage(Enum):
    """What the client has done already."""

    READY = auto()
    ADVERTISED = auto()
    DONE = auto()


class Client:
    """One client in one round; make a new one for each round.

    Guarantees: at most one masked vector leaves this object, and only under masks shared with every other client of a
    roster of at least ``minimum_clients`` that holds this client's own key. Each stage is left before its work begins:
    a client that refused one roster answers no other. The vector is hidden as long as one other client of the roster is
    honest and the server relayed keys as they were advertised (nothing is signed yet).

    Edges: a zero vector or a zero weight is masked like any other. A non-finite update is refused and nothing is sent.

    Args:
        client: this client's number, in [0, 2^32 - 1).
        parameters: the round's, from this client's own configuration.
        global_D: the global model as this client was sent it, float32 of length D.

    Raises:
        ProtocolError: the number is out of range, or the model has another shape or type.
    """

    def __init__(self, client: int, parameters: Parameters, global_D: NDArray[np.float32]) -> None:
        if not 0 <= client < SERVER:
            raise ProtocolError(f"client {client}: must be in [0, {SERVER})")
        check_model(parameters, global_D)
        self.client, self.parameters, self._global_D = client, parameters, global_D
        self.clipped = 0
        """How many coordinates the encoding clipped; known to the client alone."""
        self._stage = Stage.READY
        self._keys: KeyPair | None = None

    def advertise(self) -> bytes:
        """An :class:`Advert` with a fresh public key.

        Raises:
            ProtocolError: it was sent already.
        """
        self._leave(Stage.READY, Stage.ADVERTISED)
        self._keys = KeyPair.generate()
        return Advert(self.parameters.round, self.client, self._keys.public).to_bytes()

    def answer(self, roster: bytes, delta_D: Floats, weight: float, rounding_key: bytes) -> bytes:
        """A :class:`MaskedInput` of (weight · delta, weight), in answer to the roster.

        Args:
            roster: the server's message.
            delta_D: the update, of length D; coordinates beyond ±clip are clipped and counted.
            weight: in [0, 1].
            rounding_key: 32 bytes for the rounding's randomness; it hides nothing, and the masks are not made from it.

        Raises:
            ProtocolError: out of turn, or the roster, the update or the weight is refused; nothing is sent.
        """
        self._leave(Stage.ADVERTISED, Stage.DONE)
        own, self._keys = self._keys, None
        assert own is not None
        keys = self._checked(Roster.from_bytes(roster), own)
        if delta_D.shape != (self.parameters.dimension,):
            raise ProtocolError(f"an update of shape {delta_D.shape}: must be ({self.parameters.dimension},)")
        words, self.clipped = self.parameters.encoding.encode(delta_D, weight, rounding_key)
        session = session_id(self.parameters, keys, self._global_D)
        # The smaller number of a pair adds their mask, the larger subtracts it: in the sum over both it is gone.
        shared = {peer: own.shared_key(key, session, MASK) for peer, key in keys.items() if peer != self.client}
        prg.mask(
            words,
            added=[key for peer, key in shared.items() if self.client < peer],
            subtracted=[key for peer, key in shared.items() if peer < self.client],
        )
        return MaskedInput(self.parameters.round, self.client, session, words).to_bytes()

    def _leave(self, stage: Stage, following: Stage) -> None:
        if self._stage is not stage:
            raise ProtocolError(f"client {self.client} is {self._stage.name}: each stage is answered once; begin a new round")
        self._stage = following

    def _checked(self, roster: Roster, own: KeyPair) -> dict[int, bytes]:
        if roster.round != self.parameters.round:
            raise ProtocolError(f"a roster of round {roster.round}: must be of round {self.parameters.round}")
        keys = dict(roster.keys)
        if keys.get(self.client) != own.public:
            raise ProtocolError(f"a roster without client {self.client} or with another key than its own; take no part")
        check_roster(self.parameters, keys)
        return keys
