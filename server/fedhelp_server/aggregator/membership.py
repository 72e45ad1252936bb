"""Who, of those that the federation enrolled, is a party of the charter that is being run."""

from __future__ import annotations

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import PolicyError
from fedhelp_secure.signing import VerifyingKey
from fedhelp_secure.transport.identity import Identity, Role


class NotInCharter(PolicyError):
    """The caller is enrolled, but the charter names nobody of that role and name."""

    code = "not-in-charter"


class OtherCharter(PolicyError):
    """A message names another charter than the one that this aggregator runs."""

    code = "other-charter"


def check_charter_digest(charter_digest: str, expected: str) -> None:
    """Raises OtherCharter unless the two digests are equal."""
    if charter_digest != expected:
        raise OtherCharter(
            "this aggregator runs another charter; fetch its charter again before going on."
        )


def custodians_of(charter: Charter) -> tuple[Identity, ...]:
    """The custodians in the order in which answers are relayed: unmaskers after the decryptor."""
    named = charter.custodians
    return (
        Identity(charter.federation, Role.DECRYPTOR, named.decryptor.name),
        *(Identity(charter.federation, Role.UNMASKER, one.name) for one in named.unmaskers),
    )


def member_key(charter: Charter, caller: Identity) -> VerifyingKey:
    """The key with which ``caller`` signs under ``charter``; raises NotInCharter."""
    keys = {
        Role.HOSPITAL: {party.name: party.verifying_key() for party in charter.hospitals},
        Role.AUDITOR: {party.name: party.verifying_key() for party in charter.auditors},
        Role.BROKER: {charter.broker.name: charter.broker.verifying_key()},
    }
    key = keys.get(caller.role, {}).get(caller.name)
    if key is None or caller.federation != charter.federation:
        raise NotInCharter(
            f"the charter does not name this {caller.role.value}; ask the registrar for a charter "
            "that does."
        )
    return key
