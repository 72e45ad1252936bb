"""The one-time token with which a party joins: whom it is for, and a secret of 256 bits.

Its text is ``fhj1.FEDERATION.ROLE.NAME.GROUP.SECRET``, with ``-`` for the group of a party that is
no hospital; ``@HOST:PORT`` may follow, the address to join at. Everything but the secret is public.
What counts is the text up to the secret's end, as a whole: a token with another name or group is
another token, which nobody has issued.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Group
from fedhelp_secure.errors import ConfigurationError, MalformedMessage
from fedhelp_secure.transport.identity import Identity, Role

LIMIT_CHARACTERS = 256
"""Of a token on the wire."""

SECRET_BYTES = 32
_NO_GROUP = "-"
_TEXT = re.compile(
    r"(?P<token>fhj1\.(?P<federation>[a-z0-9-]{1,63})\.(?P<role>[a-z]{1,20})"
    r"\.(?P<name>[a-z0-9-]{1,63})\.(?P<group>large|small|-)\.[A-Za-z0-9_-]{43})"
    r"(?:@(?P<address>[A-Za-z0-9.:\[\]-]{1,260}))?\Z"
)


class TokenMalformed(ConfigurationError):
    """What was given as a token is none."""

    code = "join-token"


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A token, taken apart. Its repr shows no secret."""

    text: str = field(repr=False)
    """As it goes over the wire: without the address."""
    identity: Identity
    group: Group | None
    address: str | None = None
    """Where to join, ``host:port``, if the token says so."""

    @classmethod
    def generate(cls, identity: Identity, group: Group | None) -> JoinToken:
        """A new token, its secret from the operating system."""
        secret = secrets.token_urlsafe(SECRET_BYTES)
        parts = (identity.federation, identity.role.value, identity.name, group or _NO_GROUP)
        return cls(".".join(("fhj1", *parts, secret)), identity, group)

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """The token written in ``text``; raises TokenMalformed, which does not repeat it."""
        found = _TEXT.match(text.strip())
        if found is None:
            raise _malformed()
        try:
            identity = Identity(found["federation"], Role(found["role"]), found["name"])
        except (MalformedMessage, ValueError) as error:
            raise _malformed() from error
        group: Group | None = None
        if found["group"] == "large":
            group = "large"
        elif found["group"] == "small":
            group = "small"
        return cls(found["token"], identity, group, found["address"])

    @property
    def digest(self) -> str:
        """What the registrar keeps of it."""
        return token_digest(self.text)


def token_digest(text: str) -> str:
    """The digest of a token's whole text. A secret of 256 bits needs no slow hash."""
    return digest(text.encode("utf-8"))


def _malformed() -> TokenMalformed:
    return TokenMalformed("this is not a whole join token; paste all of what the registrar sent.")
