"""Who a party is: a federation, a role and a name, written as a SPIFFE URI in its certificate."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from fedhelp_secure.errors import MalformedMessage

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")


class Role(enum.Enum):
    """What a party may do; the RPC access table is written in these."""

    HOSPITAL = "hospital"
    AGGREGATOR = "aggregator"
    DECRYPTOR = "decryptor"
    UNMASKER = "unmasker"
    BROKER = "broker"
    REGISTRAR = "registrar"
    AUDITOR = "auditor"


def check_label(value: str, what: str) -> str:
    """``value`` unchanged; raises MalformedMessage unless it is a lower-case DNS label.

    Names become file names, log lines and certificate subjects: a label can hold no path
    separator, no control character and no terminal escape.
    """
    if not _LABEL.match(value):
        raise MalformedMessage(
            f"{what} must be 1 to 63 lower-case letters, digits or hyphens, "
            "and neither begin nor end with a hyphen."
        )
    return value


@dataclass(frozen=True, slots=True)
class Identity:
    """One party of one federation."""

    federation: str
    role: Role
    name: str

    def __post_init__(self) -> None:
        check_label(self.federation, "a federation's name")
        check_label(self.name, "a party's name")

    def __str__(self) -> str:
        return self.uri

    @property
    def uri(self) -> str:
        """``spiffe://<federation>/<role>/<name>``."""
        return f"spiffe://{self.federation}/{self.role.value}/{self.name}"

    @classmethod
    def from_uri(cls, uri: str) -> Identity:
        """The identity written in ``uri``; raises MalformedMessage for any other form."""
        try:
            parts = urlsplit(uri)
            role_text, name = parts.path.removeprefix("/").split("/")
            identity = cls(parts.netloc, Role(role_text), name)
        except ValueError as error:
            raise MalformedMessage(
                "an identity must have the form spiffe://<federation>/<role>/<name>."
            ) from error
        if identity.uri != uri:
            raise MalformedMessage(
                "an identity must have the form spiffe://<federation>/<role>/<name>."
            )
        return identity
