"""The key files of a custodian's epochs, and how a secret one is destroyed.

The first epoch's are those with which the custodian was enrolled: a decryptor's ``context.secret``
and ``context.public``, an unmasker's ``keys/sealing.bin``. Later ones are in ``epochs/``.
"""

from __future__ import annotations

from pathlib import Path

from fedhelp_secure.canonical import digest
from fedhelp_secure.sealing import UnsealingKey
from fedhelp_secure.state import StateDirectory, StateError, write_atomically
from fedhelp_secure.transport.identity import Role

FIRST = 1
"""The number of the epoch that `fedhelp custodian prepare` or enrolment made."""


def secret_path(state: StateDirectory, epoch: int) -> Path:
    """The secret of ``epoch``, owner-only."""
    if epoch > FIRST:
        return state.role_directory() / "epochs" / f"{epoch}.secret"
    if state.identity.role is Role.UNMASKER:
        return state.sealing_key_path
    return state.role_directory() / "context.secret"


def public_context_path(state: StateDirectory, epoch: int = FIRST) -> Path:
    """A decryptor's public CKKS key of ``epoch``."""
    if epoch > FIRST:
        return state.role_directory() / "epochs" / f"{epoch}.public"
    return state.role_directory() / "context.public"


def prepare(state: StateDirectory) -> str:
    """Make a decryptor's first CKKS keys; returns the digest of the public context.

    Raises StateError if it has keys: `fedhelp custodian rotate` makes the next ones.
    """
    public_path = public_context_path(state)
    if public_path.exists():
        raise StateError(
            f"{public_path} exists: this decryptor has its keys; 'fedhelp custodian rotate' makes "
            "the next epoch's."
        )
    return make(state, FIRST)


def make(state: StateDirectory, epoch: int) -> str:
    """Make the keys of ``epoch``; returns the public one as a statement gives it.

    What a crash left of an epoch that was never stated is overwritten.
    """
    secret = secret_path(state, epoch)
    secret.parent.mkdir(mode=0o700, exist_ok=True)
    state.overwrite_secret(secret)
    if state.identity.role is Role.UNMASKER:
        key = UnsealingKey.generate()
        state.write_secret(secret, key.to_bytes())
        return key.public.to_base64()
    # Here, not above: an unmasker needs no homomorphic encryption.
    from fedhelp_secure.secure_sum.ckks import generate_keys

    private, public = generate_keys()
    state.write_secret(secret, private)
    # The public file last: where it is, the pair is complete.
    write_atomically(public_context_path(state, epoch), public)
    return digest(public)


def public_key(state: StateDirectory, epoch: int) -> str:
    """The public key of ``epoch`` as a statement gives it; raises StateError if it is missing."""
    if state.identity.role is Role.UNMASKER:
        secret = state.read_secret(secret_path(state, epoch))
        return UnsealingKey.from_bytes(secret).public.to_base64()
    return digest(state.read(public_context_path(state, epoch)))


def destroy(state: StateDirectory, epoch: int) -> None:
    """Overwrite and remove the secret of ``epoch``, if it is still there."""
    path = secret_path(state, epoch)
    kept = kept_sealing_key_path(state)
    if path == state.sealing_key_path and path.exists() and not kept.exists():
        # Enrolling again names the key that charters pin, whose private half is gone.
        write_atomically(kept, public_key(state, epoch).encode("ascii"))
    state.overwrite_secret(path)


def kept_sealing_key_path(state: StateDirectory) -> Path:
    """The public half of an unmasker's first sealing key, once its private half is destroyed."""
    return state.role_directory() / "sealing.pub"
