"""Round keys that do not hold cost a hospital nothing: no debit, no noise, nothing sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.federation import Federation, make_federation
from support.keys import stated_at_first
from support.relay import running_relay
from support.site import site_of

from fedhelp_secure.canonical import digest
from fedhelp_secure.errors import FedHelpError, SignatureRefused
from fedhelp_secure.secure_sum.ckks import generate_keys
from fedhelp_secure.secure_sum.epochs import KeysRefused, sign_begun, sign_epoch
from fedhelp_secure.secure_sum.round_keys import custodian_parties
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.wire.v1.coordinator_pb2 import CustodianKeys

Stated = tuple[CustodianKeys, ...]
NAME = "small-1"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    root = tmp_path_factory.mktemp("round-keys")
    return make_federation(root / "parties", large=1, small=1, unmaskers=2)


def _rotated(federation: Federation, stated: Stated, public: bytes) -> Stated:
    """A second epoch of the decryptor whose context is ``public``."""
    party = custodian_parties(federation.charter)[0]
    key = federation.state("decryptor").signing_key()
    first = stated[0].key_epochs[0]
    epoch = sign_epoch(
        key, party.identity, epoch=2, key=digest(public), previous=first, now=utc_now()
    )
    begun = sign_begun(
        key,
        party.identity,
        charter_digest=federation.charter.digest,
        round_number=1,
        epoch=2,
        epoch_envelope=epoch,
    )
    return (CustodianKeys(round_begun=begun, key_epochs=[first, epoch]), *stated[1:])


def _another_rounds(federation: Federation, stated: Stated) -> Stated:
    """What was stated of round 2: a replay of one round's keys in another."""
    return stated_at_first(federation, federation.charter, 2)


def _fewer(federation: Federation, stated: Stated) -> Stated:
    return stated[:-1]


def _more(federation: Federation, stated: Stated) -> Stated:
    return (*stated, stated[0])


def _unmaskers_swapped(federation: Federation, stated: Stated) -> Stated:
    return (stated[0], stated[2], stated[1])


def _another_context_than_stated(federation: Federation, stated: Stated) -> Stated:
    # The relay gives no context at all.
    return _rotated(federation, stated, generate_keys()[1])


@pytest.mark.parametrize(
    ("alter", "error"),
    [
        (_another_rounds, KeysRefused),
        (_fewer, KeysRefused),
        (_more, FedHelpError),
        (_unmaskers_swapped, SignatureRefused),
        (_another_context_than_stated, KeysRefused),
    ],
)
def test_keys_that_do_not_hold_are_refused_before_the_debit(
    federation: Federation,
    tmp_path: Path,
    alter: Callable[[Federation, Stated], Stated],
    error: type[FedHelpError],
) -> None:
    with running_relay(federation, tmp_path / "relay") as (relay, address):
        relay.alter_keys = lambda stated: alter(federation, stated)
        site = site_of(federation, NAME, address)
        with pytest.raises(error):
            site.run()
    assert relay.received == {}
    assert site.ledger.account().progress(federation.charter.digest, 1) is None
    assert site.releaser.files.stored(1) is None
