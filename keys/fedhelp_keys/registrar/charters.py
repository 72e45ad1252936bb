"""Which charters this registrar has signed, and with which governance key.

When that key is handed over, its successor says which charters of it stay valid: these.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.charter import Charter, Digest, open_charter, sign_charter
from fedhelp_secure.keystore.files import exclusive
from fedhelp_secure.signing import VerifyingKey
from fedhelp_secure.state import StateDirectory, StateError, write_atomically


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Signed(_Document):
    digest: Digest
    governance_key: str


class _File(_Document):
    version: Literal[1] = 1
    charters: tuple[_Signed, ...]


def sign_and_record(state: StateDirectory, charter: Charter) -> bytes:
    """``charter`` in its envelope, signed with the present governance key, and on record."""
    key = state.signing_key()
    # First: what is on record and was never given out does no harm.
    _record(state, charter, key.public)
    return sign_charter(charter, key)


def record_envelope(state: StateDirectory, envelope: bytes) -> None:
    """Put a charter on record that the present governance key has signed; raises SignatureRefused.

    For charters that were made before there was a record.
    """
    key = state.signing_key().public
    _record(state, open_charter(envelope, key), key)


def signed_charters(state: StateDirectory, key: VerifyingKey) -> tuple[str, ...]:
    """Digests of the charters that ``key`` has signed, in order."""
    return tuple(each.digest for each in _read(state) if each.governance_key == key.to_base64())


def _record(state: StateDirectory, charter: Charter, key: VerifyingKey) -> None:
    added = _Signed(digest=charter.digest, governance_key=key.to_base64())
    path = state.role_directory() / "charters.json"
    with exclusive(path.with_suffix(".lock")):
        known = _read(state)
        if added not in known:
            document = _File(charters=(*known, added)).model_dump(mode="json")
            write_atomically(path, canonical_json(document))


def _read(state: StateDirectory) -> tuple[_Signed, ...]:
    path = state.role_directory() / "charters.json"
    try:
        return _File.model_validate_json(path.read_bytes()).charters
    except FileNotFoundError:
        return ()
    except (OSError, ValidationError) as error:
        raise StateError(f"{path} is damaged; put its backup back.") from error
