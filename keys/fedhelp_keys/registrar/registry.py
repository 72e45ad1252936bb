"""Who is enrolled, with which keys: the registrar's own list, one file in its state."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fedhelp_keys.registrar.ca import CertificateAuthority
from fedhelp_keys.registrar.trust import issue_trust_list, standing
from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.charter import Group
from fedhelp_secure.enrolment.bundle import sign_bundle
from fedhelp_secure.enrolment.request import EnrolmentRequest, open_request
from fedhelp_secure.errors import ConfigurationError, PolicyError
from fedhelp_secure.keystore.files import exclusive
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport import certificates
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.store import TrustStore, check_not_revoked


class RegistryUnreadable(ConfigurationError):
    """The registry file is damaged."""

    code = "registry"


class EnrolmentRefused(PolicyError):
    """The registrar may not enrol this request."""

    code = "enrolment"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FormerKeys(_Document):
    """Keys that a party had before a rotation: charters may still name them, nobody gets them."""

    signing_key: str
    sealing_key: str


class Member(_Document):
    """One enrolled party and its long-lived keys."""

    role: str
    name: str
    group: Group | None
    """Of a hospital; None for every other role."""
    signing_key: str
    sealing_key: str
    context_digest: str | None
    """Of a decryptor's public CKKS context; None for every other role."""
    enrolled: str
    """When, UTC, RFC 3339."""
    own_certificate: bool = False
    """Whether another authority certifies it, so that the registrar never does."""
    former: tuple[FormerKeys, ...] = ()
    """Oldest first: one for each rotation."""

    def same_keys(self, other: Member) -> bool:
        """Whether both are one party with one set of keys, however it got them."""
        update = {"enrolled": other.enrolled, "former": other.former}
        return self.model_copy(update=update) == other

    @property
    def all_keys(self) -> frozenset[str]:
        """Every key that this party has or had."""
        former = (key for pair in self.former for key in (pair.signing_key, pair.sealing_key))
        return frozenset((self.signing_key, self.sealing_key, *former))


class _File(_Document):
    version: Literal[1]
    members: tuple[Member, ...]


class Registry:
    """The members, in order of enrolment. Safe between processes; written whole or not at all."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._path = state.role_directory() / "registry.json"
        self._lock_path = state.role_directory() / "registry.lock"

    def members(self) -> tuple[Member, ...]:
        """Everyone enrolled; empty before the first. Raises RegistryUnreadable."""
        if not self._path.exists():
            return ()
        try:
            return _File.model_validate_json(self._path.read_bytes()).members
        except (OSError, ValidationError) as error:
            raise RegistryUnreadable(
                f"{self._path} is damaged; restore it from your backup of the registrar's state."
            ) from error

    def with_role(self, role: Role) -> tuple[Member, ...]:
        """Everyone enrolled under ``role``."""
        return tuple(member for member in self.members() if member.role == role.value)

    def find(self, identity: Identity) -> Member | None:
        """The member called ``identity.name`` under ``identity.role``, or None."""
        named = (member for member in self.with_role(identity.role) if member.name == identity.name)
        return next(named, None)

    def add(self, member: Member) -> None:
        """Record ``member``; does nothing if it is there already with the same keys.

        Raises EnrolmentRefused as `check` does.
        """
        with exclusive(self._lock_path):
            if self.check(member):
                return
            document = _File(version=1, members=(*self.members(), member)).model_dump(mode="json")
            write_atomically(self._path, canonical_json(document))

    def check(self, member: Member) -> Member | None:
        """The record of ``member``, if it is there already with the same keys.

        Raises EnrolmentRefused if its name is taken with other keys or another group, or if another
        member holds one of its keys.
        """
        for known in self.members():
            if (known.role, known.name) == (member.role, member.name):
                if known.same_keys(member):
                    return known
                raise EnrolmentRefused(
                    f"{member.role} {member.name} is enrolled already, with other keys or in "
                    "another group; choose another name, or ask that party what happened."
                )
            if known.all_keys & {member.signing_key, member.sealing_key}:
                raise EnrolmentRefused(
                    "another party is or was enrolled with one of these keys; every party must "
                    "make its own."
                )
        return None

    def replace(
        self, identity: Identity, make: Callable[[Member | None, frozenset[str]], Member]
    ) -> Member:
        """Put what ``make`` gives in the place of ``identity``'s record, and return it.

        ``make`` gets the record, or None, and every key that anybody has or had; what it raises
        leaves the registry as it was. Nobody else changes it meanwhile.
        """
        with exclusive(self._lock_path):
            members = self.members()
            known = self.find(identity)
            taken = frozenset(key for member in members for key in member.all_keys)
            made = make(known, taken | self._own_keys())
            changed = tuple(made if member == known else member for member in members)
            if changed != members:
                document = _File(version=1, members=changed).model_dump(mode="json")
                write_atomically(self._path, canonical_json(document))
        return made

    def _own_keys(self) -> frozenset[str]:
        """Of the registrar: no party may have a governance key."""
        return frozenset(key.to_base64() for key in self._state.verifying_keys())


def enrol(
    state: StateDirectory,
    envelope: bytes,
    *,
    group: Group | None,
    now: datetime.datetime,
    own_certificate: bool = False,
) -> bytes:
    """Enrol the party whose request file is ``envelope``; returns its bundle file.

    With ``own_certificate`` the bundle has none: another authority of the trust list certifies it.
    The same request again gives a new certificate for the same keys, which is also the way back for
    a party whose certificate has expired. Raises EnrolmentRefused, Revoked, MalformedMessage,
    SignatureRefused or CertificateRequestRefused, and then changes nothing.
    """
    request = open_request(envelope)
    check_admissible(state, request, group, own_certificate=own_certificate)
    key = certificates.open_request(request.certificate_request, request.identity)
    member = _member(request, group, now, own_certificate=own_certificate)
    certificate = None
    with standing(state, request.identity):
        Registry(state).add(member)
        if not own_certificate:
            authority = CertificateAuthority.open(state, now=now)
            certificate = authority.issue(request.identity, key, now=now)
    trusted = issue_trust_list(state, now=now)
    return sign_bundle(request, certificate, trusted, state.signing_key())


def check_admissible(
    state: StateDirectory,
    request: EnrolmentRequest,
    group: Group | None,
    *,
    own_certificate: bool = False,
) -> None:
    """Raises EnrolmentRefused, or Revoked, if `enrol` would; changes nothing."""
    if request.identity.federation != state.identity.federation:
        raise EnrolmentRefused(
            "this request is for another federation; ask its sender for one that names "
            f"{state.identity.federation}."
        )
    if request.identity.role is Role.REGISTRAR:
        raise EnrolmentRefused("a federation has one registrar, made by 'fedhelp keys init'.")
    if (request.identity.role is Role.HOSPITAL) is (group is None):
        raise EnrolmentRefused(
            "give --group large or --group small for a hospital, and no group for another role."
        )
    check_not_revoked(TrustStore(state).current(), request.identity)
    now = certificates.utc_now()
    Registry(state).check(_member(request, group, now, own_certificate=own_certificate))


def check_invitable(state: StateDirectory, identity: Identity, group: Group | None) -> None:
    """Raises Revoked, or EnrolmentRefused for a party of another group or with its own authority.

    A party that is enrolled may be invited again: it gets a new certificate for the keys it has.
    """
    check_not_revoked(TrustStore(state).current(), identity)
    known = Registry(state).find(identity)
    if known is not None and known.group != group:
        raise EnrolmentRefused(
            f"{identity.role.value} {identity.name} is enrolled in group {known.group}; "
            "invite it with that group, or choose another name."
        )
    if known is not None and known.own_certificate:
        raise EnrolmentRefused(
            f"{identity.role.value} {identity.name} brings a certificate of its own authority; it "
            "joins by request file, with 'fedhelp keys enrol --own-certificate'."
        )


def _member(
    request: EnrolmentRequest,
    group: Group | None,
    now: datetime.datetime,
    *,
    own_certificate: bool,
) -> Member:
    return Member(
        role=request.identity.role.value,
        name=request.identity.name,
        group=group,
        signing_key=request.signing_key.to_base64(),
        sealing_key=request.sealing_key.to_base64(),
        context_digest=request.context_digest,
        enrolled=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        own_certificate=own_certificate,
    )
