"""A party's own keys as one charter names them: present ones, or those before a rotation."""

from __future__ import annotations

from dataclasses import dataclass

from fedhelp_secure.charter import Charter, CharterRefused
from fedhelp_secure.sealing import UnsealingKey
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import KeyNotHeld, StateDirectory


@dataclass(frozen=True, slots=True)
class HospitalKeys:
    """What a hospital signs with, and opens with, under one charter. Its repr shows no secret."""

    signing_key: SigningKey
    unsealing_key: UnsealingKey


def hospital_keys(state: StateDirectory, charter: Charter) -> HospitalKeys:
    """The keys of ``state``'s hospital that ``charter`` names; raises CharterRefused."""
    hospital = charter.hospital(state.identity.name)
    try:
        return HospitalKeys(
            state.signing_key_for(hospital.verifying_key()),
            state.unsealing_key_for(hospital.recipient_key()),
        )
    except KeyNotHeld as error:
        raise CharterRefused(
            "the charter names another signing or sealing key for this hospital, or one that was "
            "destroyed; ask the registrar for a new charter."
        ) from error
