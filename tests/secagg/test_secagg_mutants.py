"""Every protection, taken away once: the check that guards it must turn red.

A mutant is an edit of a function's source. The text that it replaces must be there exactly once, so that a mutant
cannot outlive the code that it was made for.
"""

from __future__ import annotations

import inspect
import itertools
import textwrap
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import test_agreement as of_agreement
import test_encoding as of_encoding
import test_messages as of_messages
import test_secagg_client as of_client
import test_secagg_protocol as of_protocol
import test_secagg_server as of_server
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from privfl.errors import ProtocolError
from privfl.secagg import agreement, client, encoding, messages, prg, server, session

RED = (AssertionError, ProtocolError, pytest.fail.Exception, Warning)

Check = Callable[[], object]


class Edit(NamedTuple):
    owner: Any
    name: str
    old: str
    new: str


def mutate(monkeypatch: pytest.MonkeyPatch, edit: Edit) -> None:
    function = inspect.unwrap(getattr(edit.owner, edit.name))
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(edit.old) == 1, f"{edit.name} has changed: {edit.old!r} is not there exactly once"
    namespace: dict[str, Any] = {}
    module: ModuleType = inspect.getmodule(function)  # type: ignore[assignment]
    exec(source.replace(edit.old, edit.new), vars(module), namespace)
    monkeypatch.setattr(edit.owner, edit.name, namespace[edit.name])


def caught(monkeypatch: pytest.MonkeyPatch, check: Check, *edits: Edit) -> None:
    check()
    for edit in edits:
        mutate(monkeypatch, edit)
    with pytest.raises(RED):
        check()


def without(owner: Any, name: str, condition: str) -> Edit:
    """A check that is never made."""
    return Edit(owner, name, f"if {condition}:", "if False:")


@pytest.mark.parametrize(
    "edit",
    [
        Edit(client.Client, "answer", "prg.mask(", "(lambda *_, **__: None)("),
        Edit(prg.Keystream, "fill", "self._encryptor.update_into(_ZEROS[: scratch.nbytes]", "(lambda a, b: a)(scratch.fill(0)"),
        Edit(prg.Keystream, "fill", "self._encryptor.update_into(_ZEROS[: scratch.nbytes]", "(lambda a, b: a)(scratch.fill(9)"),
        Edit(prg.Keystream, "__init__", "AES256(key)", "AES256(bytes(32))"),
        Edit(
            agreement.KeyPair,
            "shared_key",
            "hkdf(secret, salt=session, info=label + b",
            "hkdf(b'', salt=session, info=b'' and b",
        ),
        Edit(client.Client, "answer", "if peer < self.client", "if False"),
    ],
    ids=["no mask", "zero mask", "constant mask", "keystream without key", "one key for all pairs", "no subtracted mask"],
)
def test_a_vector_that_is_not_hidden(monkeypatch: pytest.MonkeyPatch, edit: Edit) -> None:
    caught(monkeypatch, of_protocol.check_masked_vectors_are_uniform, edit)


def test_masks_that_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    of_protocol.check_masked_vectors_are_unrelated()
    numbers = itertools.cycle((1, 2, 3))
    monkeypatch.setattr(
        agreement.KeyPair,
        "generate",
        lambda: agreement.KeyPair(X25519PrivateKey.from_private_bytes(bytes([next(numbers)]) * 32)),
    )
    with pytest.raises(AssertionError):
        of_protocol.check_masked_vectors_are_unrelated()


@pytest.mark.parametrize(
    "edit",
    [
        Edit(client.Client, "answer", "if self.client < peer", "if self.client != peer"),
        Edit(agreement.KeyPair, "shared_key", "sorted((self.public, peer))", "(self.public, peer)"),
    ],
    ids=["no sign", "no order of the keys"],
)
def test_masks_that_do_not_cancel(monkeypatch: pytest.MonkeyPatch, edit: Edit) -> None:
    caught(monkeypatch, of_protocol.check_masks_cancel, edit)


@pytest.mark.parametrize(
    "edit",
    [
        Edit(session, "session_id", 'global_D.astype("<f4", copy=False).tobytes()', 'b""'),
        Edit(agreement.KeyPair, "shared_key", "salt=session, info=label + b", 'salt=b"", info=label + b'),
    ],
    ids=["model not in the session", "session not in the key"],
)
def test_masks_that_are_not_bound_to_the_model(monkeypatch: pytest.MonkeyPatch, edit: Edit) -> None:
    # The client imported the function by name.
    if edit.name == "session_id":
        caught(monkeypatch, of_protocol.check_a_split_view_is_noise, edit._replace(owner=client), edit._replace(owner=server))
    else:
        caught(monkeypatch, of_protocol.check_a_split_view_is_noise, edit)


@pytest.mark.parametrize(
    "check", [of_client.test_each_stage_is_answered_once, of_client.test_a_client_that_refused_a_roster_answers_no_other]
)
def test_a_client_that_answers_twice(monkeypatch: pytest.MonkeyPatch, check: Check) -> None:
    keeps_its_key = Edit(
        client.Client, "answer", "own, self._keys = self._keys, None", "own = self._keys or KeyPair.generate()"
    )
    caught(monkeypatch, check, without(client.Client, "_leave", "self._stage is not stage"), keeps_its_key)


COUNT = "not parameters.minimum_clients <= len(keys) <= parameters.population"
LOW_ORDER = 'raise ProtocolError(f"public key {peer.hex()}: is a point of low order; only an attacker sends one") from None'
UNCHECKED: list[tuple[str, Check, Edit]] = [
    (
        "own key absent",
        lambda: of_client.test_a_roster_without_the_client_or_with_another_key_for_it_is_refused(None),
        without(client.Client, "_checked", "keys.get(self.client) != own.public"),
    ),
    (
        "own key replaced",
        lambda: of_client.test_a_roster_without_the_client_or_with_another_key_for_it_is_refused(of_client.OTHER),
        without(client.Client, "_checked", "keys.get(self.client) != own.public"),
    ),
    (
        "round of the roster",
        of_client.test_a_roster_of_another_round_or_version_is_refused,
        without(client.Client, "_checked", "roster.round != self.parameters.round"),
    ),
    ("floor", of_client.test_a_roster_below_the_floor_is_refused, without(session, "check_roster", COUNT)),
    (
        "population",
        of_client.test_a_roster_beyond_the_population_is_refused_because_its_sum_could_wrap,
        without(session, "check_roster", COUNT),
    ),
    (
        "one key for two",
        of_client.test_two_clients_with_one_key_are_refused,
        without(session, "check_roster", "len(set(keys.values())) != len(keys)"),
    ),
    (
        "a client twice",
        of_client.test_a_client_listed_twice_is_refused,
        Edit(messages.Roster, "from_bytes", "_check(ascending", "_check(True"),
    ),
    (
        "low order",
        lambda: of_client.test_a_key_that_shares_no_secret_is_refused(of_agreement.LOW_ORDER[0]),
        Edit(agreement.KeyPair, "shared_key", LOW_ORDER, "secret = bytes(32)"),
    ),
    (
        "alias of a key",
        lambda: of_agreement.test_an_alias_of_a_key_is_refused(2**255),
        Edit(of_agreement, "check_public_key", 'or int.from_bytes(key, "little") >= _FIELD', ""),
    ),
    (
        "extra bytes",
        lambda: of_messages.test_anything_short_or_extra_is_refused(of_messages.MASKED),
        Edit(messages, "_open", "_check(length == len(message) - _HEADER.size", "_check(True"),
    ),
    (
        "a vector twice",
        of_server.test_a_refused_vector_leaves_the_sum_as_it_was,
        Edit(server.Server, "_check_sender", "or message.sender in seen", ""),
    ),
    (
        "a stranger's vector",
        of_server.test_a_refused_vector_leaves_the_sum_as_it_was,
        Edit(server.Server, "_check_sender", "message.sender not in self.cohort or", ""),
    ),
    (
        "length of a vector",
        of_server.test_a_refused_vector_leaves_the_sum_as_it_was,
        without(server.Server, "receive_input", "len(masked.words) != len(self._sum_D1)"),
    ),
    (
        "session of a vector",
        of_server.test_a_vector_of_an_old_round_is_refused_even_under_a_new_number,
        without(server.Server, "receive_input", "masked.session != self._session"),
    ),
    (
        "round of a vector",
        of_server.test_a_vector_of_an_old_round_is_refused_even_under_a_new_number,
        without(server.Server, "_check_sender", "message.round != self.parameters.round"),
    ),
    ("a missing vector", of_server.test_a_missing_vector_is_no_sum, without(server.Server, "_check_complete", "missing")),
    (
        "another client's key",
        of_server.test_only_the_cohort_is_let_in_and_each_once,
        without(server.Server, "receive_advert", "advert.public_key in self._keys.values()"),
    ),
    (
        "noise",
        of_server.test_a_forged_vector_makes_noise_and_noise_is_refused,
        without(encoding.FixedPoint, "decode", "max(-int(signed_D.min()), int(signed_D.max())) > limit"),
    ),
    ("weights of zero", of_server.test_weights_of_zero_are_refused, without(encoding.Encoding, "decode", "weight_sum <= 0")),
    (
        "range of a weight",
        lambda: of_encoding.test_a_weight_outside_its_range_is_refused(1.1),
        without(encoding.Encoding, "encode", "not 0 <= weight <= 1"),
    ),
    (
        "not finite",
        lambda: of_encoding.test_what_is_not_finite_is_refused(float("nan"), 0),
        without(encoding.FixedPoint, "encode", "not (math.isfinite(low) and math.isfinite(high))"),
    ),
    (
        "clip",
        of_protocol.test_a_full_population_of_equal_extremes_does_not_wrap,
        Edit(encoding.FixedPoint, "encode", "np.clip(part, -self.bound, self.bound)", "part / 1e29"),
    ),
    (
        "clip in float32",
        of_encoding.test_a_float32_is_clipped_to_the_bound_and_not_to_the_nearest_float32,
        Edit(encoding.FixedPoint, "encode", "part = part.astype(np.float64)", "pass"),
    ),
    (
        "room for the sum",
        of_protocol.test_a_full_population_of_equal_extremes_does_not_wrap,
        Edit(encoding.FixedPoint, "fit", "1 << (largest.bit_length() - 1)", "1 << largest.bit_length()"),
    ),
    (
        "chance in rounding",
        lambda: of_encoding.assert_unbiased(encoding.FixedPoint(8.0, 2**21)),
        Edit(encoding.FixedPoint, "encode", "integers += dither", "pass"),
    ),
]


@pytest.mark.parametrize(("check", "edit"), [row[1:] for row in UNCHECKED], ids=[row[0] for row in UNCHECKED])
def test_a_check_that_is_not_made(monkeypatch: pytest.MonkeyPatch, check: Check, edit: Edit) -> None:
    # ``check_roster`` is imported by name at both ends.
    owners = [client, server, session] if edit.name == "check_roster" else [edit.owner]
    caught(monkeypatch, check, *(edit._replace(owner=owner) for owner in owners))
