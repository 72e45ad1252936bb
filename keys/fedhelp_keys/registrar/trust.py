"""The registrar's trust list: made from its state, signed anew whenever somebody asks."""

from __future__ import annotations

import datetime

from fedhelp_keys.registrar.ca import CertificateAuthority
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.trust.store import TrustStore
from fedhelp_secure.trust.trust_list import (
    DEFAULT_MAXIMUM_AGE_SECONDS,
    TIME_FORMAT,
    Authority,
    TrustList,
    sign_trust_list,
)


def found_trust_list(
    state: StateDirectory,
    *,
    now: datetime.datetime,
    maximum_age_seconds: int = DEFAULT_MAXIMUM_AGE_SECONDS,
) -> None:
    """Make the first list of ``state``'s federation: its own authority, nobody revoked."""
    root = CertificateAuthority.open(state).root_pem.decode("ascii")
    first = TrustList(
        federation=state.identity.federation,
        sequence=1,
        issued=now.strftime(TIME_FORMAT),
        maximum_age_seconds=maximum_age_seconds,
        authorities=(Authority(certificate=root),),
        revocations=(),
    )
    write_atomically(TrustStore(state).path, sign_trust_list(first, state.signing_key()))


def issue_trust_list(state: StateDirectory, *, now: datetime.datetime) -> bytes:
    """The present list with the present time, in its envelope; the state keeps it."""
    store = TrustStore(state)
    held = store.current()
    # A clock that was put back must not make the list look older than what was given out.
    issued = max(now, held.issued_at)
    renewed = held.model_copy(update={"issued": issued.strftime(TIME_FORMAT)})
    envelope = sign_trust_list(renewed, state.signing_key())
    store.install(envelope)
    return envelope
