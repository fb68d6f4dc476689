"""The server's side of one round: a state machine that neither sends nor receives by itself.

In each stage the server has a request for every client that it waits for (none in the first stage), receives their answers,
and closes the stage with the clients that answered::

    while server.stage is not None:
        for client in server.awaited:
            ... server.request(client) ... server.receive(answer)
        server.close()
    server.result()
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from privfl.errors import ConfigError, ProtocolError, ThresholdError
from privfl.secagg import graph
from privfl.secagg.agreement import Entropy, KeyPair, check_public_key, commitment, self_mask_key
from privfl.secagg.boxes import Boxes
from privfl.secagg.certificate import Certificate
from privfl.secagg.framing import Kind, kind_of, sender_of
from privfl.secagg.graph import Clients
from privfl.secagg.identity import ADVERT, SURVIVORS, Directory
from privfl.secagg.messages import (
    MEMBER,
    SIGNATURE,
    SIGNED_MEMBER,
    Advert,
    Consent,
    Consents,
    Delivery,
    MaskedInput,
    Refusal,
    Reveal,
    Roster,
    Shares,
    Survivors,
    survivors_statement,
)
from privfl.secagg.packing import TYPES, unpack
from privfl.secagg.prg import Words
from privfl.secagg.session import Parameters, Stage, check_model, masking_id, roster_digest, session_id
from privfl.secagg.sharing import ShareKind
from privfl.secagg.unmasking import Dealt, RevealedShares, pairwise, recover, remove_masks

_Answer = Advert | Shares | MaskedInput | Consent | Reveal | Refusal


@dataclass(frozen=True)
class Unmasked:
    """Result of a round: the sum of the survivors' vectors modulo 2^bits, and the survivors."""

    words_D: Words
    survivors: tuple[int, ...]


class Server:
    """The server in one attempt at a round; make a new object for each attempt.

    Guarantees: a sum is returned only if it is the exact sum of the vectors of exactly ``survivors``, as far as the survivors'
    own vectors and secrets are honest. Every seed is checked against its commitment, and every mask key against its public key.
    A wrong share costs the shares of its holder and nobody else's, as long as enough are left. A message that is refused
    leaves the server unchanged. Masked vectors are added as they arrive and not kept, so that memory is of the order of one
    vector and of the boxes of shares on their way.

    Edges: a client that does not answer in a stage is out of the round. With fewer clients than the certificate requires, the
    round ends.

    Args:
        parameters: the round's parameters.
        invited: the clients that may take part.
        global_D: the global model that was sent to them, float32, shape (D,).
        directory: all clients' identities, if the parameters are for an active server.
        entropy: source of fresh randomness; it is asked for 32 bytes for the ring's order if this server chooses the graph.
        threads: number of cores that may expand masks.

    Raises:
        ProtocolError: the model is no vector, or there is no directory against an active server.
        ConfigError: more clients were invited than the cohort that the clients know of has.
    """

    def __init__(
        self,
        parameters: Parameters,
        invited: Collection[int],
        global_D: NDArray[np.float32],
        *,
        directory: Directory | None = None,
        entropy: Entropy = os.urandom,
        threads: int = 1,
    ) -> None:
        check_model(global_D)
        if parameters.active and directory is None:
            raise ProtocolError("against an active server there must be a directory of all clients' identities")
        if len(invited) > parameters.cohort:
            raise ConfigError(f"{len(invited)} clients are invited: must be at most the cohort of {parameters.cohort}")
        self.parameters, self._global_D = parameters, global_D
        self._directory, self._entropy, self._threads = directory, entropy, threads
        self.stage: Stage | None = Stage.ADVERTISE_KEYS
        """The stage whose answers the server waits for; None when the round is over."""
        self.awaited = frozenset(invited)
        """The clients whose answers it waits for."""
        self.masks_expanded = 0
        """Number of masks that the server expanded to unmask the sum."""
        self.releasing = False
        """Whether clients were asked to reveal shares, or to sign for survivors so that others reveal theirs. From then on the
        sum counts as released, whatever the outcome of this attempt, and the round must not be begun again."""
        self.refusals: dict[int, Refusal] = {}
        """Each client that refused to go on, and the reason that it gives, which nobody checked."""
        self.liars: dict[int, ProtocolError] = {}
        """Each client that revealed a share that it was not dealt; known when the round is over."""
        self._answered: set[int] = set()
        self._keys: set[bytes] = set()
        self._adverts: dict[int, Advert] = {}
        self._shares: dict[int, Shares] = {}
        self._signatures: dict[int, bytes] = {}
        self._reveals: list[RevealedShares] = []
        self._sum_D: Words = np.zeros(parameters.length, TYPES[parameters.bits])
        self._result: Unmasked | None = None

    @property
    def certificate(self) -> Certificate | None:
        """The certificate of this round; None until the first stage is closed."""
        return getattr(self, "_certificate", None)

    @property
    def answered(self) -> frozenset[int]:
        """The clients that answered in this stage."""
        return frozenset(self._answered)

    # --- the three verbs ----------------------------------------------------------------------------------------------

    def request(self, client: int) -> bytes | None:
        """The message to send to a client in this stage; None in the first, which the client begins."""
        match self.stage:
            case None | Stage.ADVERTISE_KEYS:
                return None
            case Stage.SHARE_KEYS:
                return self._roster_for(client)
            case Stage.MASKED_INPUT:
                return self._delivery_for(client)
            case Stage.CONSISTENCY_CHECK:
                return self._survivors_for(client)
            case Stage.UNMASKING:
                return self._consents if self.parameters.active else self._survivors_for(client)
            case _:
                assert_never(self.stage)

    def receive(self, peer: int, message: bytes) -> None:
        """Receive one client's answer.

        Args:
            peer: the client that sent it, as the transport authenticated it.
            message: its message.

        Raises:
            ProtocolError: the message is damaged, in another client's name, out of turn, of another round or session, from a
                client that is not awaited, a second answer, or invalid. The client is out unless it sends a valid answer before
                the stage is closed.
        """
        with self._blaming(f"client {peer}"):
            if self.stage is None:
                raise ProtocolError("came after the round was over; begin a new one")
            sender = sender_of(message)
            if sender not in (None, peer):
                raise ProtocolError(f"sent a message in the name of sender {sender}: must be in its own; it is refused")
            if kind_of(message) == Kind.REFUSAL:
                self._take_refusal(Refusal.from_bytes(message))
                return
            match self.stage:
                case Stage.ADVERTISE_KEYS:
                    self._take_advert(Advert.from_bytes(message))
                case Stage.SHARE_KEYS:
                    self._take_shares(Shares.from_bytes(message))
                case Stage.MASKED_INPUT:
                    self._take_input(MaskedInput.from_bytes(message))
                case Stage.CONSISTENCY_CHECK:
                    self._take_consent(Consent.from_bytes(message))
                case Stage.UNMASKING:
                    self._take_reveal(Reveal.from_bytes(message))
                case _:
                    assert_never(self.stage)

    def close(self) -> None:
        """End the stage with the clients that answered.

        Raises:
            ThresholdError: too few answered; the round is over. It may be begun again with fresh keys unless ``releasing``.
            ProtocolError: the round was over already; or the revealed shares of a client do not make its secret, and the round
                is over.
        """
        stage, self.stage = self.stage, None
        if stage is None:
            raise ProtocolError("the round is over; begin a new one")
        answered, self._answered = frozenset(self._answered), set()
        with self._blaming(None, stage):
            match stage:
                case Stage.ADVERTISE_KEYS:
                    self._close_adverts(answered)
                case Stage.SHARE_KEYS:
                    self._close_shares(answered)
                case Stage.MASKED_INPUT:
                    self._require(answered, self._certificate.survivors, "sent a masked vector")
                    self.survivors = answered
                    self._survivors = np.array(sorted(answered), np.uint32)
                case Stage.CONSISTENCY_CHECK:
                    self._close_consents(answered)
                case Stage.UNMASKING:
                    self._unmask()
                case _:
                    assert_never(stage)
        self.awaited = answered
        following = self.parameters.stages.index(stage) + 1
        self.stage = self.parameters.stages[following] if following < len(self.parameters.stages) else None
        self.releasing |= self.stage in (Stage.CONSISTENCY_CHECK, Stage.UNMASKING)

    def result(self) -> Unmasked:
        """The sum and the survivors.

        Raises:
            ProtocolError: the round is not over, or it ended without a sum.
        """
        if self._result is None:
            raise ProtocolError("there is no sum: the round is not over, or it was given up")
        return self._result

    def _take_refusal(self, refusal: Refusal) -> None:
        self._check_sender(refusal)
        if refusal.attempt != self.parameters.attempt:
            raise ProtocolError(f"refuses attempt {refusal.attempt}: this one is {self.parameters.attempt}")
        self.refusals[refusal.sender] = refusal
        self.awaited -= {refusal.sender}

    # --- keys ---------------------------------------------------------------------------------------------------------

    def _take_advert(self, advert: Advert) -> None:
        self._check_sender(advert)
        if bool(advert.signature) != self.parameters.active:
            raise ProtocolError("adverts must be signed against an active server, and against no other; use one configuration")
        if self._directory is not None and self.parameters.active:
            self._directory.verify(advert.sender, ADVERT, advert.statement(self.parameters.digest()), advert.signature)
        keys = (advert.channel_key, advert.mask_key)
        for key in keys:
            check_public_key(key)
        if keys[0] == keys[1] or self._keys.intersection(keys):
            raise ProtocolError("sent a key twice or another client's: must be two of its own; it is left out")
        self._keys.update(keys)
        self._adverts[advert.sender] = advert
        self._answered.add(advert.sender)

    def _close_adverts(self, answered: frozenset[int]) -> None:
        self._certificate = self.parameters.certificate(len(answered))
        signed = self.parameters.active
        self._members = np.empty(len(answered), SIGNED_MEMBER if signed else MEMBER)
        self._clients = np.array(sorted(answered), np.uint32)
        for place, client in enumerate(self._clients.tolist()):
            advert = self._adverts[client]
            row = (client, advert.channel_key, advert.mask_key)
            self._members[place] = (*row, advert.signature) if signed else row
        self._digest = roster_digest(self._members)
        self._session = session_id(self.parameters, len(answered), self._digest, self._global_D)
        if self._certificate.whole:
            self._whole_roster = Roster(self.parameters.round, len(answered), self._digest, self._members).to_bytes()
        else:
            degree = self._certificate.neighbours
            self._neighbours = graph.circulant(self._clients.tolist(), degree, self._entropy(32))

    def _roster_for(self, client: int) -> bytes:
        if self._certificate.whole:
            return self._whole_roster
        listed = np.searchsorted(self._clients, np.sort(np.append(self._neighbours[client], np.uint32(client))))
        return Roster(self.parameters.round, len(self._clients), self._digest, self._members[listed]).to_bytes()

    # --- shares -------------------------------------------------------------------------------------------------------

    def _take_shares(self, shares: Shares) -> None:
        self._check_sender(shares, shares.session)
        receivers = shares.boxes["client"]
        if shares.sender in receivers or not np.isin(receivers, self._clients).all():
            raise ProtocolError("sent boxes for itself or for strangers; it is left out")
        if len(receivers) != self._certificate.neighbours or (
            not self._certificate.whole and not np.array_equal(receivers, self._neighbours[shares.sender])
        ):
            raise ProtocolError(
                f"sent {len(receivers)} boxes: must be one for each of {self._certificate.neighbours} neighbours"
            )
        self._shares[shares.sender] = shares
        self._answered.add(shares.sender)

    def _close_shares(self, answered: frozenset[int]) -> None:
        self._require(answered, self._certificate.survivors, "shared their keys")
        self._sharers = answered
        senders = sorted(answered)
        receivers = [self._shares[sender].boxes["client"] for sender in senders]
        self._everyone = np.array(senders, np.uint32)
        if self._certificate.drawn:
            self._neighbours = dict(zip(senders, receivers, strict=True))
            self._peers = graph.united(self._neighbours)
        elif not self._certificate.whole:
            self._peers = {
                sender: found[np.isin(found, self._everyone)] for sender, found in zip(senders, receivers, strict=True)
            }
        self._boxes = Boxes({sender: self._shares[sender] for sender in senders})
        self._masking = masking_id(self.parameters, self._session, self._everyone)
        self._commitments = {sender: self._shares[sender].commitment for sender in senders}
        self._shares.clear()

    def _peers_of(self, client: int) -> Clients:
        """The peers of a client: those that shared their keys and mask with it."""
        if self._certificate.graph == "complete":
            others: Clients = self._everyone[self._everyone != client]
            return others
        return self._peers[client]

    def _delivery_for(self, client: int) -> bytes:
        drawn = self._certificate.drawn
        boxes = self._boxes.to(client, self._neighbours if drawn else None, self._certificate.neighbours if drawn else 0)
        sharers = self._everyone if self.parameters.active else self._peers_of(client)
        return Delivery(self.parameters.round, self._session, sharers, boxes).to_bytes()

    # --- vectors ------------------------------------------------------------------------------------------------------

    def _take_input(self, masked: MaskedInput) -> None:
        self._check_sender(masked, masked.session)
        if len(masked.packed) != self.parameters.packed_bytes:
            raise ProtocolError(
                f"sent a vector of {len(masked.packed)} bytes: must be {self.parameters.packed_bytes}; it is left out"
            )
        words_D = unpack(masked.packed, self.parameters.length, self.parameters.bits)
        np.add(self._sum_D, words_D, out=self._sum_D)
        self._answered.add(masked.sender)

    def _survivors_for(self, client: int) -> bytes:
        listed = self._survivors
        if not self._certificate.whole:
            near = np.append(self._peers[client], np.uint32(client))
            listed = listed[np.isin(listed, near)]
        return Survivors(self.parameters.round, self._session, len(self._survivors), listed).to_bytes()

    # --- consent ------------------------------------------------------------------------------------------------------

    def _take_consent(self, consent: Consent) -> None:
        self._check_sender(consent, consent.session)
        statement = survivors_statement(self._session, self._survivors)
        assert self._directory is not None
        self._directory.verify(consent.sender, SURVIVORS, statement, consent.signature)
        self._signatures[consent.sender] = consent.signature
        self._answered.add(consent.sender)

    def _close_consents(self, answered: frozenset[int]) -> None:
        self._require(answered, self._certificate.quorum, "consented")
        signatures = np.empty(len(answered), SIGNATURE)
        for place, client in enumerate(sorted(answered)):
            signatures[place] = (client, self._signatures[client])
        self._consents = Consents(self.parameters.round, self._session, signatures).to_bytes()

    # --- unmasking ----------------------------------------------------------------------------------------------------

    def _take_reveal(self, reveal: Reveal) -> None:
        self._check_sender(reveal, reveal.session)
        owner_R, point_R = self._boxes.points(reveal.sender, self._holders_of(reveal.sender))
        owners, kinds = reveal.shares["client"], reveal.shares["kind"]
        if not np.isin(owners, owner_R).all():
            raise ProtocolError("revealed shares that it was never sent; they are refused")
        if not np.array_equal(kinds == ShareKind.SEED, np.isin(owners, self._survivors)):
            raise ProtocolError("revealed a share of the wrong kind: must be a survivor's seed or a lost client's key; refused")
        self._reveals.append(
            RevealedShares(
                owners.astype(np.uint32),
                np.full(len(owners), reveal.sender, np.uint32),
                point_R[np.searchsorted(owner_R, owners)],
                reveal.shares["share"].astype(np.uint16),
            )
        )
        self._answered.add(reveal.sender)

    def _holders_of(self, owner: int) -> Clients:
        """The holders of a client's shares, itself excluded."""
        return self._clients[self._clients != owner] if self._certificate.graph == "complete" else self._neighbours[owner]

    def _unmask(self) -> None:
        lost = sorted(self._sharers - self.survivors)
        survivors_of = {client: [peer for peer in self._peers_of(client).tolist() if peer in self.survivors] for client in lost}
        # Masks between two lost clients are not in the sum.
        needed = [client for client in lost if survivors_of[client]]
        revealed = RevealedShares.joined(self._reveals)
        self._reveals = []
        dealt = Dealt(self._session, frozenset(self.survivors), self._boxes.published, self._is_secret)
        secrets, self.liars = recover(revealed, [*sorted(self.survivors), *needed], self._certificate.threshold, dealt)
        seeds = {client: secrets[client] for client in sorted(self.survivors)}
        pairs = {client: KeyPair(secrets[client]) for client in needed}
        public = {client: self._adverts[client].mask_key for client in self.survivors}
        self.masks_expanded = remove_masks(self._sum_D, self._masks(seeds, pairs, survivors_of, public), self._threads)
        spare = 8 * self._sum_D.itemsize - self.parameters.bits
        if spare:
            self._sum_D &= self._sum_D.dtype.type((1 << self.parameters.bits) - 1)
        self._result = Unmasked(self._sum_D, tuple(sorted(self.survivors)))

    def _is_secret(self, client: int, secret: bytes) -> bool:
        """Whether this is the seed to which a survivor committed itself, or the mask key of a lost client."""
        if client in self.survivors:
            return commitment(secret, self._session) == self._commitments[client]
        return KeyPair(secret).public == self._adverts[client].mask_key

    def _masks(
        self, seeds: dict[int, bytes], pairs: dict[int, KeyPair], survivors_of: dict[int, list[int]], public: dict[int, bytes]
    ) -> Iterable[tuple[bytes, bool]]:
        for seed in seeds.values():
            yield self_mask_key(seed, self._masking), True
        yield from pairwise(pairs, survivors_of, public, self._masking)

    # --- checks -------------------------------------------------------------------------------------------------------

    def _require(self, answered: frozenset[int], least: int, deed: str) -> None:
        if len(answered) < least:
            refused = "".join(f"; client {one} refused: {said.reason}" for one, said in sorted(self.refusals.items())[:1])
            raise ThresholdError(
                f"{len(answered)} clients {deed}: must be at least {least}; "
                + ("skip the round" if self.releasing else "begin the round again or skip it")
                + refused
            )

    def _check_sender(self, message: _Answer, session: bytes | None = None) -> None:
        if message.round != self.parameters.round:
            raise ProtocolError(f"sent a message of round {message.round}: must be of round {self.parameters.round}")
        if message.sender not in self.awaited or message.sender in self._answered:
            raise ProtocolError("is not awaited or answered twice; its message is refused")
        if session is not None and session != self._session:
            raise ProtocolError("is in another session: its roster, parameters or global model differ; it is left out")

    @contextmanager
    def _blaming(self, peer: str | None, stage: Stage | None = None) -> Iterator[None]:
        """Name the stage in an error, and the sender of the message."""
        try:
            yield
        except ProtocolError as error:
            raise type(error)(error.reason, stage=stage or self.stage, peer=error.peer or peer) from None
