"""A contribution sent again: by another, for another round, altered, on a second connection."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e.attacks.conftest import Attacked
from support.aggregator import contribution_of, upload

from fedhelp_secure.canonical import digest
from fedhelp_secure.transport.client import PeerRefused
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire

Messages = list[wire.ContributeRequest]


@pytest.fixture(scope="module")
def captured(attacked: Attacked) -> Messages:
    """Every message of an accepted contribution of small-2, as they went over the wire."""
    charter = attacked.federation.charter
    made = contribution_of(attacked.federation, charter, "small-2")
    messages = list(upload(charter, made))
    attacked.party("small-2").send(iter(messages))
    return messages


def _copy(messages: Messages) -> Messages:
    return [wire.ContributeRequest.FromString(each.SerializeToString()) for each in messages]


def _of(attacked: Attacked, event: str) -> list[str]:
    entries = attacked.party(Role.AUDITOR).entries()
    return [
        getattr(entry, event).hospital for entry in entries if entry.WhichOneof("event") == event
    ]


def test_another_identity_cannot_send_it(attacked: Attacked, captured: Messages) -> None:
    with pytest.raises(PeerRefused, match="another hospital's") as refused:
        attacked.party("small-1").send(iter(captured))
    assert refused.value.code == "manifest"
    assert "small-1" in _of(attacked, "contribution_rejected")
    assert _of(attacked, "contribution_accepted").count("small-2") == 1
    # The refused one is not shut out by it.
    assert "small-1" not in _of(attacked, "contribution_accepted")


def test_it_is_no_contribution_to_another_round(attacked: Attacked, captured: Messages) -> None:
    for number in (0, 2, 3):
        moved = _copy(captured)
        moved[0].header.round = number
        with pytest.raises(PeerRefused, match="another round"):
            attacked.party("small-2").send(iter(moved))
    assert _of(attacked, "contribution_accepted").count("small-2") == 1


def test_it_is_no_contribution_under_another_charter(
    attacked: Attacked, captured: Messages
) -> None:
    moved = _copy(captured)
    moved[0].header.charter_digest = digest(b"another")
    with pytest.raises(PeerRefused) as refused:
        attacked.party("small-2").send(iter(moved))
    assert refused.value.code == "other-charter"


def test_a_second_connection_of_its_sender_gets_the_same_receipt_and_changes_nothing(
    attacked: Attacked, captured: Messages
) -> None:
    before = attacked.events()
    receipts = [attacked.party("small-2").send(iter(captured)) for _ in range(3)]
    assert len({receipt.SerializeToString(deterministic=True) for receipt in receipts}) == 1
    assert receipts[0] == attacked.party("small-2").receipt()
    assert attacked.events() == before


def _other_ciphertext(messages: Messages) -> Messages:
    last = bytearray(messages[-1].ciphertext_chunk)
    last[0] ^= 1
    messages[-1].ciphertext_chunk = bytes(last)
    return messages


def _other_seed(messages: Messages) -> Messages:
    seed = bytearray(messages[0].header.sealed_seeds[0])
    seed[-1] ^= 1
    messages[0].header.sealed_seeds[0] = bytes(seed)
    return messages


def _without_its_end(messages: Messages) -> Messages:
    whole = messages[-1].ciphertext_chunk
    messages[-1].ciphertext_chunk = whole[: len(whole) // 2]
    return messages


@pytest.mark.parametrize("alter", [_other_ciphertext, _other_seed, _without_its_end])
def test_an_altered_copy_is_refused(
    attacked: Attacked,
    captured: Messages,
    alter: object,
) -> None:
    assert callable(alter)
    messages: Iterator[wire.ContributeRequest] = iter(alter(_copy(captured)))
    with pytest.raises(PeerRefused):
        attacked.party("small-2").send(messages)
    assert _of(attacked, "contribution_accepted").count("small-2") == 1


def test_new_bytes_for_a_round_that_has_some_are_a_conflict(
    attacked: Attacked, captured: Messages
) -> None:
    charter = attacked.federation.charter
    again = contribution_of(attacked.federation, charter, "small-2")
    with pytest.raises(PeerRefused) as refused:
        attacked.party("small-2").contribute(again)
    assert refused.value.code == "contribution-conflict"
