"""Who may join with a token: one file in the registrar's state, which holds no token.

A token is used up by the first request that comes with it, on the disk, before anything is issued.
The same request again is answered again, so that an answer that was lost strands nobody; with any
other request the token is spent.
"""

from __future__ import annotations

import datetime
import hmac
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.charter import Group
from fedhelp_secure.enrolment.request import EnrolmentRequest
from fedhelp_secure.enrolment.token import LIMIT_CHARACTERS, JoinToken, token_digest
from fedhelp_secure.errors import ConfigurationError, PolicyError
from fedhelp_secure.keystore.files import exclusive
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.identity import Identity, Role

TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"

Status = Literal["open", "used", "withdrawn"]


class InvitationsUnreadable(ConfigurationError):
    """The invitations file is damaged."""

    code = "invitations"


class InvitationRefused(ConfigurationError):
    """An invitation cannot be made or withdrawn."""

    code = "invitation"


class TokenRefused(PolicyError):
    """A token is unknown, expired, used, withdrawn, or for another party. For the log only."""

    code = "join-token-refused"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Invitation(_Document):
    """One token that was handed out, and what became of it."""

    token_digest: str
    role: str
    name: str
    group: Group | None
    made: str
    """UTC, RFC 3339; so is ``expires``."""
    expires: str
    status: Status
    request_digest: str | None
    """Of the request that used it."""

    @property
    def expires_at(self) -> datetime.datetime:
        """``expires``, aware."""
        return datetime.datetime.strptime(self.expires, TIME_FORMAT).replace(tzinfo=datetime.UTC)

    def standing(self, now: datetime.datetime) -> str:
        """``open``, ``used``, ``withdrawn`` or ``expired``."""
        return "expired" if self.status == "open" and now > self.expires_at else self.status


class _File(_Document):
    version: Literal[1]
    invitations: tuple[Invitation, ...]


class Invitations:
    """Every invitation, in order. Safe between processes; written whole or not at all."""

    def __init__(self, state: StateDirectory) -> None:
        self._federation = state.identity.federation
        self._path = state.role_directory() / "invitations.json"

    def all(self) -> tuple[Invitation, ...]:
        """Every invitation ever made; raises InvitationsUnreadable."""
        if not self._path.exists():
            return ()
        try:
            return _File.model_validate_json(self._path.read_bytes()).invitations
        except (OSError, ValidationError) as error:
            raise InvitationsUnreadable(
                f"{self._path} is damaged; restore it from your backup of the registrar's state, "
                "or remove it: then no open invitation is valid any more."
            ) from error

    def invite(
        self,
        identity: Identity,
        group: Group | None,
        *,
        now: datetime.datetime,
        valid: datetime.timedelta,
    ) -> JoinToken:
        """Make an invitation and return its token, which nobody can read from the file.

        Raises InvitationRefused if the party has an open invitation already.
        """
        token = JoinToken.generate(identity, group)
        made = Invitation(
            token_digest=token.digest,
            role=identity.role.value,
            name=identity.name,
            group=group,
            made=now.strftime(TIME_FORMAT),
            expires=(now + valid).strftime(TIME_FORMAT),
            status="open",
            request_digest=None,
        )
        with exclusive(self._path.with_suffix(".lock")):
            known = self.all()
            for other in known:
                if _is_for(other, identity) and other.standing(now) == "open":
                    raise InvitationRefused(
                        f"{identity.role.value} {identity.name} has an open invitation; withdraw "
                        "it with 'fedhelp keys withdraw' before you make another."
                    )
            self._write((*known, made))
        return token

    def withdraw(self, identity: Identity, *, now: datetime.datetime) -> None:
        """Withdraw the party's open invitation; raises InvitationRefused if it has none."""
        with exclusive(self._path.with_suffix(".lock")):
            known = self.all()
            for position, invitation in enumerate(known):
                if _is_for(invitation, identity) and invitation.standing(now) == "open":
                    self._replace(known, position, status="withdrawn")
                    return
        raise InvitationRefused(
            f"{identity.role.value} {identity.name} has no open invitation; see "
            "'fedhelp keys invitations'."
        )

    def use(
        self,
        token: str,
        request: EnrolmentRequest,
        *,
        now: datetime.datetime,
        check: Callable[[Invitation], None],
    ) -> Invitation:
        """Use ``token`` up for ``request`` and return its invitation; once, whoever comes first.

        ``check`` may raise, and then the token is not used up. Raises TokenRefused.
        """
        with exclusive(self._path.with_suffix(".lock")):
            known = self.all()
            position = self._position(known, token)
            invitation = known[position]
            _check_usable(invitation, request, now)
            check(invitation)
            if invitation.status == "used":
                return invitation
            return self._replace(known, position, status="used", request_digest=request.digest)

    def _position(self, known: tuple[Invitation, ...], token: str) -> int:
        presented = token_digest(token[:LIMIT_CHARACTERS])
        found = None
        # All of them, and in constant time each: how long it takes tells nothing.
        for position, invitation in enumerate(known):
            if hmac.compare_digest(invitation.token_digest, presented):
                found = position
        if found is None or len(token) > LIMIT_CHARACTERS:
            raise TokenRefused("the token is unknown.")
        return found

    def _replace(self, known: tuple[Invitation, ...], position: int, **update: str) -> Invitation:
        changed = known[position].model_copy(update=update)
        self._write((*known[:position], changed, *known[position + 1 :]))
        return changed

    def _write(self, invitations: tuple[Invitation, ...]) -> None:
        document = _File(version=1, invitations=invitations).model_dump(mode="json")
        write_atomically(self._path, canonical_json(document))


def invited_identity(federation: str, role: Role, name: str, group: Group | None) -> Identity:
    """Whom an invitation is for; raises InvitationRefused if role and group do not go together."""
    if role is Role.REGISTRAR:
        raise InvitationRefused("a federation has one registrar, made by 'fedhelp keys init'.")
    if (role is Role.HOSPITAL) is (group is None):
        raise InvitationRefused(
            "give --group large or --group small for a hospital, and no group for another role."
        )
    return Identity(federation, role, name)


def _is_for(invitation: Invitation, identity: Identity) -> bool:
    return (invitation.role, invitation.name) == (identity.role.value, identity.name)


def _check_usable(
    invitation: Invitation, request: EnrolmentRequest, now: datetime.datetime
) -> None:
    what = f"the token of {invitation.role} {invitation.name}"
    if now > invitation.expires_at:
        raise TokenRefused(f"{what} expired at {invitation.expires}.")
    if invitation.status == "withdrawn":
        raise TokenRefused(f"{what} was withdrawn.")
    if not _is_for(invitation, request.identity):
        raise TokenRefused(f"{what} came with the request of {request.identity}.")
    if invitation.status == "used" and request.digest != invitation.request_digest:
        raise TokenRefused(f"{what} is used up, by request {invitation.request_digest}.")
