"""What the custodians state of a round's keys: checked by hospitals, aggregator and auditors."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.charters import CharterKit, make_charter_kit

from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import FedHelpError, MalformedMessage, SignatureRefused
from fedhelp_secure.sealing import UnsealingKey
from fedhelp_secure.secure_sum.epochs import (
    BEGUN_KIND,
    EPOCH_KIND,
    STATEMENT_BYTES,
    KeysRefused,
    sign_begun,
    sign_epoch,
)
from fedhelp_secure.secure_sum.round_keys import (
    RoundKeys,
    begin_under_first_epochs,
    custodian_parties,
    open_round_keys,
    round_keys_digest,
)
from fedhelp_secure.signing import peek_document
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.wire.v1.coordinator_pb2 import CustodianKeys

KIT = make_charter_kit()
CHARTER = KIT.charter()
NEW_KEYS = {
    "decryptor": digest(b"a new context"),
    "unmasker": UnsealingKey.generate().public.to_base64(),
}
DECRYPTOR, UNMASKER = 0, 1

Stated = list[CustodianKeys]


def _first(kit: CharterKit = KIT, charter: Charter = CHARTER, number: int = 1) -> Stated:
    return list(begin_under_first_epochs(charter, number, kit.keys, now=utc_now()))


def _resigned(kind: str, envelope: bytes, *, signer: str | None = None, **changes: object) -> bytes:
    document = peek_document(kind, envelope) | changes
    return KIT.keys[signer or str(document["name"])].sign_document(kind, document)


def _rotated(
    stated: Stated, index: int, *, number: int | None = None, previous: bytes | None = b""
) -> Stated:
    """``stated`` with one more epoch of one custodian, to which it bound the round."""
    party = custodian_parties(CHARTER)[index]
    name = party.identity.name
    earlier = stated[index].key_epochs
    epoch = number or len(earlier) + 1
    statement = sign_epoch(
        KIT.keys[name],
        party.identity,
        epoch=epoch,
        key=NEW_KEYS[name],
        previous=earlier[-1] if previous == b"" else previous,
        now=utc_now(),
    )
    begun = sign_begun(
        KIT.keys[name],
        party.identity,
        charter_digest=CHARTER.digest,
        round_number=1,
        epoch=epoch,
        epoch_envelope=statement,
    )
    changed = list(stated)
    changed[index] = CustodianKeys(round_begun=begun, key_epochs=[*earlier, statement])
    return changed


def test_the_charters_own_keys_come_first() -> None:
    stated = _first()
    keys = open_round_keys(CHARTER, 1, stated)
    custodians = CHARTER.custodians
    assert keys.epochs == (1, 1)
    assert keys.context_digest == custodians.decryptor.context_digest
    assert [key.to_base64() for key in keys.sealing_keys] == [custodians.unmaskers[0].sealing_key]
    assert keys.digest == round_keys_digest(one.round_begun for one in stated)


def test_later_keys_follow_by_statements() -> None:
    stated = _rotated(_rotated(_first(), DECRYPTOR), UNMASKER)
    keys = open_round_keys(CHARTER, 1, stated)
    assert keys.epochs == (2, 2)
    assert keys.context_digest == NEW_KEYS["decryptor"]
    assert keys.sealing_keys[0].to_base64() == NEW_KEYS["unmasker"]


def test_no_two_beginnings_have_the_same_digest() -> None:
    assert len({open_round_keys(CHARTER, 1, _first()).digest for _ in range(20)}) == 20


def _changed(index: int, *, signer: str | None = None, **changes: object) -> Callable[[], Stated]:
    """A ``round-begun`` statement with other entries, signed by its own custodian."""

    def change() -> Stated:
        stated = _first()
        begun = stated[index].round_begun
        stated[index].round_begun = _resigned(BEGUN_KIND, begun, signer=signer, **changes)
        return stated

    return change


def _changed_epoch(
    index: int, *, signer: str | None = None, **changes: object
) -> Callable[[], Stated]:
    def change() -> Stated:
        stated = _first()
        first = stated[index].key_epochs[0]
        epoch = _resigned(EPOCH_KIND, first, signer=signer, **changes)
        stated[index].key_epochs[0] = epoch
        return stated

    return change


def _swapped() -> Stated:
    return _first()[::-1]


def _one_missing() -> Stated:
    return _first()[:1]


def _one_too_many() -> Stated:
    stated = _first()
    return [*stated, stated[1]]


def _no_epochs() -> Stated:
    stated = _first()
    del stated[UNMASKER].key_epochs[:]
    return stated


def _an_epoch_left_out() -> Stated:
    stated = _rotated(_rotated(_first(), UNMASKER), UNMASKER)
    del stated[UNMASKER].key_epochs[1]
    return stated


def _without_the_charters_epoch() -> Stated:
    stated = _rotated(_first(), UNMASKER)
    del stated[UNMASKER].key_epochs[0]
    return stated


def _begun_under_an_earlier_epoch_than_shown() -> Stated:
    stated = _first()
    begun = stated[UNMASKER].round_begun
    changed = _rotated(stated, UNMASKER)
    changed[UNMASKER].round_begun = begun
    return changed


def _of_another_federation() -> Stated:
    return _first(make_charter_kit())


def _too_long() -> Stated:
    stated = _first()
    begun = stated[DECRYPTOR].round_begun
    stated[DECRYPTOR].round_begun = _resigned(BEGUN_KIND, begun, nonce="0" * STATEMENT_BYTES)
    return stated


def _an_epoch_in_the_place_of_a_beginning() -> Stated:
    stated = _first()
    stated[DECRYPTOR].round_begun = stated[DECRYPTOR].key_epochs[0]
    return stated


_ANOTHER = digest(b"another")
REFUSED: list[tuple[Callable[[], Stated], type[FedHelpError]]] = [
    (_changed(DECRYPTOR, round=2), KeysRefused),
    (_changed(UNMASKER, charter=_ANOTHER), KeysRefused),
    (_changed(UNMASKER, epoch=2), KeysRefused),
    (_changed(UNMASKER, epoch_statement=_ANOTHER), KeysRefused),
    (_changed(UNMASKER, name="decryptor", signer="unmasker"), KeysRefused),
    (_changed(UNMASKER, role="decryptor"), KeysRefused),
    (_changed(UNMASKER, federation="elsewhere"), KeysRefused),
    (_changed(UNMASKER, signer="aggregator"), SignatureRefused),
    (_changed(DECRYPTOR, signer="unmasker"), SignatureRefused),
    (_changed(UNMASKER, nonce="00"), MalformedMessage),
    (_changed(UNMASKER, epoch=0), MalformedMessage),
    (_changed(UNMASKER, epoch="1"), MalformedMessage),
    (_changed(UNMASKER, version=2), MalformedMessage),
    (_changed(UNMASKER, more=1), MalformedMessage),
    (_changed_epoch(DECRYPTOR, key=NEW_KEYS["decryptor"]), KeysRefused),
    (_changed_epoch(UNMASKER, key=NEW_KEYS["unmasker"]), KeysRefused),
    (_changed_epoch(UNMASKER, key="AAAA"), MalformedMessage),
    (_changed_epoch(DECRYPTOR, key="AAAA"), KeysRefused),
    (_changed_epoch(UNMASKER, created="yesterday"), MalformedMessage),
    (_changed_epoch(UNMASKER, epoch=2), KeysRefused),
    (_changed_epoch(DECRYPTOR, signer="aggregator"), SignatureRefused),
    # Another statement of the same key: not the one to which the round is bound.
    (_changed_epoch(DECRYPTOR, created="2026-01-01T00:00:00Z"), KeysRefused),
    (lambda: _rotated(_first(), UNMASKER, previous=b"another"), KeysRefused),
    (lambda: _rotated(_first(), UNMASKER, previous=None), KeysRefused),
    (lambda: _rotated(_first(), DECRYPTOR, number=3), KeysRefused),
    (lambda: _rotated(_first(), DECRYPTOR, number=1), KeysRefused),
    (_swapped, SignatureRefused),
    (_one_missing, KeysRefused),
    (_one_too_many, KeysRefused),
    (_no_epochs, KeysRefused),
    (_an_epoch_left_out, KeysRefused),
    (_without_the_charters_epoch, KeysRefused),
    (_begun_under_an_earlier_epoch_than_shown, KeysRefused),
    (_of_another_federation, SignatureRefused),
    (_too_long, MalformedMessage),
    (_an_epoch_in_the_place_of_a_beginning, MalformedMessage),
]


@pytest.mark.parametrize(("stated", "error"), REFUSED)
def test_what_does_not_hold_together_is_refused(
    stated: Callable[[], Stated], error: type[FedHelpError]
) -> None:
    with pytest.raises(error):
        open_round_keys(CHARTER, 1, stated())


TRUE = _rotated(_first(), UNMASKER)
PLACES = [
    (index, place) for index, keys in enumerate(TRUE) for place in range(1 + len(keys.key_epochs))
]


def _with(index: int, place: int, envelope: bytes) -> Stated:
    changed = [CustodianKeys.FromString(keys.SerializeToString()) for keys in TRUE]
    if place == 0:
        changed[index].round_begun = envelope
    else:
        changed[index].key_epochs[place - 1] = envelope
    return changed


def _at(index: int, place: int) -> bytes:
    return TRUE[index].round_begun if place == 0 else TRUE[index].key_epochs[place - 1]


@settings(max_examples=80, deadline=None)
@given(where=st.sampled_from(PLACES), at=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_no_byte_changes_unnoticed(where: tuple[int, int], at: int, flip: int) -> None:
    altered = bytearray(_at(*where))
    altered[at % len(altered)] ^= flip
    with pytest.raises(FedHelpError):
        open_round_keys(CHARTER, 1, _with(*where, bytes(altered)))


@settings(max_examples=50, deadline=None)
@given(where=st.sampled_from(PLACES), data=st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(where: tuple[int, int], data: bytes) -> None:
    with pytest.raises(FedHelpError):
        open_round_keys(CHARTER, 1, _with(*where, data))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(1 - 2**53, 2**53 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(max_examples=50, deadline=None)
@given(
    where=st.sampled_from(PLACES),
    field=st.sampled_from(["epoch", "key", "previous", "round", "nonce", "charter", "name"]),
    value=_JSON,
)
def test_a_custodian_that_signs_nonsense_is_refused_or_harmless(
    where: tuple[int, int], field: str, value: object
) -> None:
    index, place = where
    kind = BEGUN_KIND if place == 0 else EPOCH_KIND
    document = peek_document(kind, _at(*where))
    if field not in document or document[field] == value:
        return
    name = custodian_parties(CHARTER)[index].identity.name
    envelope = KIT.keys[name].sign_document(kind, document | {field: value})
    try:
        keys: RoundKeys = open_round_keys(CHARTER, 1, _with(index, place, envelope))
    except FedHelpError:
        return
    # Nobody but the custodian itself knows that this is not its nonce.
    assert field == "nonce"
    assert keys.digest != open_round_keys(CHARTER, 1, TRUE).digest


def test_an_envelope_has_one_byte_form() -> None:
    outer = json.loads(_at(DECRYPTOR, 0))
    payload = base64.b64decode(outer["payload"])
    spaced = canonical_json(outer | {"payload": base64.b64encode(payload + b" ").decode()})
    with pytest.raises(FedHelpError):
        open_round_keys(CHARTER, 1, _with(DECRYPTOR, 0, spaced))
