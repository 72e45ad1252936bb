"""What the aggregator takes of custodians' keys, relays, and waits for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.aggregator import (
    AggregatorServer,
    Custodian,
    addresses_of,
    charter_of,
    custodians_of,
    weighted_sum,
)
from support.federation import Federation, copied, make_federation

from fedhelp_keys.custodian import key_files
from fedhelp_keys.custodian.epochs import EpochStore
from fedhelp_secure.canonical import digest
from fedhelp_secure.secure_sum.epochs import DESTROYED_KIND, EPOCH_KIND, KeysRefused
from fedhelp_secure.secure_sum.round_keys import open_round_keys
from fedhelp_secure.transport.client import PeerRefused, translated_errors
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire

HOSPITALS = ["large-1", "small-1", "small-2"]


@pytest.fixture
def own(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "own", large=1, small=2, unmaskers=2, rounds={"count": 2})


def _round_keys(
    running: AggregatorServer, number: int, have: str = ""
) -> tuple[list[wire.CustodianKeys], bytes]:
    request = wire.GetRoundKeysRequest(
        charter_digest=running.charter.digest, round=number, context_digest=have
    )
    with translated_errors():
        parts = list(running.party("small-1").coordinator.GetRoundKeys(request, timeout=30))
    stated = [part.custodian for part in parts if part.WhichOneof("part") == "custodian"]
    return stated, b"".join(part.context_chunk for part in parts)


def test_every_round_has_its_keys_and_they_are_handed_on(own: Federation, tmp_path: Path) -> None:
    charter = (own.charter, own.charter_envelope)
    with (
        custodians_of(own) as custodians,
        AggregatorServer(own, tmp_path, charter, addresses_of(custodians)) as running,
    ):
        party = running.party("small-1")
        party.wait_for(wire.ROUND_STATE_OPEN)
        with pytest.raises(PeerRefused) as refused:
            _round_keys(running, 2)
        assert refused.value.code == "round-not-open"
        stated, context = _round_keys(running, 1)
        first = open_round_keys(own.charter, 1, stated)
        assert digest(context) == first.context_digest
        assert _round_keys(running, 1, first.context_digest) == (stated, b"")
        # Rotated while the round runs: it goes on under its keys, the next one gets the new ones.
        for name in ("decryptor", "unmasker", "unmasker-2"):
            assert EpochStore(own.state(name)).rotate() == 2
        assert _round_keys(running, 1)[0] == stated
        running.contribute(*HOSPITALS)
        party.wait_for(wire.ROUND_STATE_OPENED)
        assert (party.open().values == weighted_sum(own.charter, HOSPITALS)).all()
        party.wait_for(wire.ROUND_STATE_OPEN, 2)
        stated, context = _round_keys(running, 2, first.context_digest)
        second = open_round_keys(own.charter, 2, stated)
        assert (first.epochs, second.epochs) == ((1, 1, 1), (2, 2, 2))
        assert digest(context) == second.context_digest != first.context_digest
        running.contribute(*HOSPITALS, round_number=2)
        party.wait_for(wire.ROUND_STATE_OPENED, 2)
        assert (party.open(2).values == weighted_sum(own.charter, HOSPITALS, 2)).all()
        kinds = [entry.statement_submitted.kind for entry in running.entries()]
        assert kinds.count(EPOCH_KIND) == 6
        assert kinds.count(DESTROYED_KIND) == 3
        for name in ("decryptor", "unmasker", "unmasker-2"):
            assert not key_files.secret_path(own.state(name), 1).exists()


def test_a_custodian_that_shows_other_epochs_than_before_is_waited_for(
    own: Federation, tmp_path: Path
) -> None:
    """Restored from an outdated backup: its operator can mend that, and no budget is spent yet."""
    charter = (own.charter, own.charter_envelope)
    outdated = copied(own, tmp_path / "outdated").state("unmasker")
    for state in (own.state("unmasker"), outdated):
        EpochStore(state).rotate()
    with (
        custodians_of(own) as (decryptor, unmasker, other),
        AggregatorServer(
            own, tmp_path, charter, addresses_of((decryptor, unmasker, other))
        ) as running,
    ):
        party = running.party("small-1")
        party.wait_for(wire.ROUND_STATE_OPEN)
        decryptor.stop()
        running.contribute(*HOSPITALS)
        party.wait_for_reason("waiting for custodian decryptor")
        auditor, deadline = running.party(Role.AUDITOR), time.monotonic() + 20
        while [kind for kind, _ in auditor.objects()].count("unmasker-statement") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        unmasker.stop()
        forked = Custodian(outdated, unmasker.address)
        with pytest.raises(KeysRefused, match="outdated backup"):
            running.aggregator._book.keys.check(1, 2, EpochStore(outdated).begin(own.charter, 2))
        decryptor.start()
        party.wait_for(wire.ROUND_STATE_OPENED)
        party.wait_for_reason("waiting for custodian unmasker")
        forked.stop()
        unmasker.start()
        party.wait_for(wire.ROUND_STATE_OPEN, 2)
        running.contribute(*HOSPITALS, round_number=2)
        party.wait_for(wire.ROUND_STATE_OPENED, 2)


def test_a_charter_that_a_custodian_refuses_opens_no_round(own: Federation, tmp_path: Path) -> None:
    """Before anybody has spent budget on it."""
    custodians = own.charter.document()["custodians"]
    stranger = own.charter.hospitals[0].sealing_key
    custodians["unmaskers"][0]["sealing_key"] = stranger
    charter = charter_of(own, "stranger", custodians=custodians)
    with (
        custodians_of(own) as running_custodians,
        AggregatorServer(own, tmp_path, charter, addresses_of(running_custodians)) as running,
    ):
        event = running.party("small-1").wait_for(wire.ROUND_STATE_FAILED)
        assert event.reason == "its beginning was refused with code charter."
        assert [entry.round_failed.code for entry in running.entries()[-2:]] == [
            "charter",
            "earlier-round-failed",
        ]
