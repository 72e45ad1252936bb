"""Charters made after parties have rotated their keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from support.charters import complete
from support.federation import Federation

from fedhelp_keys.registrar.charters import sign_and_record
from fedhelp_secure.charter import parse_charter
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Role


def rotate(state: StateDirectory) -> None:
    """Other keys, without a registrar."""
    state.adopt(state.next_keys())


def with_present_keys(federation: Federation, **changes: object) -> Federation:
    """The same parties under a second charter, which names the keys that they have now."""
    document = federation.charter.document() | {"name": "second"} | changes
    for hospital in document["hospitals"]:
        state = federation.state(hospital["name"])
        _name(hospital, state)
        hospital["sealing_key"] = state.unsealing_key().public.to_base64()
        hospital.pop("authenticator_key")
    custodians = document["custodians"]
    for party in (custodians["decryptor"], *custodians["unmaskers"]):
        _name(party, federation.state(party["name"]))
    _name(document["aggregator"], federation.state(Role.AGGREGATOR))
    _name(document["broker"], federation.state(Role.BROKER))
    for auditor in document["auditors"]:
        _name(auditor, federation.state(Role.AUDITOR))
    charter = parse_charter(complete(document))
    registrar = federation.state(Role.REGISTRAR)
    governance_key = registrar.signing_key()
    envelope = sign_and_record(registrar, charter)
    return replace(
        federation, charter=charter, charter_envelope=envelope, governance_key=governance_key
    )


def _name(party: dict[str, Any], state: StateDirectory) -> None:
    party["signing_key"] = state.signing_key().public.to_base64()
