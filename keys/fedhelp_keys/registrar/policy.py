"""The registrar's own settings: how long certificates live, and where parties join."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.enrolment.lifetimes import DEFAULT_LIFETIME, LONGEST_HOURS, SHORTEST_HOURS
from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.address import parse_address


class PolicyRefused(ConfigurationError):
    """A setting is outside its bounds, or the policy file is damaged."""

    code = "registrar-policy"


class RegistrarPolicy(BaseModel):
    """What `fedhelp keys policy` shows and changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = 1
    # The bounds in hours are the command's (`changed`): whoever can write this file holds the root
    # key as well. The tests let certificates live for seconds.
    certificate_seconds: int = Field(
        default=int(DEFAULT_LIFETIME.total_seconds()), ge=1, le=LONGEST_HOURS * 3600
    )
    join_address: str | None = None
    """Where parties reach the join port, ``host:port``; it goes into every invitation."""

    @property
    def certificate_lifetime(self) -> datetime.timedelta:
        """From issue to expiry."""
        return datetime.timedelta(seconds=self.certificate_seconds)

    def changed(
        self, *, certificate_hours: int | None = None, join_address: str | None = None
    ) -> RegistrarPolicy:
        """With what is not None in the place of the present.

        Raises PolicyRefused or AddressMalformed.
        """
        update: dict[str, object] = {}
        if certificate_hours is not None:
            if not SHORTEST_HOURS <= certificate_hours <= LONGEST_HOURS:
                raise PolicyRefused(
                    f"certificates live {SHORTEST_HOURS} to {LONGEST_HOURS} hours; "
                    "give --certificate-hours in that range."
                )
            update["certificate_seconds"] = certificate_hours * 3600
        if join_address is not None:
            parse_address(join_address, "--join-address")
            update["join_address"] = join_address
        return self.model_copy(update=update)


def load_policy(state: StateDirectory) -> RegistrarPolicy:
    """The policy of the registrar's ``state``; the default one before any was written.

    Raises PolicyRefused if the file is damaged.
    """
    path = _path(state)
    if not path.exists():
        return RegistrarPolicy()
    try:
        return RegistrarPolicy.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise PolicyRefused(f"{path} is damaged; write it anew with 'fedhelp keys policy'.") from (
            error
        )


def save_policy(state: StateDirectory, policy: RegistrarPolicy) -> None:
    """Keep ``policy``; a running registrar heeds it from the next certificate on."""
    write_atomically(_path(state), canonical_json(policy.model_dump(mode="json")))


def _path(state: StateDirectory) -> Path:
    return state.role_directory() / "policy.json"
