"""The foundation model's credential: from a file that only its owner can read, and never shown."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from fedhelp_secure.errors import ConfigurationError

_LIMIT_BYTES = 4096
_TOKEN = re.compile(r"[!-~]+")
_ACL_MASK = 0o040
"""systemd gives the unit's user an ACL entry on a file of root's: its mask shows as the group's."""
_NAME = re.compile(r"[A-Za-z0-9._-]+")


class CredentialRefused(ConfigurationError):
    """The credential's file is missing, open to others, or holds no token."""

    code = "credential"


class Credential:
    """A bearer token (RFC 6750). Its repr shows nothing of it."""

    __slots__ = ("_token",)

    def __init__(self, token: str) -> None:
        self._token = token

    def __repr__(self) -> str:
        return "Credential(...)"

    def authorization(self) -> str:
        """Value of the Authorization header."""
        return f"Bearer {self._token}"


def read_credential(file: Path | None, name: str | None) -> Credential | None:
    """From ``file``, or the systemd credential called ``name``; None if neither is given.

    Raises CredentialRefused.
    """
    if file is not None and name is not None:
        raise CredentialRefused("give --credential-file or --credential, not both.")
    if name is not None:
        return _read(_systemd(name), open_bits=_ACL_MASK)
    return None if file is None else _read(file)


def _systemd(name: str) -> Path:
    """systemd.exec(5), LoadCredential=: a file of that name in $CREDENTIALS_DIRECTORY."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory is None or not _NAME.fullmatch(name) or name.startswith("."):
        raise CredentialRefused(
            "--credential names a systemd credential: start the broker from a unit with "
            "LoadCredential= or LoadCredentialEncrypted=, or use --credential-file."
        )
    return Path(directory) / name


def _read(path: Path, *, open_bits: int = 0) -> Credential:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise CredentialRefused(
            f"{path} cannot be read; give the credential's file with --credential-file."
        ) from error
    try:
        # Of the open file, so that nobody can put another in its place in between.
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) & 0o077 & ~open_bits:
            raise CredentialRefused(f"{path} can be read by other users; run: chmod 600 '{path}'")
        if status.st_uid not in (0, os.geteuid()):
            raise CredentialRefused(f"{path} belongs to another user; make it the broker's own.")
        data = os.read(descriptor, _LIMIT_BYTES + 1)
    finally:
        os.close(descriptor)
    # Never the content, nor what a decoder says about it: this error is shown.
    token = data.decode("ascii", errors="replace").strip() if len(data) <= _LIMIT_BYTES else ""
    if not _TOKEN.fullmatch(token):
        raise CredentialRefused(f"{path} must hold one token on one line, in ASCII.")
    return Credential(token)
