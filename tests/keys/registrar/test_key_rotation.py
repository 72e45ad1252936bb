"""Other keys for parties that are enrolled: what the registrar takes, and what a crash leaves."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.federation import FEDERATION, Federation, copied, join, make_federation

from fedhelp_keys.registrar.key_rotation import RotationRefused, accept_rotation
from fedhelp_keys.registrar.registry import EnrolmentRefused, Member, Registry, enrol
from fedhelp_keys.registrar.service import EnrolmentService
from fedhelp_keys.registrar.trust import revoke
from fedhelp_secure.enrolment.key_rotation import (
    KIND,
    LIMIT_BYTES,
    KeyRotation,
    open_rotation,
    rotate_keys,
    sign_rotation,
)
from fedhelp_secure.enrolment.request import make_request
from fedhelp_secure.errors import FedHelpError, MalformedMessage, SignatureRefused
from fedhelp_secure.sealing import UnsealingKey
from fedhelp_secure.signing import SigningKey, peek_document, sign_jointly
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.client import PeerRefused
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.server import start_server
from fedhelp_secure.trust.store import Revoked

PARTIES = ("large-1", "aggregator", "decryptor", "unmasker", "broker", "auditor")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), large=1, small=1)


@dataclass(frozen=True, slots=True)
class Own:
    """A federation whose registrar answers."""

    federation: Federation
    address: str

    @property
    def registrar(self) -> StateDirectory:
        return self.federation.state(Role.REGISTRAR)

    def member(self, party: str) -> Member:
        found = Registry(self.registrar).find(self.federation.state(party).identity)
        assert found is not None
        return found


@pytest.fixture
def own(whole: Federation, tmp_path: Path) -> Iterator[Own]:
    federation = copied(whole, tmp_path / "parties")
    registrar = federation.state(Role.REGISTRAR)
    service = EnrolmentService(registrar)
    server = start_server(registrar, "127.0.0.1:0", register=service.register)
    yield Own(federation, server.address)
    server.stop()


@dataclass(frozen=True, slots=True)
class Keys:
    """Two generations of one party, as it would state them."""

    identity: Identity
    old: SigningKey
    old_sealing: UnsealingKey
    new: SigningKey
    new_sealing: UnsealingKey

    @property
    def rotation(self) -> KeyRotation:
        return KeyRotation(
            self.identity,
            1,
            self.old.public,
            self.new.public,
            self.old_sealing.public,
            self.new_sealing.public,
        )

    def statement(self, **changed: object) -> bytes:
        return sign_rotation(replace(self.rotation, **changed), self.old, self.new)  # type: ignore[arg-type]


@pytest.fixture
def keys(own: Own) -> Keys:
    state = own.federation.state("small-1")
    return Keys(
        state.identity,
        state.signing_key(),
        state.unsealing_key(),
        SigningKey.generate(),
        UnsealingKey.generate(),
    )


@pytest.mark.parametrize("party", PARTIES)
def test_every_party_rotates_over_mutual_tls(own: Own, party: str) -> None:
    state = own.federation.state(party)
    before, sealing = own.member(party), state.unsealing_key().public.to_base64()
    for number in (1, 2):
        made = rotate_keys(state, own.address)
        member = own.member(party)
        assert made.signing_key.public == state.signing_key().public
        assert member.signing_key == state.signing_key().public.to_base64()
        assert member.sealing_key == state.unsealing_key().public.to_base64()
        assert len(member.former) == number
    assert member.former[0].signing_key == before.signing_key
    assert (member.sealing_key == sealing) is (party == "unmasker")
    assert (member.role, member.group, member.context_digest, member.enrolled) == (
        before.role,
        before.group,
        before.context_digest,
        before.enrolled,
    )
    # A new certificate is for the new keys, as it was for the old ones.
    bundle = enrol(own.registrar, make_request(state), group=member.group, now=utc_now())
    assert bundle
    assert own.member(party) == member


def test_the_registrar_itself_is_not_a_party(own: Own) -> None:
    with pytest.raises(PeerRefused, match="a registrar may not call RotateKeys"):
        rotate_keys(own.registrar, own.address)


def test_a_statement_counts_once(own: Own, keys: Keys) -> None:
    first = keys.statement()
    assert accept_rotation(own.registrar, keys.identity, first) == 1
    after = own.member("small-1")
    # Its sender has not heard of it: told again, and nothing changed.
    assert accept_rotation(own.registrar, keys.identity, first) == 1
    assert own.member("small-1") == after
    third, third_sealing = SigningKey.generate(), UnsealingKey.generate()
    following = Keys(keys.identity, keys.new, keys.new_sealing, third, third_sealing)
    assert accept_rotation(own.registrar, keys.identity, following.statement(sequence=2)) == 2
    with pytest.raises(RotationRefused, match="not the keys with which this party is enrolled"):
        accept_rotation(own.registrar, keys.identity, first)
    assert own.member("small-1").signing_key == third.public.to_base64()


def test_nobody_rotates_for_another(own: Own, keys: Keys) -> None:
    other = own.federation.state("large-1").identity
    with pytest.raises(RotationRefused, match="must name the party that asks"):
        accept_rotation(own.registrar, other, keys.statement())
    with pytest.raises(RotationRefused, match="not the keys with which this party is enrolled"):
        accept_rotation(own.registrar, other, keys.statement(identity=other))


def test_nobody_fills_the_registry(own: Own, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedhelp_keys.registrar.key_rotation.MOST_ROTATIONS", 1)
    state = own.federation.state("small-1")
    rotate_keys(state, own.address)
    before = own.member("small-1")
    with pytest.raises(PeerRefused, match="at most 1 times"):
        rotate_keys(state, own.address)
    assert own.member("small-1") == before


Change = Callable[[Own, Keys], bytes]


def foreign_old_key(own: Own, keys: Keys) -> bytes:
    thief = SigningKey.generate()
    rotation = replace(keys.rotation, old_signing_key=thief.public)
    return sign_rotation(rotation, thief, keys.new)


def foreign_old_sealing_key(own: Own, keys: Keys) -> bytes:
    return keys.statement(old_sealing_key=UnsealingKey.generate().public)


def ahead_of_its_turn(own: Own, keys: Keys) -> bytes:
    return keys.statement(sequence=2)


def key_of_another_party(own: Own, keys: Keys) -> bytes:
    other = own.federation.state("large-1").signing_key()
    return sign_rotation(replace(keys.rotation, new_signing_key=other.public), keys.old, other)


def sealing_key_of_another_party(own: Own, keys: Keys) -> bytes:
    return keys.statement(new_sealing_key=own.federation.state("large-1").unsealing_key().public)


def former_key_of_another_party(own: Own, keys: Keys) -> bytes:
    state = own.federation.state("large-1")
    former = state.signing_key()
    rotate_keys(state, own.address)
    return sign_rotation(replace(keys.rotation, new_signing_key=former.public), keys.old, former)


def the_governance_key(own: Own, keys: Keys) -> bytes:
    governance = own.registrar.signing_key()
    rotation = replace(keys.rotation, new_signing_key=governance.public)
    return sign_rotation(rotation, keys.old, governance)


def the_same_sealing_key(own: Own, keys: Keys) -> bytes:
    return keys.statement(new_sealing_key=keys.old_sealing.public)


def no_new_sealing_key(own: Own, keys: Keys) -> bytes:
    return keys.statement(new_sealing_key=None)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (foreign_old_key, "not the keys with which this party is enrolled"),
        (foreign_old_sealing_key, "not the keys with which this party is enrolled"),
        (ahead_of_its_turn, "next rotation is number 1"),
        (key_of_another_party, "has or had; rotated keys must be new"),
        (sealing_key_of_another_party, "has or had; rotated keys must be new"),
        (former_key_of_another_party, "has or had; rotated keys must be new"),
        (the_governance_key, "has or had; rotated keys must be new"),
        (the_same_sealing_key, "has or had; rotated keys must be new"),
        (no_new_sealing_key, "has or had; rotated keys must be new"),
    ],
)
def test_what_is_no_rotation_of_this_party_changes_nothing(
    own: Own, keys: Keys, change: Change, why: str
) -> None:
    statement, before = change(own, keys), own.member("small-1")
    with pytest.raises(RotationRefused, match=why):
        accept_rotation(own.registrar, keys.identity, statement)
    assert own.member("small-1") == before
    # The path itself works.
    assert accept_rotation(own.registrar, keys.identity, keys.statement()) == 1


def signed_by(*signers: str) -> Change:
    def change(own: Own, keys: Keys) -> bytes:
        document = peek_document(KIND, keys.statement())
        known = {"old": keys.old, "new": keys.new, "other": SigningKey.generate()}
        return sign_jointly(KIND, document, [known[name] for name in signers])

    return change


@pytest.mark.parametrize(
    "signers", [("old",), ("new",), ("other", "new"), ("old", "other"), ("old", "new", "other")]
)
def test_both_keys_must_sign_and_nobody_else(
    own: Own, keys: Keys, signers: tuple[str, ...]
) -> None:
    with pytest.raises(SignatureRefused):
        accept_rotation(own.registrar, keys.identity, signed_by(*signers)(own, keys))
    assert signed_by("old", "new")(own, keys) == keys.statement()


def test_a_statement_of_another_form_is_refused(keys: Keys) -> None:
    document = peek_document(KIND, keys.statement())
    for changed in (
        document | {"version": 2},
        document | {"more": 1},
        document | {"identity": "small-1"},
        document | {"sequence": 0},
    ):
        with pytest.raises(FedHelpError):
            open_rotation(sign_jointly(KIND, changed, [keys.old, keys.new]))
    with pytest.raises(MalformedMessage, match="too long"):
        open_rotation(b" " * (LIMIT_BYTES + 1))
    with pytest.raises(MalformedMessage):
        open_rotation(sign_jointly("manifest", document, [keys.old, keys.new]))


def test_who_is_not_enrolled_or_is_revoked_rotates_nothing(own: Own, keys: Keys) -> None:
    stranger = Identity(FEDERATION, Role.HOSPITAL, "small-9")
    with pytest.raises(EnrolmentRefused, match="not in the registry"):
        accept_rotation(own.registrar, stranger, keys.statement(identity=stranger))
    revoke(own.registrar, keys.identity, reason="stolen laptop", now=utc_now())
    before = own.member("small-1")
    with pytest.raises(Revoked):
        accept_rotation(own.registrar, keys.identity, keys.statement())
    assert own.member("small-1") == before


def test_nobody_is_enrolled_with_a_key_that_another_had(own: Own, tmp_path: Path) -> None:
    state = own.federation.state("small-1")
    old = state.signing_key().to_pem()
    rotate_keys(state, own.address)
    late = StateDirectory.create(tmp_path / "late", Identity(FEDERATION, Role.HOSPITAL, "small-3"))
    late.write_secret(late.signing_key_path, old)
    with pytest.raises(EnrolmentRefused, match="is or was enrolled with one of these keys"):
        enrol(own.registrar, make_request(late), group="small", now=utc_now())
    join(own.registrar, tmp_path, Identity(FEDERATION, Role.HOSPITAL, "small-4"))


PROGRAM = """
import os, signal, sys
from pathlib import Path
from fedhelp_secure.enrolment import key_rotation
from fedhelp_secure.state import StateDirectory
from fedhelp_secure import state as states

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

root, address, step = sys.argv[1:]
if step == "before the sealing key":
    states.UnsealingKey.generate = die
if step == "before the call":
    key_rotation.open_channel = die
if step == "before it is adopted":
    StateDirectory.adopt = die
if step == "after all":
    adopt = StateDirectory.adopt
    StateDirectory.adopt = lambda *arguments: (adopt(*arguments), die())
key_rotation.rotate_keys(StateDirectory.open(Path(root)), address)
"""


@pytest.mark.parametrize(
    ("step", "accepted"),
    [
        ("before the sealing key", 0),
        ("before the call", 0),
        ("before it is adopted", 1),
        ("after all", 1),
    ],
)
def test_a_rotation_that_was_killed_is_done_again_with_the_same_keys(
    own: Own, step: str, accepted: int
) -> None:
    state = own.federation.state("large-1")
    old = state.signing_key().public
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(state.root), own.address, step],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(own.member("large-1").former) == accepted
    if step == "after all":
        assert own.member("large-1").signing_key == state.signing_key().public.to_base64()
        return
    # The state goes on with the old key until the registrar has answered.
    assert state.signing_key().public == old
    made = state.next_keys()
    assert rotate_keys(state, own.address).signing_key.public == made.signing_key.public
    member = own.member("large-1")
    assert member.signing_key == state.signing_key().public.to_base64()
    assert member.sealing_key == state.unsealing_key().public.to_base64()
    assert len(member.former) == 1


def test_a_killed_registrar_has_the_old_keys_or_the_new(own: Own, keys: Keys) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from fedhelp_keys.registrar import key_rotation, registry
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Identity
from fedhelp_secure.keystore import files
files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
root, uri, statement = sys.argv[1:]
state = StateDirectory.open(Path(root))
key_rotation.accept_rotation(state, Identity.from_uri(uri), Path(statement).read_bytes())
"""
    before = own.member("small-1")
    file = own.federation.root / "statement.json"
    file.write_bytes(keys.statement())
    arguments = [str(own.registrar.root), keys.identity.uri, str(file)]
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert own.member("small-1") == before
    assert accept_rotation(own.registrar, keys.identity, keys.statement()) == 1
