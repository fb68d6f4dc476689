"""Every protection, taken away once: the check that guards it must turn red.

A mutant is an edit of a function's source. The text that it replaces must be there exactly once, so that a mutant
cannot outlive the code that it was made for.
"""

from __future__ import annotations

import inspect
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import test_agreement as of_agreement
import test_certificate as of_certificate
import test_identity as of_identity
import test_secagg_attacks as of_attacks
import test_secagg_attempts as of_attempts
import test_secagg_deployment as of_deployment
import test_secagg_floors as of_floors
import test_secagg_liars as of_liars
import test_secagg_protocol as of_protocol
import test_shamir as of_shamir
from secagg_cohort import remember

from privfl.errors import ProtocolError
from privfl.secagg import agreement, certificate, client, identity, memory, messages, prg, server, session, shamir, unmasking
from privfl.secagg.sharing import ShareKind

RED = (AssertionError, ProtocolError, pytest.fail.Exception, KeyError)

Check = Callable[[], object]


class Edit(NamedTuple):
    owner: Any
    name: str
    old: str
    new: str


def mutate(monkeypatch: pytest.MonkeyPatch, edits: tuple[Edit, ...]) -> None:
    """Carry out the edits, all those of one function together."""
    for owner, name in dict.fromkeys((edit.owner, edit.name) for edit in edits):
        function = inspect.unwrap(getattr(owner, name))
        source = textwrap.dedent(inspect.getsource(function))
        for edit in edits:
            if (edit.owner, edit.name) == (owner, name):
                assert source.count(edit.old) == 1, f"{name} has changed: {edit.old!r} is not there exactly once"
                source = source.replace(edit.old, edit.new)
        namespace: dict[str, Any] = {}
        exec(source, function.__globals__, namespace)
        monkeypatch.setattr(owner, name, namespace[name])
    certificate._certified.cache_clear()


@pytest.fixture(autouse=True)
def _own_certificates() -> Iterator[None]:
    """No certificate of a mutant outlives it."""
    yield
    certificate._certified.cache_clear()


MAJORITY = "if len(consents.signatures) <= self._certificate.clients // 2:"
C, S = client.Client, server.Server
MUTANTS: list[tuple[str, Check, tuple[Edit, ...]]] = [
    (
        "the numbers that clients are told beside the model are not in the context",
        of_attacks.check_whatever_clients_are_told_is_bound_into_the_parameters,
        (Edit(session, "round_context", "    if told:", "    if False:"),),
    ),
    (
        "no mask at all",
        of_protocol.check_masked_vectors_are_uniform,
        (Edit(C, "_mask_vector", "prg.mask(", "(lambda *_, **__: None)("),),
    ),
    (
        "no self mask",
        of_protocol.check_self_masks_hide_who_came_too_late,
        (
            Edit(C, "_mask_vector", "[self_mask_key(self._seed, self._masking)] + [", "["),
            Edit(S, "_masks", "for seed in seeds.values()", "for seed in ()"),
        ),
    ),
    (
        "no mask between clients",
        of_protocol.check_masks_between_clients_hide_survivors,
        (Edit(C, "_mask_vector", "in sorted(self._peers)", "in ()"),),
    ),
    (
        "a seed that is always the same",
        of_protocol.check_masked_vectors_are_unrelated,
        (
            Edit(C, "share_keys", "self._seed = self._entropy(32)", "self._seed = bytes(32)"),
            Edit(
                C, "_mask_with", "return self._mask.shared_key(self._members[peer][1], self._masking, MASK)", "return bytes(32)"
            ),
        ),
    ),
    (
        "polynomials without chance",
        of_shamir.check_fewer_shares_say_nothing,
        (Edit(shamir, "split", "np.vstack([constant, random])", "np.vstack([constant, 0 * random])"),),
    ),
    (
        "a stage is answered twice",
        lambda: of_attacks.check_each_stage_is_answered_once("complete"),
        (Edit(C, "_turn", "if self._over or self._stage is not stage:", "if False:"),),
    ),
    (
        "a refusal is forgotten",
        of_attacks.check_a_refusal_is_final,
        (
            Edit(C, "_turn", "self._stage, self._over = following, True", "pass"),
            Edit(C, "_turn", "self._over = following is Stage.UNMASKING", "self._stage = following"),
        ),
    ),
    (
        "both shares at once",
        of_attacks.check_a_peer_gives_one_kind_of_share,
        (
            Edit(C, "_turn", "if self._over:", "if False:"),
            Edit(C, "_turn", "if self._over or self._stage is not stage:", "if False:"),
        ),
    ),
    (
        "a released sum is forgotten",
        lambda: of_attempts.check_a_client_that_revealed_takes_part_in_no_other_attempt("complete"),
        (Edit(C, "_release", "self._memory.release(self.parameters.run, self.parameters.round)", "pass"),),
    ),
    (
        "a released sum is looked up at the beginning only",
        lambda: of_attempts.check_of_attempts_side_by_side_one_is_answered("complete"),
        (
            Edit(C, "_turn", "if not self._releasing:", "if stage is None:"),
            Edit(C, "_release", "self._memory.release(self.parameters.run, self.parameters.round)", "pass"),
        ),
    ),
    (
        "a signature is forgotten",
        of_attempts.check_a_signature_counts_as_revealing,
        (Edit(C, "consent", "self._release()", "pass"),),
    ),
    (
        "the wrong share",
        of_attacks.check_survivors_give_seeds_and_lost_clients_keys,
        (Edit(C, "reveal", "if owner in survivors else", "if owner not in survivors else"),),
    ),
    (
        "survivors below the floor",
        of_attacks.check_survivors_below_the_floor_are_refused,
        (Edit(C, "_read_survivors", "if told.survivors < least:", "if False:"),),
    ),
    (
        "no quorum",
        of_attacks.check_a_quorum_must_sign,
        (Edit(C, "_check_consents", "if len(consents.signatures) < self._certificate.quorum:", "if False:"),),
    ),
    (
        "signatures of survivors unchecked",
        of_attacks.check_a_forged_signature_is_refused,
        (Edit(C, "_check_consents", "for row in consents.signatures:", "for row in ():"),),
    ),
    (
        "consent to a set that was not told",
        of_attacks.check_signatures_of_another_set_do_not_pass,
        (Edit(C, "_check_consents", "for row in consents.signatures:", "for row in ():"),),
    ),
    (
        "signatures of adverts unchecked",
        of_liars.check_adverts_are_signed,
        (Edit(C, "_check_signatures", "for row in roster.members:", "for row in ():"),),
    ),
    (
        "sharers not bound into masks",
        of_attacks.check_sharers_are_bound_into_masks,
        (
            Edit(client, "masking_id", "if not parameters.active:", "if True:"),
            Edit(server, "masking_id", "if not parameters.active:", "if True:"),
        ),
    ),
    (
        "the model not bound into the session",
        of_attacks.check_a_split_view_of_the_model_is_noise,
        (
            Edit(client, "session_id", "parameters.to_bytes() + model", "parameters.to_bytes()"),
            Edit(server, "session_id", "parameters.to_bytes() + model", "parameters.to_bytes()"),
        ),
    ),
    (
        "answers about a client that was cut off",
        of_attacks.check_a_client_that_is_cut_off_is_not_answered_for,
        (Edit(C, "_may_answer", "return not self._certificate.drawn or", "return True or"),),
    ),
    (
        "a ghost counts as company",
        of_attacks.check_a_ghost_is_no_company,
        (Edit(C, "_may_answer", "holders & self._signers", "holders & frozenset(self._survivors.tolist())"),),
    ),
    (
        "a client without a minimum of its own",
        of_floors.check_a_client_keeps_to_its_minimum,
        (Edit(session.Parameters, "certificate", ", self.minimum_clients, self.cohort)", ")"),),
    ),
    (
        "ghosts fill up a sum",
        of_floors.check_ghosts_do_not_fill_up_a_sum,
        (Edit(C, "_check_consents", "if len(consents.signatures) < self._certificate.quorum:", MAJORITY),),
    ),
    (
        "a server that needs a majority of signatures only",
        of_floors.check_the_server_waits_for_as_many_signatures,
        (Edit(S, "_close_consents", "self._certificate.quorum", "len(self._clients) // 2 + 1"),),
    ),
    (
        "rosters of any length",
        of_floors.check_no_roster_is_longer_than_the_population,
        (Edit(session.Parameters, "certificate", "<= clients <= self.cohort", "<= clients"),),
    ),
    (
        "adverts for every attempt",
        of_floors.check_an_advert_is_good_for_one_attempt,
        (Edit(messages.Advert, "statement", " + parameters", ""),),
    ),
    (
        "keys of the roster unchecked",
        of_floors.check_a_client_looks_at_every_key,
        (Edit(C, "_read_roster", "check_members(members)", "pass"),),
    ),
    (
        "keys of other clients taken",
        of_floors.check_the_server_takes_no_key_twice,
        (Edit(S, "_take_advert", " or self._keys.intersection(keys)", ""),),
    ),
    (
        "holders unchecked",
        of_floors.check_holders_are_distinct_others_of_the_roster,
        (Edit(C, "_open_boxes", "if not {self.client} <= holders", "if False and not {self.client} <= holders"),),
    ),
    (
        "a sparse quorum that counts on corrupt clients",
        of_certificate.check_two_quorums_share_an_honest_client,
        (Edit(certificate, "_sparse_with", "quorum=survivors if active", "quorum=clients // 2 + 1 if active"),),
    ),
    (
        "a sparse graph with any number of survivors",
        of_certificate.check_survivors_of_a_sparse_graph,
        (Edit(certificate, "_sparse_with", "max(clients - lost, least)", "least"),),
    ),
    (
        "corrupt holders that keep nobody together",
        of_certificate.check_the_union_bound_is_that_of_the_chapter,
        (Edit(certificate, "_log2_drawn_apart", "marked = sizes - 1 + corrupt", "marked = sizes - 1"),),
    ),
    (
        "holders not bound into boxes",
        of_attacks.check_holders_cannot_be_chosen_by_the_server,
        (Edit(C, "_box_context", "if self._certificate.drawn", "if False"),),
    ),
    (
        "boxes that are bound to nothing",
        of_agreement.check_a_box_is_bound_to_all_of_its_context,
        (Edit(agreement, "_bound", "+ context", ""),),
    ),
    (
        "seeds unchecked",
        lambda: of_liars.check_a_wrong_secret_is_never_used(ShareKind.SEED),
        (Edit(S, "_is_secret", "return commitment(secret, self._session) == self._commitments[client]", "return True"),),
    ),
    (
        "mask keys unchecked",
        lambda: of_liars.check_a_wrong_secret_is_never_used(ShareKind.MASK_KEY),
        (Edit(S, "_is_secret", "return KeyPair(secret).public == self._adverts[client].mask_key", "return True"),),
    ),
    (
        "commitments unchecked",
        of_liars.check_another_seed_than_committed_is_noticed,
        (Edit(S, "_is_secret", "return commitment(secret, self._session) == self._commitments[client]", "return True"),),
    ),
    (
        "wrong shares not told from right ones",
        lambda: of_liars.check_wrong_shares_cost_their_holders_alone(ShareKind.SEED),
        (Edit(unmasking.Dealt, "fits", "tag(self.session, owner, holder, kind, share) == published", "True"),),
    ),
    (
        "garbage evicts whoever it is for",
        of_liars.check_garbage_boxes_evict_nobody,
        (Edit(C, "_open_boxes", "if len(failed) > allowed:", "if failed:"),),
    ),
    (
        "any number of boxes may be garbage",
        of_attacks.check_a_split_view_of_the_model_is_noise,
        (Edit(C, "_open_boxes", "if len(failed) > allowed:", "if False:"),),
    ),
    (
        "shares that are no elements of the field",
        of_liars.check_garbage_boxes_evict_nobody,
        (Edit(client, "check_dealt", 'if np.frombuffer(shares, "<u2").max() >= PRIME:', "if False:"),),
    ),
    (
        "shares that are not those of their tags",
        of_liars.check_garbage_boxes_evict_nobody,
        (Edit(client, "check_dealt", "if tags(session, owner, holder, shares) != published:", "if False:"),),
    ),
    (
        "rosters of any part of the cohort",
        of_deployment.check_a_cohort_is_not_cut_into_pairs,
        (Edit(session.Parameters, "certificate", "max(self.minimum_clients, self.policy.least_roster(self.cohort))", "2"),),
    ),
    (
        "what is left of a cohort makes a roster",
        of_deployment.check_nobody_is_left_to_begin_again_with,
        (Edit(session.Parameters, "certificate", "max(self.minimum_clients, self.policy.least_roster(self.cohort))", "2"),),
    ),
    (
        "a quorum of the roster and not of the cohort",
        of_deployment.check_two_rosters_of_one_cohort_share_an_honest_signer,
        (Edit(certificate, "_certified", ", policy.quorum(cohort))", ")"),),
    ),
    (
        "nobody of nine is corrupt",
        of_deployment.check_one_of_nine_may_be_corrupt,
        (Edit(certificate.Policy, "corrupt", "max(1, math.ceil(", "max(0, math.floor("),),
    ),
    (
        "half of the neighbours are enough",
        of_deployment.check_one_lie_gives_no_two_secrets,
        (
            Edit(certificate, "_sparse_with", "max(degree // 2 + 1,", "max(2,"),
            Edit(certificate, "_enough", "found.holders < 2 * found.threshold", "3 < 2 * found.threshold"),
        ),
    ),
    (
        "rosters that are searched for before they are counted",
        of_deployment.check_a_roster_is_counted_before_numbers_are_searched_for,
        (Edit(C, "_read_roster", "if len(members) > roster.clients or (all_listed", "if len(members) > 9**9 or (False"),),
    ),
    (
        "attempts that are used twice",
        of_deployment.check_an_attempt_s_number_is_used_once,
        (Edit(memory.Memory, "begin", "if (number, attempt) <= (last.round, last.attempt):", "if False:"),),
    ),
    (
        "a memory that does not outlive its process",
        lambda: of_deployment.check_a_restart_forgets_nothing(Path(tempfile.mkdtemp())),
        (Edit(memory.StoredMemory, "_read", "json.loads(self._path.read_bytes())", '{"format": _FORMAT, "runs": {}}'),),
    ),
    (
        "messages in another's name",
        of_deployment.check_a_message_is_its_sender_s,
        (Edit(S, "receive", "if sender not in (None, peer):", "if False:"),),
    ),
    (
        "one identity under two numbers",
        of_identity.check_nobody_has_two_numbers,
        (Edit(identity.Directory, "__init__", "if key in owners:", "if False:"),),
    ),
    (
        "secrets that are kept",
        of_deployment.check_secrets_do_not_outlive_their_round,
        (Edit(C, "_forget", "vars(self).pop(name, None)", "pass"),),
    ),
    (
        "keystream without a key",
        of_protocol.check_masked_vectors_are_unrelated,
        (Edit(prg.Keystream, "__init__", "AES256(key)", "AES256(bytes(32))"),),
    ),
]


@pytest.mark.parametrize(("check", "edits"), [row[1:] for row in MUTANTS], ids=[row[0] for row in MUTANTS])
def test_a_protection_that_is_taken_away_is_missed(
    check: Check, edits: tuple[Edit, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(monkeypatch)
    check()
    mutate(monkeypatch, edits)
    with pytest.raises(RED):
        check()
