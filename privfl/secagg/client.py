"""The client's side of one round: a state machine that neither sends nor receives by itself.

::

    READY --advertise()--> advertise_keys --share_keys(roster)--> share_keys --masked_input(delivery, vector)-->
    masked_input --reveal(survivors)--> DONE                                       against a semi-honest server
    masked_input --consent(survivors)--> consistency_check --reveal(consents)--> DONE       against an active one

Source: Bonawitz et al. 2017, figures 2 and 4; Bell et al. 2020, algorithms 2 and 3 for the sparse graph. ``docs/secagg.md``
lists the additions to them and the reasons.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from privfl.errors import ProtocolError, ThresholdError
from privfl.secagg import graph, prg, shamir
from privfl.secagg.agreement import CHANNEL, MASK, Entropy, KeyPair, commitment, seal, self_mask_key, unseal
from privfl.secagg.certificate import Certificate
from privfl.secagg.framing import SERVER
from privfl.secagg.graph import Clients
from privfl.secagg.identity import ADVERT, SURVIVORS, Directory, Identity
from privfl.secagg.memory import Memory
from privfl.secagg.messages import (
    BOX,
    SHARE,
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
    Table,
    survivors_statement,
)
from privfl.secagg.packing import TYPES, pack
from privfl.secagg.prg import Words
from privfl.secagg.session import Parameters, Stage, check_members, check_model, masking_id, roster_digest, session_id
from privfl.secagg.sharing import ShareKind, check_dealt, share_of, tags

_SERVER: Final = "server"
_SECRETS: Final = ("_channel", "_mask", "_seed", "_channels", "_held")


class Client:
    """One client in one attempt at a round; make a new object for each attempt.

    Guarantees:
        At most one masked vector leaves this object, under its self mask and the masks that it shares with its peers, of whom
        at least ``threshold`` (one less in a complete graph) hold its shares.

        For each client whose shares it holds, it reveals at most one share: of the seed if that client survived, of the mask
        key if not. Against an active server it reveals them only after a quorum signed for exactly this set of survivors.

        Each stage is left before its work begins. After it refused a message, a client sends nothing more except that it
        refused (:meth:`refusal`).

        Once it helped to release a sum, it takes part in no other attempt at that round. The same update in two sums over
        different clients would give away the difference of the sums, which may be one client's update.

        When the round is over for it, the object holds no secret. Python's memory may hold copies until it is used again.

    Edges: a zero vector is masked like any other. A roster, a delivery or a set of survivors is refused if it is too small for
    the certificate. A box that does not open, or whose shares do not fit their tags, is left out. If more boxes fail than there
    may be corrupt clients, the delivery is refused.

    Args:
        client: this client's number, in [0, 2^32 - 1).
        parameters: the round's parameters, from this client's own configuration.
        global_D: the global model that this client was sent, float32, shape (D,).
        memory: the attempts in which this client took part; the same object or file for as long as its identity and the run
            last. A real client needs a :class:`privfl.secagg.memory.StoredMemory`.
        identity: this client's identity, against an active server only.
        directory: all clients' identities, which must not come from the server; against an active server only.
        entropy: source of fresh randomness. It is asked, in this order, for the channel key, the mask key, the seed, the
            polynomials and, if each client draws its own holders, the draw: 32 bytes each.
        threads: number of cores that may expand masks.

    Raises:
        ProtocolError: the number is out of range, the model is no vector, or the identity or directory is missing.
    """

    def __init__(
        self,
        client: int,
        parameters: Parameters,
        global_D: NDArray[np.float32],
        *,
        memory: Memory,
        identity: Identity | None = None,
        directory: Directory | None = None,
        entropy: Entropy = os.urandom,
        threads: int = 1,
    ) -> None:
        if not 0 <= client < SERVER:
            raise ProtocolError(f"client {client}: must be in [0, {SERVER})")
        if parameters.active and (identity is None or directory is None):
            raise ProtocolError(f"client {client}: against an active server it needs an identity and a directory of all")
        check_model(global_D)
        self.client, self.parameters, self._global_D = client, parameters, global_D
        self._identity, self._directory, self._entropy, self._threads = identity, directory, entropy, threads
        self._memory, self._releasing = memory, False
        self.masks_expanded = 0
        """Number of masks that this client expanded."""
        self._stage: Stage | None = None
        self._over = False

    # --- the stages ---------------------------------------------------------------------------------------------------

    def advertise(self) -> bytes:
        """Make an :class:`Advert` with two fresh public keys.

        Raises:
            ProtocolError: the advert was made already, this client took part in this attempt or a later one, or it helped to
                release a sum of this round, or of a later one, in another attempt.
            StorageError: the memory cannot be written; nothing is sent.
        """
        with self._turn(None, Stage.ADVERTISE_KEYS):
            self._memory.begin(self.parameters.run, self.parameters.round, self.parameters.attempt)
            self._channel, self._mask = KeyPair(self._entropy(32)), KeyPair(self._entropy(32))
            advert = Advert(self.parameters.round, self.client, self._channel.public, self._mask.public)
            if self._identity is not None and self.parameters.active:
                signature = self._identity.sign(ADVERT, advert.statement(self.parameters.digest()))
                advert = Advert(advert.round, advert.sender, advert.channel_key, advert.mask_key, signature)
            return advert.to_bytes()

    def share_keys(self, roster: bytes) -> bytes:
        """Answer the :class:`Roster` with :class:`Shares` of a fresh seed and of the mask key, for this client's neighbours.

        Raises:
            ProtocolError: out of turn, or the roster is refused; nothing is sent.
            ThresholdError: the roster is too small or too large, or there is no certificate for its size.
        """
        with self._turn(Stage.ADVERTISE_KEYS, Stage.SHARE_KEYS):
            self._read_roster(Roster.from_bytes(roster))
            self._seed = self._entropy(32)
            polynomials = self._entropy(32)
            self._holders = self._choose_holders()
            shares = shamir.split(
                [self._seed, self._mask.private], len(self._holders), self._certificate.threshold, polynomials
            ).astype("<u2")
            boxes = np.empty(len(self._holders) - 1, BOX)
            context = self._box_context(self._holders)
            self._held: dict[int, tuple[bytes, frozenset[int]]] = {}
            place, own_tags = 0, b""
            for holder, row in zip(self._holders.tolist(), shares, strict=True):
                share = row.tobytes()
                published = tags(self._session, self.client, holder, share)
                if holder == self.client:
                    own_tags = published
                    self._held[holder] = (share, frozenset(self._holders.tolist()) - {holder})
                    continue
                sealed = seal(self._channel_with(holder), share, self.client, holder, context)
                boxes[place] = (holder, sealed, published)
                place += 1
            head = (self.parameters.round, self.client, self._session)
            return Shares(*head, commitment(self._seed, self._session), own_tags, boxes).to_bytes()

    def masked_input(self, delivery: bytes, words_D: Words) -> bytes:
        """Answer the :class:`Delivery` with a :class:`MaskedInput` of the vector.

        Args:
            delivery: the server's message.
            words_D: the encoded vector, of ``parameters.length`` words; it is masked in place.

        Raises:
            ProtocolError: out of turn, the delivery is refused, or the vector has another length or type; nothing is sent.
            ThresholdError: too few holders of this client's shares are left.
        """
        with self._turn(Stage.SHARE_KEYS, Stage.MASKED_INPUT):
            if words_D.shape != (self.parameters.length,) or words_D.dtype != TYPES[self.parameters.bits]:
                raise ProtocolError(
                    f"a vector of shape {words_D.shape} and type {words_D.dtype}: must be ({self.parameters.length},) "
                    f"{TYPES[self.parameters.bits]}"
                )
            self._read_delivery(Delivery.from_bytes(delivery))
            self._mask_vector(words_D)
            self.masks_expanded = 1 + len(self._peers)
            packed = pack(words_D, self.parameters.bits)
            return MaskedInput(self.parameters.round, self.client, self._session, packed).to_bytes()

    def consent(self, survivors: bytes) -> bytes:
        """Answer the :class:`Survivors`, who must all be listed, with a :class:`Consent`; against an active server only.

        Raises:
            ProtocolError: out of turn, or the set is refused; nothing is sent, and nothing will be revealed.
            ThresholdError: there are too few survivors.
            StorageError: the memory cannot be written; nothing is sent.
        """
        with self._turn(Stage.MASKED_INPUT, Stage.CONSISTENCY_CHECK):
            if not self.parameters.active:
                raise ProtocolError("survivors are signed against an active server only; reveal at once", peer=_SERVER)
            told = self._read_survivors(survivors)
            assert self._identity is not None
            self._release()
            signature = self._identity.sign(SURVIVORS, told.statement())
            return Consent(self.parameters.round, self.client, self._session, signature).to_bytes()

    def reveal(self, request: bytes) -> bytes:
        """Answer the :class:`Survivors`, or against an active server the :class:`Consents`, with a :class:`Reveal`.

        Raises:
            ProtocolError: out of turn, or the request is refused; nothing is revealed.
            ThresholdError: there are too few survivors or signatures.
            StorageError: the memory cannot be written; nothing is revealed.
        """
        before = Stage.CONSISTENCY_CHECK if self.parameters.active else Stage.MASKED_INPUT
        with self._turn(before, Stage.UNMASKING):
            if self.parameters.active:
                self._check_consents(Consents.from_bytes(request))
            else:
                self._read_survivors(request)
            self._release()
            survivors = frozenset(self._survivors.tolist())
            owners = [owner for owner, (_, holders) in sorted(self._held.items()) if self._may_answer(holders)]
            shares = np.empty(len(owners), SHARE)
            for place, owner in enumerate(owners):
                kind = ShareKind.SEED if owner in survivors else ShareKind.MASK_KEY
                both, _ = self._held[owner]
                shares[place] = (owner, kind, np.frombuffer(share_of(both, kind), "<u2"))
            return Reveal(self.parameters.round, self.client, self._session, shares).to_bytes()

    def refusal(self, error: ProtocolError) -> bytes:
        """Make the :class:`Refusal` to send to the server if a stage raised, so that it does not wait in vain."""
        stage = list(Stage).index(Stage(error.stage or Stage.ADVERTISE_KEYS)) + 1
        at_fault = SERVER if error.peer == _SERVER else self.client
        return Refusal(self.parameters.round, self.client, self.parameters.attempt, stage, at_fault, error.reason).to_bytes()

    # --- checks -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _turn(self, stage: Stage | None, following: Stage) -> Iterator[None]:
        """Enter the next stage; an error ends the round for this client and names the stage."""
        if self._over or self._stage is not stage:
            reason = "took no further part" if self._over else f"is at {self._stage or 'the beginning'}"
            raise ProtocolError(
                f"this client {reason}: each stage is answered once; begin a new round",
                stage=following,
                peer=f"client {self.client}",
            )
        if not self._releasing:
            with self._blaming(following, f"client {self.client}"):
                self._memory.check(self.parameters.run, self.parameters.round)
        self._stage, self._over = following, True
        try:
            with self._blaming(following, _SERVER if stage is not None else f"client {self.client}"):
                yield
            self._over = following is Stage.UNMASKING
        finally:
            if self._over:
                self._forget()

    @contextmanager
    def _blaming(self, stage: Stage, peer: str) -> Iterator[None]:
        """Name the stage in an error, and the peer at fault unless the error names one already."""
        try:
            yield
        except ProtocolError as error:
            raise type(error)(error.reason, stage=stage, peer=error.peer or peer) from None

    def _forget(self) -> None:
        """Drop all secrets of the round. Their bytes stay in memory until Python uses it again."""
        for name in _SECRETS:
            vars(self).pop(name, None)

    def _release(self) -> None:
        """Record that this client helps to release a sum; it takes part in no other attempt at the round from here on.

        It is called before the answer is made.
        """
        if not self._releasing:
            self._memory.release(self.parameters.run, self.parameters.round)
        self._releasing = True

    def _read_roster(self, roster: Roster) -> None:
        self._check_round(roster.round)
        members = roster.members
        own = members[members["client"] == self.client]
        keys = [(row["channel_key"].tobytes(), row["mask_key"].tobytes()) for row in own]
        if keys != [(self._channel.public, self._mask.public)]:
            raise ProtocolError("a roster without this client or with other keys than its own; take no part")
        # Members are counted before the search for a certificate, which takes time.
        all_listed = self.parameters.active or self.parameters.policy.graph == "complete"
        if len(members) > roster.clients or (all_listed and len(members) < roster.clients):
            raise ProtocolError(f"a roster that lists {len(members)} of {roster.clients} clients: must list {roster.clients}")
        self._certificate: Certificate = self.parameters.certificate(roster.clients)
        whole = self._certificate.whole
        expected = roster.clients if whole else self._certificate.holders
        if len(members) != expected:
            raise ProtocolError(f"a roster that lists {len(members)} of {roster.clients} clients: must list {expected}")
        if whole and roster_digest(members) != roster.digest:
            raise ProtocolError("a roster with the digest of another one; discard the round")
        check_members(members)
        self._check_signatures(roster)
        self._members = {int(row["client"]): (row["channel_key"].tobytes(), row["mask_key"].tobytes()) for row in members}
        self._session = session_id(self.parameters, roster.clients, roster.digest, self._global_D)
        self._channels: dict[int, bytes] = {}

    def _check_signatures(self, roster: Roster) -> None:
        if (roster.members.dtype == SIGNED_MEMBER) != self.parameters.active:
            raise ProtocolError("adverts must be signed against an active server, and against no other; use one configuration")
        if self._directory is None or not self.parameters.active:
            return
        digest = self.parameters.digest()
        for row in roster.members:
            client = int(row["client"])
            advert = Advert(roster.round, client, row["channel_key"].tobytes(), row["mask_key"].tobytes())
            self._directory.verify(client, ADVERT, advert.statement(digest), row["signature"].tobytes())

    def _choose_holders(self) -> Clients:
        """The holders of this client's shares, itself included, ascending: holder number x is the x-th."""
        everyone = np.array(sorted(self._members), np.uint32)
        if not self._certificate.drawn:
            return everyone
        chosen = graph.drawn(everyone.tolist(), self.client, self._certificate.neighbours, self._entropy(32))
        return np.sort(np.append(chosen, np.uint32(self.client)))

    def _read_delivery(self, delivery: Delivery) -> None:
        self._check_round(delivery.round)
        self._check_session(delivery.session)
        drawn = self._certificate.drawn
        degree = self._certificate.neighbours if drawn else 0
        if delivery.boxes.dtype["holders"].shape != (degree,):
            raise ProtocolError(f"boxes with {delivery.boxes.dtype['holders'].shape[0]} holders each: must be {degree}")
        sharers, senders = frozenset(delivery.sharers.tolist()), frozenset(delivery.boxes["client"].tolist())
        if not sharers <= self._members.keys() or (self.client in sharers) != self.parameters.active:
            raise ProtocolError("sharers that are not of its roster, or without this client; discard the round")
        others = sharers - {self.client}
        if not senders <= others or (not drawn and senders != others):
            raise ProtocolError("boxes of others than those who shared their keys; discard the round")
        holders = frozenset(self._holders.tolist()) & others
        # In a complete graph this client holds one share of its own secrets itself.
        least = self._certificate.threshold - (self._certificate.graph == "complete")
        if len(holders) < least:
            raise ThresholdError(
                f"{len(holders)} others are left who hold this client's shares: must be at least {least}; begin the round again"
            )
        self._peers = holders | senders
        self._open_boxes(delivery.boxes)
        self._masking = masking_id(self.parameters, self._session, delivery.sharers)
        self._sharers = sharers | {self.client}

    def _open_boxes(self, boxes: Table) -> None:
        """Open the boxes that peers sealed for this client, and keep their shares.

        A box that fails costs its sender a share, and nobody the round. A client with another roster, another model or other
        parameters than its peers can open no box. So the delivery is refused if more boxes fail than there may be corrupt
        clients.

        Raises:
            ProtocolError: more boxes fail, or the holders that come with a box are not allowed ones.
        """
        failed: list[str] = []
        for row in boxes:
            sender, holders, context = int(row["client"]), frozenset[int](), self._session
            if self._certificate.drawn:
                holders = frozenset(row["holders"].tolist())
                if not {self.client} <= holders <= self._members.keys() - {sender}:
                    raise ProtocolError(f"holders of client {sender} that are not others of the roster, this client among them")
                context = self._box_context(np.array(sorted({*holders, sender}), np.uint32))
            try:
                shares = unseal(self._channel_with(sender), row["box"].tobytes(), sender, self.client, context)
                check_dealt(self._session, sender, self.client, shares, row["tags"].tobytes())
            except ProtocolError as error:
                failed.append(f"client {sender}: {error.reason}")
                continue
            self._held[sender] = (shares, holders)
        allowed = self.parameters.policy.corrupt(self._certificate.clients)
        if len(failed) > allowed:
            raise ProtocolError(
                f"{len(failed)} of {len(boxes)} boxes hold no shares: must be at most {allowed}; roster, parameters or "
                f"global model probably differ, discard the round ({failed[0]})"
            )

    def _box_context(self, holders: Clients) -> bytes:
        """Context of a box: the session id and, if each client drew its own, the holders of the sender's shares."""
        return self._session + (holders.astype("<u4").tobytes() if self._certificate.drawn else b"")

    def _read_survivors(self, message: bytes) -> Survivors:
        told = Survivors.from_bytes(message)
        self._check_round(told.round)
        self._check_session(told.session)
        listed = frozenset(told.clients.tolist())
        whole = self._certificate.whole
        if self.client not in listed:
            raise ProtocolError("a set of survivors without this client, whose vector was sent; discard the round")
        if not listed <= self._sharers:
            raise ProtocolError("a survivor that is not of the roster or did not share its keys; discard the round")
        if (whole and told.survivors != len(listed)) or not len(listed) <= told.survivors <= self._certificate.clients:
            raise ProtocolError(f"{len(listed)} survivors are listed, {told.survivors} are counted; discard the round")
        least = self._certificate.survivors
        if told.survivors < least:
            raise ThresholdError(f"{told.survivors} survivors: must be at least {least}; skip the round")
        self._survivors = told.clients
        return told

    def _check_consents(self, consents: Consents) -> None:
        self._check_round(consents.round)
        self._check_session(consents.session)
        survivors = frozenset(self._survivors.tolist())
        if not frozenset(consents.signatures["client"].tolist()) <= survivors:
            raise ProtocolError("a signature of a client that did not survive; discard the round")
        if len(consents.signatures) < self._certificate.quorum:
            raise ThresholdError(
                f"{len(consents.signatures)} signatures for this set of survivors: must be at least "
                f"{self._certificate.quorum}; skip the round"
            )
        statement = survivors_statement(self._session, self._survivors)
        assert self._directory is not None
        for row in consents.signatures:
            self._directory.verify(int(row["client"]), SURVIVORS, statement, row["signature"].tobytes())
        self._signers = frozenset(consents.signatures["client"].tolist())

    def _may_answer(self, holders: frozenset[int]) -> bool:
        """Whether enough of the holders that a client drew signed for the survivors, so that its share may be revealed.

        If each client drew its own holders, a server that may choose who is lost could otherwise cut a few clients off from all
        others and learn their sum (:mod:`privfl.secagg.certificate`). It is not enough that holders are listed as survivors.
        The server may replay the advert of an absent client from another round, in which that client was lost and its mask key
        was revealed. The absent client does not sign in this session.
        """
        return not self._certificate.drawn or len(holders & self._signers) >= self._certificate.threshold

    def _check_round(self, found: int) -> None:
        if found != self.parameters.round:
            raise ProtocolError(f"a message of round {found}: must be of round {self.parameters.round}")

    def _check_session(self, found: bytes) -> None:
        if found != self._session:
            raise ProtocolError(
                "a message of another session: its roster, parameters or global model differ; discard the round"
            )

    def _channel_with(self, peer: int) -> bytes:
        if peer not in self._channels:
            self._channels[peer] = self._channel.shared_key(self._members[peer][0], self._session, CHANNEL)
        return self._channels[peer]

    def _mask_vector(self, words_D: Words) -> None:
        # The client with the smaller number adds the pair's mask, the other subtracts it: it cancels in the sum over both.
        shared = {peer: self._mask_with(peer) for peer in sorted(self._peers)}
        prg.mask(
            words_D,
            added=[self_mask_key(self._seed, self._masking)] + [key for peer, key in shared.items() if self.client < peer],
            subtracted=[key for peer, key in shared.items() if peer < self.client],
            threads=self._threads,
        )

    def _mask_with(self, peer: int) -> bytes:
        return self._mask.shared_key(self._members[peer][1], self._masking, MASK)
