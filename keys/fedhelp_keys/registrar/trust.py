"""The registrar's trust list: made from its state, changed by revocation, signed anew on request.

Every change is one step under the list's lock: it is read, changed, signed and durable before
anybody else may read it for a change or issue a certificate by it.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Sequence

from pydantic import ValidationError

from fedhelp_keys.registrar.ca import CertificateAuthority
from fedhelp_keys.registrar.charters import signed_charters
from fedhelp_secure.enrolment.upkeep import Upkeep
from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.catalogue import printable
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.governance import MOST_CHARTERS, MOST_SUCCESSIONS, sign_succession
from fedhelp_secure.trust.refresh import POLL_SECONDS
from fedhelp_secure.trust.store import TrustStore, check_not_revoked
from fedhelp_secure.trust.trust_list import (
    DEFAULT_MAXIMUM_AGE_SECONDS,
    MAXIMUM_AGE_SECONDS,
    TIME_FORMAT,
    Authority,
    Revocation,
    TrustList,
    open_trust_list,
    sign_trust_list,
)

REISSUED_AFTER = datetime.timedelta(seconds=60)
"""A list that is younger is given out as it is, unless a tenth of its time is less than this."""


class RevocationRefused(ConfigurationError):
    """A revocation, or a change of the trust list's terms, is not possible as it was asked for."""

    code = "revocation"


def found_trust_list(
    state: StateDirectory,
    *,
    now: datetime.datetime,
    maximum_age_seconds: int = DEFAULT_MAXIMUM_AGE_SECONDS,
) -> None:
    """Make the first list of ``state``'s federation: its own authority, nobody revoked.

    Raises RevocationRefused for an age that no list may have.
    """
    root = CertificateAuthority.open(state).root_pem.decode("ascii")
    try:
        first = TrustList(
            federation=state.identity.federation,
            sequence=1,
            issued=now.strftime(TIME_FORMAT),
            maximum_age_seconds=maximum_age_seconds,
            authorities=(Authority(certificate=root),),
            revocations=(),
        )
    except ValidationError as error:
        raise _not_possible() from error
    write_atomically(TrustStore(state).path, sign_trust_list(first, state.signing_key()))


def issue_trust_list(state: StateDirectory, *, now: datetime.datetime) -> bytes:
    """The present list in its envelope, with the present time if it is not from just now.

    The state keeps it.
    """
    store = TrustStore(state)
    held = store.current()
    governs = held.governance_key(state.governance_key()) == state.signing_key().public
    young = held.issued_at <= now < held.issued_at + min(REISSUED_AFTER, _age(held) / 10)
    if young and governs:
        return state.read(store.path)
    _change(state, lambda present: present, now)
    return state.read(store.path)


def keep_issued(state: StateDirectory, kept: Upkeep) -> None:
    """Issue the list now and, within ``kept``, again and again.

    A registrar admits by it too, so it is not to grow old while nobody asks for it.
    """
    issue_trust_list(state, now=utc_now())
    kept.every(
        POLL_SECONDS, lambda: issue_trust_list(state, now=utc_now()), "issuing the trust list"
    )


def revoke(
    state: StateDirectory, identity: Identity, *, reason: str, now: datetime.datetime
) -> TrustList:
    """The list that puts ``identity`` out for good; the state keeps it, whoever reads it next.

    Does nothing if ``identity`` is out already: the first reason and time stay. Raises
    RevocationRefused for the registrar itself, another federation, or a reason that is no line.
    """
    if identity.role is Role.REGISTRAR:
        raise RevocationRefused(
            "the registrar cannot revoke itself: it signs the list. Found a new federation."
        )
    if identity.federation != state.identity.federation:
        raise RevocationRefused("that party is of another federation; ask its registrar.")
    if not reason.isprintable():
        raise RevocationRefused("--reason must be one line without control characters.")
    fields = {
        "identity": identity.uri,
        "reason": reason.strip(),
        "revoked": now.strftime(TIME_FORMAT),
    }
    try:
        entry = Revocation.model_validate(fields)
    except ValidationError as error:
        raise RevocationRefused("--reason must be one line of 1 to 200 characters.") from error

    def revoked(held: TrustList) -> TrustList:
        if held.revocation_of(identity) is not None:
            return held
        return _changed(held, revocations=(*held.revocations, entry))

    return _change(state, revoked, now)


def party_called(
    state: StateDirectory, name: str, *, role: Role | None, enrolled: Sequence[Role]
) -> Identity:
    """Who is meant by ``name``, which is enrolled under the roles in ``enrolled``.

    A ``role`` that is given needs no registry: a party whose entry is lost can be revoked. Raises
    RevocationRefused without it unless there is exactly one, and MalformedMessage for no name.
    """
    if role is None:
        if not enrolled:
            raise RevocationRefused(
                f"nobody called {printable(name)} is enrolled; check the name, or give --role to "
                "revoke it all the same."
            )
        if len(enrolled) > 1:
            roles = ", ".join(each.value for each in enrolled)
            raise RevocationRefused(f"{name} is the name of several parties; give --role: {roles}.")
        role = enrolled[0]
    return Identity(state.identity.federation, role, name)


def set_maximum_age(state: StateDirectory, seconds: int, *, now: datetime.datetime) -> TrustList:
    """The list that may be ``seconds`` old; raises RevocationRefused for an age out of range."""

    def aged(held: TrustList) -> TrustList:
        if held.maximum_age_seconds == seconds:
            return held
        return _changed(held, maximum_age_seconds=seconds)

    return _change(state, aged, now)


def change_authorities(
    state: StateDirectory,
    make: Callable[[tuple[Authority, ...]], tuple[Authority, ...]],
    *,
    now: datetime.datetime,
) -> TrustList:
    """The list with the authorities that ``make`` gives of the present ones; the state keeps it."""
    return _change(state, lambda held: _changed(held, authorities=make(held.authorities)), now)


@contextlib.contextmanager
def standing(state: StateDirectory, identity: Identity) -> Iterator[None]:
    """Within it ``identity`` is not revoked and is not being revoked: certify it there.

    Raises Revoked. Not to be nested, and no list is issued within it.
    """
    store = TrustStore(state)
    with store.locked():
        check_not_revoked(store.current(), identity)
        yield


def _change(
    state: StateDirectory, make: Callable[[TrustList], TrustList], now: datetime.datetime
) -> TrustList:
    """Keep what ``make`` gives of the present list, issued now; the list that is kept then."""

    def signed(held: TrustList) -> bytes:
        made = _governed(state, make(held))
        # A clock that was put back must not make the list look older than what was given out.
        issued = max(now, made.issued_at).strftime(TIME_FORMAT)
        return sign_trust_list(made.model_copy(update={"issued": issued}), state.signing_key())

    return open_trust_list(TrustStore(state).replace(signed), state.signing_key().public)


def rotate_governance(
    state: StateDirectory, *, signer: str = "file:", now: datetime.datetime
) -> TrustList:
    """Hand over to a new governance key; the list that says so, which the state keeps.

    ``signer`` is the new key's URI. After a crash in between the next list that is issued says it.
    Raises what a signer raises that cannot be had, or RevocationRefused after too many changes;
    then nothing has changed.
    """
    keys = state.next_keys(signer)

    def handed_over(held: TrustList) -> TrustList:
        if len(held.governance) >= MOST_SUCCESSIONS:
            raise RevocationRefused(
                f"the governance key was changed {MOST_SUCCESSIONS} times, which is all that a "
                "trust list can tell; found a new federation."
            )
        # Under the list's lock: no list is signed by one key and says another.
        state.adopt(keys)
        return held

    return _change(state, handed_over, now)


def _governed(state: StateDirectory, made: TrustList) -> TrustList:
    """``made`` with the succession of the registrar's present key, if it lacks that."""
    governing = made.governance_key(state.governance_key())
    present = state.signing_key()
    if governing == present.public:
        return made
    sequence, old = made.sequence + 1, state.signing_key_for(governing)
    charters = signed_charters(state, old.public)[-MOST_CHARTERS:]
    added = sign_succession(made.federation, sequence, old, present, charters=charters)
    return _changed(made, governance=(*made.governance, added.decode("utf-8")))


def _changed(held: TrustList, **update: object) -> TrustList:
    """``held`` with ``update``, the next in the sequence; raises RevocationRefused if it is none.

    Not `model_copy`, which would check nothing.
    """
    fields = {**held.model_dump(), "sequence": held.sequence + 1, **update}
    try:
        return TrustList.model_validate(fields)
    except ValidationError as error:
        if error.errors()[0]["loc"][:1] == ("maximum_age_seconds",):
            raise _not_possible() from error
        raise RevocationRefused(
            "the trust list cannot hold that: it has at most 64 authorities and 4,096 revocations."
        ) from error


def _age(held: TrustList) -> datetime.timedelta:
    return datetime.timedelta(seconds=held.maximum_age_seconds)


def _not_possible() -> RevocationRefused:
    return RevocationRefused(
        f"the trust list's maximum age must be {MAXIMUM_AGE_SECONDS[0]} to "
        f"{MAXIMUM_AGE_SECONDS[-1]} seconds."
    )
