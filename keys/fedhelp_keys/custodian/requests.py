"""What every custodian requires of a request before it looks at its content."""

from __future__ import annotations

from fedhelp_secure.charter import Charter, CharterRefused, SignedParty
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.secure_sum.contribution import check_round
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import KeyNotHeld, StateDirectory
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.trust.charters import open_own_charter

MAXIMUM_CHARTER_BYTES = 1024 * 1024


class CharterGate:
    """Opens charters for one custodian: governance's signature, federation, and its own keys."""

    def __init__(self, state: StateDirectory) -> None:
        self.identity = state.identity
        self._state = state

    def open(self, envelope: bytes, round_number: int) -> Charter:
        """The charter in ``envelope``.

        Raises MalformedMessage, SignatureRefused, CharterRefused, or RoundRefused if it has no
        such round.
        """
        if len(envelope) > MAXIMUM_CHARTER_BYTES:
            raise MalformedMessage("a charter is longer than 1 MiB; ask the registrar for another.")
        charter = open_own_charter(self._state, envelope).charter
        if charter.federation != self.identity.federation:
            raise _names_another()
        self.own_index(charter)
        check_round(charter, round_number)
        return charter

    def own_index(self, charter: Charter) -> int:
        """This custodian's place among those of its role in ``charter``, from 0.

        A name alone would do for nobody: raises CharterRefused unless the charter gives this
        custodian's name and signing key together.
        """
        custodians = charter.custodians
        named = (
            (custodians.decryptor,)
            if self.identity.role is Role.DECRYPTOR
            else custodians.unmaskers
        )
        for index, custodian in enumerate(named):
            if custodian.name == self.identity.name:
                self._held(custodian)
                return index
        raise _names_another()

    def signing_key(self, charter: Charter) -> SigningKey:
        """This custodian's key that ``charter`` names, the present one or a former."""
        custodians = charter.custodians
        if self.identity.role is Role.DECRYPTOR:
            return self._held(custodians.decryptor)
        return self._held(custodians.unmasker(self.identity.name))

    def _held(self, custodian: SignedParty) -> SigningKey:
        try:
            return self._state.signing_key_for(custodian.verifying_key())
        except KeyNotHeld as error:
            raise _names_another() from error


def _names_another() -> CharterRefused:
    return CharterRefused(
        "the charter names another custodian or another key of it; call the custodian that "
        "it names, or ask the registrar for a new charter."
    )
