"""The key ceremony: a custodian's first keys, made before witnesses, with a signed transcript.

What is read aloud and written down are fingerprints; what is handed out are shares of the key to
which the custodian's backups are sealed. The transcript holds no secret.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

from fedhelp_keys.custodian import key_files, shares
from fedhelp_keys.custodian.backup import backup_key_path, unsealing_key_of
from fedhelp_keys.custodian.database import FILE_NAME
from fedhelp_keys.custodian.epochs import EpochStore
from fedhelp_secure.canonical import digest
from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.identity import Role

KIND = "key-ceremony"

_PACKAGES = ("fedhelp-keys", "fedhelp-secure", "cryptography", "tenseal", "shamir-mnemonic")
_MOST_PRESENT = 20


class CeremonyRefused(ConfigurationError):
    """A ceremony cannot be held with this state, or not so."""

    code = "ceremony"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """One public key as it is read aloud."""

    key: str
    """Which key."""
    digest: str
    """SHA-256 of the public key as documents give it."""
    groups: str
    words: str


@dataclass(frozen=True, slots=True)
class Ceremony:
    """What a ceremony made. Its repr shows no share."""

    fingerprints: tuple[Fingerprint, ...]
    transcript: bytes
    """DSSE envelope, signed by the custodian."""
    shares: tuple[str, ...]
    """Secret: one for each holder."""

    def __repr__(self) -> str:
        return f"Ceremony({self.fingerprints})"


def hold(state: StateDirectory, present: Sequence[str], *, threshold: int, count: int) -> Ceremony:
    """Make a custodian's first keys and its backup key in ``count`` shares; nobody keeps the key.

    ``present`` names who is there. Raises CeremonyRefused if the custodian has stated keys before
    or nobody is there, and SharesRefused for senseless numbers; then nothing has changed.
    """
    _check(state, present)
    key = shares.new_key()
    made = shares.split(key, threshold=threshold, shares=count)
    public = unsealing_key_of(key).public
    if state.identity.role is Role.DECRYPTOR:
        key_files.prepare(state)
    store = EpochStore(state)
    write_atomically(backup_key_path(state), f"{public.to_base64()}\n".encode("ascii"))
    signing_key = state.signing_key()
    fingerprints = (
        _fingerprint("signing key", digest(signing_key.public.to_base64().encode("ascii"))),
        _fingerprint("key of epoch 1", store.status()[0].key),
        _fingerprint("backup key", digest(public.raw)),
    )
    document = {
        "version": 1,
        "federation": state.identity.federation,
        "role": state.identity.role.value,
        "name": state.identity.name,
        "held": f"{utc_now():%Y-%m-%dT%H:%M:%SZ}",
        "present": list(present),
        "fingerprints": [asdict(fingerprint) for fingerprint in fingerprints],
        "epoch_statement": digest(store.rows()[0][1]),
        "shares": {"threshold": threshold, "count": count},
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in _PACKAGES},
        },
    }
    return Ceremony(fingerprints, signing_key.sign_document(KIND, document), made)


def _check(state: StateDirectory, present: Sequence[str]) -> None:
    names = [name for name in present if name.isprintable() and 1 <= len(name) <= 100]
    if not names or len(names) != len(present) or len(names) > _MOST_PRESENT:
        raise CeremonyRefused(
            f"name everybody who is there with --present, 1 to {_MOST_PRESENT} people, each on one "
            "line."
        )
    if (state.role_directory() / FILE_NAME).exists() or (
        state.identity.role is Role.DECRYPTOR and key_files.public_context_path(state).exists()
    ):
        raise CeremonyRefused(
            "this custodian has keys: a ceremony makes its first ones. Rotate them with 'fedhelp "
            "custodian rotate', or begin with a new --state directory."
        )


def _fingerprint(key: str, key_digest: str) -> Fingerprint:
    return Fingerprint(key, key_digest, *shares.spoken(key_digest))
