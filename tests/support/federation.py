"""A whole small federation for tests: real states, keys, certificates and a signed charter.

Only product code makes it: the registrar founds it, every party asks to be enrolled and installs
its bundle. Nothing is shared between two calls.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from support.charters import complete, merge

from fedhelp_keys.registrar.ca import found_federation
from fedhelp_keys.registrar.charters import sign_and_record
from fedhelp_keys.registrar.registry import enrol
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter, Group, parse_charter
from fedhelp_secure.enrolment.bundle import install_bundle
from fedhelp_secure.enrolment.request import make_request
from fedhelp_secure.secure_sum.ckks import generate_keys
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.identity import Identity, Role

FEDERATION = "testfed"
SINGLE_ROLES = (Role.AGGREGATOR, Role.DECRYPTOR, Role.UNMASKER, Role.BROKER, Role.AUDITOR)
"""One party for each of these; its name is the role's."""


@dataclass(frozen=True, slots=True)
class Federation:
    """Everything that a test may want of a federation; ``root`` holds one directory a party."""

    root: Path
    states: Mapping[str, StateDirectory]
    charter: Charter
    charter_envelope: bytes
    governance_key: SigningKey

    def state(self, party: str | Role) -> StateDirectory:
        """The state of a hospital or a further unmasker by name, of any other party by its role."""
        return self.states[party.value if isinstance(party, Role) else party]

    def charter_file(self) -> Path:
        """The charter's envelope as a file."""
        path = self.root / "charter.json"
        path.write_bytes(self.charter_envelope)
        return path


def make_federation(
    root: Path, *, large: int = 2, small: int = 4, unmaskers: int = 1, **charter_overrides: object
) -> Federation:
    """A federation in ``root`` with ``large`` and ``small`` hospitals and a tiny valid charter.

    The first unmasker is called ``unmasker``, the others ``unmasker-2`` and so on.
    ``charter_overrides`` replace entries of the charter's document; mappings are merged, for
    example ``rounds={"count": 1}``. ``privacy.sigma_units`` follows from the rest unless given.
    """
    now = utc_now()
    registrar = found_federation(root / "registrar", FEDERATION, now=now)
    states = {"registrar": registrar}
    for role in SINGLE_ROLES:
        states[role.value] = _join(registrar, root, Identity(FEDERATION, role, role.value), None)
    for number in range(2, unmaskers + 1):
        identity = Identity(FEDERATION, Role.UNMASKER, f"unmasker-{number}")
        states[identity.name] = _join(registrar, root, identity, None)
    sizes: dict[Group, int] = {"large": large, "small": small}
    for group, size in sizes.items():
        for number in range(1, size + 1):
            identity = Identity(FEDERATION, Role.HOSPITAL, f"{group}-{number}")
            states[identity.name] = _join(registrar, root, identity, group)
    hospitals = sorted(name for name in states if name.startswith(("large-", "small-")))
    document = _document(states, hospitals)
    merge(document, charter_overrides)
    charter = parse_charter(complete(document))
    governance_key = registrar.signing_key()
    return Federation(root, states, charter, sign_and_record(registrar, charter), governance_key)


def copied(federation: Federation, root: Path) -> Federation:
    """The same parties with states of their own in the new ``root``."""
    shutil.copytree(federation.root, root)
    states = {
        name: StateDirectory(root / state.root.relative_to(federation.root), state.identity)
        for name, state in federation.states.items()
    }
    return replace(federation, root=root, states=states)


def join(registrar: StateDirectory, root: Path, identity: Identity) -> StateDirectory:
    """One more party, enrolled by ``registrar`` (a hospital becomes a small one)."""
    return _join(registrar, root, identity, "small" if identity.role is Role.HOSPITAL else None)


def _join(
    registrar: StateDirectory, root: Path, identity: Identity, group: Group | None
) -> StateDirectory:
    state = StateDirectory.create(root / f"{identity.role.value}-{identity.name}", identity)
    if identity.role is Role.DECRYPTOR:
        secret, public = generate_keys()
        write_atomically(state.role_directory() / "context.secret", secret)
        write_atomically(state.role_directory() / "context.public", public)
    now = utc_now()
    install_bundle(state, enrol(registrar, make_request(state), group=group, now=now), now=now)
    return state


def _document(states: Mapping[str, StateDirectory], hospitals: list[str]) -> dict[str, Any]:
    decryptor = states["decryptor"]
    context = decryptor.read(decryptor.role_directory() / "context.public")
    count = len(hospitals)
    return {
        "version": 1,
        "federation": FEDERATION,
        "name": "tiny",
        "created": "2026-01-01T00:00:00Z",
        "task": "classification",
        "classes": ["benign", "malignant"],
        "proxy": {
            "digest": digest(b"proxy images"),
            "count": 8,
            "height": 32,
            "width": 32,
            "public_set_digest": digest(b"public set"),
        },
        "hospitals": [
            {
                **_signed(states[name]),
                "group": name.split("-")[0],
                "sealing_key": _sealing_key(states[name]),
            }
            for name in hospitals
        ],
        "weights": {"large": 2, "small": 1},
        "secure_sum": {"values": 8, "fraction_bits": 12},
        "privacy": {
            "epsilon": "8",
            "delta": "1e-6",
            "clip_units": 3276,
            "maximum_patients": 500,
        },
        "probe": {"dimension": 4, "ridge": "0.1", "step": "1.0", "nominal_patients": 50},
        "cohort": {
            "minimum": max(2, count - 1),
            "colluders": 1,
            "minimum_large": 1 if any(name.startswith("large-") for name in hospitals) else 0,
            "minimum_small": 1 if any(name.startswith("small-") for name in hospitals) else 0,
        },
        "rounds": {"count": 2, "deadline_seconds": 60},
        "foundation_model": {
            "purpose": "proxy-embeddings",
            "url": "https://127.0.0.1:9000",
            "model": "dinov2-small",
        },
        "custodians": {
            "epoch": 1,
            "decryptor": {**_signed(decryptor), "context_digest": digest(context)},
            "unmaskers": [
                {**_signed(state), "sealing_key": _sealing_key(state)}
                for name, state in sorted(states.items())
                if name.startswith("unmasker")
            ],
        },
        "aggregator": _signed(states["aggregator"]),
        "broker": _signed(states["broker"]),
        "auditors": [_signed(states["auditor"])],
        "retention_days": 365,
    }


def _signed(state: StateDirectory) -> dict[str, str]:
    return {
        "name": state.identity.name,
        "signing_key": state.signing_key().public.to_base64(),
    }


def _sealing_key(state: StateDirectory) -> str:
    return state.unsealing_key().public.to_base64()
