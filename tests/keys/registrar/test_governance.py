"""A new governance key: who follows, which charters stay valid, and what no former key can do."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.federation import FEDERATION, Federation, copied, join, make_federation
from support.rotation import rotate, with_present_keys
from support.trust_lists import changed, held

from fedhelp_keys.registrar.charters import record_envelope, signed_charters
from fedhelp_keys.registrar.registry import enrol
from fedhelp_keys.registrar.trust import (
    RevocationRefused,
    issue_trust_list,
    revoke,
    rotate_governance,
)
from fedhelp_secure.charter import sign_charter
from fedhelp_secure.enrolment.bundle import BundleRefused, install_bundle
from fedhelp_secure.enrolment.old_keys import OldKeysNeeded, destroy_old_keys
from fedhelp_secure.enrolment.request import make_request
from fedhelp_secure.errors import FedHelpError, MalformedMessage, SignatureRefused
from fedhelp_secure.signing import SigningKey, peek_document, sign_jointly
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.charters import open_own_charter
from fedhelp_secure.trust.governance import KIND, open_succession, sign_succession
from fedhelp_secure.trust.store import HeldTrust, TrustListRolledBack, TrustStore
from fedhelp_secure.trust.trust_list import (
    TrustList,
    open_trust_list,
    sign_trust_list,
)

LATER = utc_now() + datetime.timedelta(seconds=90)
"""When a registrar issues a list anew."""


@dataclass(frozen=True, slots=True)
class Own:
    """A federation, a party of it, and the governance key that it began with."""

    federation: Federation
    old: SigningKey

    @property
    def registrar(self) -> StateDirectory:
        return self.federation.state(Role.REGISTRAR)

    @property
    def party(self) -> StateDirectory:
        return self.federation.state("small-1")

    def rotate(self) -> bytes:
        """The list that says so."""
        rotate_governance(self.registrar, now=utc_now())
        return held(self.registrar)

    def follow(self) -> None:
        """The party takes the present list."""
        TrustStore(self.party).install(held(self.registrar), now=utc_now())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), large=1, small=1)


@pytest.fixture
def own(whole: Federation, tmp_path: Path) -> Own:
    federation = copied(whole, tmp_path / "parties")
    return Own(federation, federation.state(Role.REGISTRAR).signing_key())


def test_a_party_follows_and_needs_the_new_key_from_then_on(own: Own) -> None:
    before = TrustStore(own.party).current()
    own.rotate()
    new = own.registrar.signing_key()
    assert new.public != own.old.public
    assert own.registrar.governance_key() == new.public
    assert own.party.governance_key() == own.old.public
    own.follow()
    assert own.party.governance_key() == new.public
    after = TrustStore(own.party).current()
    assert after.sequence == before.sequence + 1
    (succession,) = after.successions()
    assert (succession.old_key, succession.new_key) == (own.old.public, new.public)
    # The former key signs a later list, and one with a successor of its own choice.
    thief = SigningKey.generate()
    chosen = sign_succession(FEDERATION, after.sequence + 1, own.old, thief, charters=[])
    later = {"sequence": after.sequence + 5}
    for update, key in (
        ({"governance": ()}, own.old),
        ({}, own.old),
        ({"governance": (chosen.decode(),)}, thief),
        ({"governance": (*after.governance, chosen.decode())}, thief),
    ):
        forged = sign_trust_list(changed(after, **later, **update), key)
        with pytest.raises(FedHelpError):
            TrustStore(own.party).install(forged, now=utc_now())
    assert own.party.governance_key() == new.public
    TrustStore(own.party).install(sign_trust_list(changed(after, **later), new), now=utc_now())


def test_who_has_missed_lists_follows_through_all_successors(own: Own) -> None:
    for _ in range(3):
        own.rotate()
    issue_trust_list(own.registrar, now=LATER)
    own.follow()
    assert own.party.governance_key() == own.registrar.signing_key().public
    assert len(TrustStore(own.party).current().governance) == 3


def test_a_running_process_follows(own: Own) -> None:
    trust = HeldTrust(own.party)
    own.rotate()
    own.follow()
    assert len(trust.newest().governance) == 1


def test_charters_signed_before_stay_valid_and_no_others(own: Own) -> None:
    first = own.federation.charter
    assert signed_charters(own.registrar, own.old.public) == (first.digest,)
    own.rotate()
    own.follow()
    assert open_own_charter(own.party, own.federation.charter_envelope).charter == first
    assert open_own_charter(own.party, own.federation.charter_envelope).signer == own.old.public
    # Whoever has the former key dates a charter back: it was not on record when it mattered.
    backdated = first.model_copy(update={"name": "backdated"})
    with pytest.raises(SignatureRefused):
        open_own_charter(own.party, sign_charter(backdated, own.old))
    second = with_present_keys(own.federation)
    assert open_own_charter(own.party, second.charter_envelope).charter == second.charter
    assert (
        open_own_charter(own.party, second.charter_envelope).signer
        == own.registrar.signing_key().public
    )


def test_a_charter_is_put_on_record_by_hand(own: Own) -> None:
    unrecorded = own.federation.charter.model_copy(update={"name": "before-the-record"})
    envelope = sign_charter(unrecorded, own.old)
    with pytest.raises(SignatureRefused):
        record_envelope(own.registrar, sign_charter(unrecorded, SigningKey.generate()))
    record_envelope(own.registrar, envelope)
    own.rotate()
    own.follow()
    assert open_own_charter(own.party, envelope).charter == unrecorded


def test_a_party_that_has_not_followed_refuses_the_new_keys_charters(own: Own) -> None:
    own.rotate()
    second = with_present_keys(own.federation)
    with pytest.raises(SignatureRefused):
        open_own_charter(own.party, second.charter_envelope)


def forged_successions(own: Own, envelope: bytes) -> Sequence[tuple[str, bytes]]:
    """What a list with another succession in it is, and the succession."""
    document, new = peek_document(KIND, envelope), own.registrar.signing_key()
    thief = SigningKey.generate()
    return (
        ("not by the old key", sign_jointly(KIND, document, [thief, new])),
        ("not by the new key", sign_jointly(KIND, document, [own.old])),
        ("by a third one too", sign_jointly(KIND, document, [own.old, new, thief])),
        (
            "of another federation",
            sign_jointly(KIND, document | {"federation": "other"}, [own.old, new]),
        ),
        (
            "from a later list on",
            sign_jointly(KIND, document | {"sequence": 99}, [own.old, new]),
        ),
        (
            "from a key that is not the federation's",
            sign_succession(FEDERATION, 2, thief, new, charters=[]),
        ),
        ("of another form", sign_jointly(KIND, document | {"more": 1}, [own.old, new])),
    )


def test_a_forged_succession_is_refused(own: Own) -> None:
    own.rotate()
    present = TrustStore(own.registrar).current()
    (good,) = present.governance
    before = held(own.party)
    forgeries = forged_successions(own, good.encode())
    assert len(forgeries) == 7
    for what, forged in forgeries:
        update = {"governance": (forged.decode(),)}
        envelope = sign_trust_list(changed(present, **update), own.registrar.signing_key())
        with pytest.raises(FedHelpError):
            TrustStore(own.party).install(envelope, now=utc_now())
        assert held(own.party) == before, what
    own.follow()


def test_successions_that_are_no_chain_are_refused(own: Own) -> None:
    own.rotate()
    own.rotate()
    present, new = TrustStore(own.registrar).current(), own.registrar.signing_key()
    one, two = present.governance
    for governance in ((two, one), (two,), (one,), (one, two, two)):
        envelope = sign_trust_list(changed(present, governance=governance), new)
        with pytest.raises((MalformedMessage, SignatureRefused)):
            open_trust_list(envelope, own.old.public)
    # Also for who knows the present key alone: the history that it tells must hold together.
    stranger = sign_succession(
        FEDERATION, present.sequence, SigningKey.generate(), new, charters=[]
    )
    envelope = sign_trust_list(changed(present, governance=(one, stranger.decode())), new)
    with pytest.raises(MalformedMessage, match="not one chain"):
        open_trust_list(envelope, new.public)
    assert open_trust_list(held(own.registrar), own.old.public) == present


def test_a_list_without_the_succession_is_older_than_one_with_it(own: Own) -> None:
    """A crash between list and key leaves the former key in place, and the list decides."""
    own.rotate()
    TrustStore(own.party).path.write_bytes(held(own.registrar))
    assert own.party.governance_key() == own.old.public
    after = TrustStore(own.party).current()
    later = {"sequence": after.sequence + 1, "governance": ()}
    forged = sign_trust_list(changed(after, **later), own.old)
    with pytest.raises(TrustListRolledBack, match="has been succeeded"):
        TrustStore(own.party).install(forged, now=utc_now())
    # The next poll brings the same list, and mends it.
    own.follow()
    assert own.party.governance_key() == own.registrar.signing_key().public


PROGRAM = """
import os, signal, sys
from pathlib import Path
from fedhelp_keys.registrar import trust
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import utc_now
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
step = sys.argv[2]
if step == "before the new key is used":
    StateDirectory.adopt = die
else:
    trust.sign_succession = die
trust.rotate_governance(StateDirectory.open(Path(sys.argv[1])), now=utc_now())
"""


@pytest.mark.parametrize("step", ["before the new key is used", "before the list is written"])
def test_a_registrar_that_was_killed_hands_over_when_it_goes_on(own: Own, step: str) -> None:
    command = [sys.executable, "-c", PROGRAM, str(own.registrar.root), step]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -9, done.stderr
    before = TrustStore(own.registrar).current()
    if step == "before the new key is used":
        assert own.registrar.signing_key().public == own.old.public
        made = own.registrar.next_keys().signing_key.public
        own.rotate()
        assert own.registrar.signing_key().public == made
    else:
        assert own.registrar.signing_key().public != own.old.public
        with pytest.raises(OldKeysNeeded, match="in no trust list yet"):
            destroy_old_keys(own.registrar)
        # What the served registrar does every few seconds; the list is young.
        issue_trust_list(own.registrar, now=utc_now())
    after = TrustStore(own.registrar).current()
    assert (after.sequence, len(after.governance)) == (before.sequence + 1, 1)
    own.follow()
    assert own.party.governance_key() == own.registrar.signing_key().public


def test_the_registrar_goes_on_with_its_work(own: Own, tmp_path: Path) -> None:
    own.rotate()
    own.follow()
    own.registrar.destroy_former_keys()
    revoke(own.registrar, own.party.identity, reason="left", now=utc_now())
    own.follow()
    assert TrustStore(own.party).current().revocations
    late = join(own.registrar, tmp_path, Identity(FEDERATION, Role.HOSPITAL, "small-9"))
    assert late.governance_key() == own.registrar.signing_key().public
    rotate(late)


def test_too_many_changes_are_refused_before_anything_changes(
    own: Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedhelp_keys.registrar.trust.MOST_SUCCESSIONS", 1)
    own.rotate()
    key, before = own.registrar.signing_key().public, held(own.registrar)
    with pytest.raises(RevocationRefused, match="found a new federation"):
        own.rotate()
    assert own.registrar.signing_key().public == key
    assert held(own.registrar) == before
    issue_trust_list(own.registrar, now=LATER)


def test_a_bundle_of_the_new_key_is_taken_by_who_knows_the_old_one(own: Own) -> None:
    own.rotate()
    bundle = enrol(own.registrar, make_request(own.party), group="small", now=utc_now())
    assert own.party.governance_key() == own.old.public
    install_bundle(own.party, bundle, now=utc_now())
    assert own.party.governance_key() == own.registrar.signing_key().public


def test_a_bundle_of_another_registrar_is_still_refused(own: Own, tmp_path: Path) -> None:
    other = make_federation(tmp_path / "other", large=1, small=1)
    rotate_governance(other.state(Role.REGISTRAR), now=utc_now())
    request = make_request(own.party)
    bundle = enrol(own.registrar, request, group="small", now=utc_now())
    stranger = other.state("small-1")
    request = make_request(stranger)
    foreign = enrol(other.state(Role.REGISTRAR), request, group="small", now=utc_now())
    with pytest.raises(BundleRefused, match="another registrar"):
        install_bundle(own.party, foreign, now=utc_now())
    install_bundle(own.party, bundle, now=utc_now())


def test_a_list_that_was_never_handed_over_says_nothing_of_it(own: Own) -> None:
    trusted = TrustStore(own.registrar).current()
    assert "governance" not in trusted.document()
    assert TrustList.model_validate(trusted.model_dump()) == trusted
    own.rotate()
    (text,) = TrustStore(own.registrar).current().governance
    assert open_succession(text.encode()).charters == {own.federation.charter.digest}
