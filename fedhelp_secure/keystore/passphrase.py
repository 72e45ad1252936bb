"""Where this process's passphrase comes from: one source, read once.

A file descriptor, a systemd credential, or a question at the terminal. Never a command-line
argument or an ordinary environment variable: other users, crash reports and children see those.
"""

from __future__ import annotations

import getpass
import os
import sys
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fedhelp_secure.errors import ConfigurationError

CREDENTIAL = "fedhelp-passphrase"
"""Name of the systemd credential (``LoadCredentialEncrypted=`` in systemd.exec(5))."""

LIMIT_BYTES = 1024
MINIMUM_CHARACTERS = 15
"""NIST SP 800-63B-4, section 3.1.1.2: where a password is the only factor."""


class PassphraseMissing(ConfigurationError):
    """Keys are encrypted, or shall be, and no source gives a passphrase."""

    code = "passphrase-missing"


class PassphraseUnfit(ConfigurationError):
    """A passphrase is empty, too long or too short, no text, or was typed in two ways."""

    code = "passphrase-unfit"


@dataclass(frozen=True, slots=True)
class Passphrase:
    """UTF-8 in normal form C, so that a typed one and one from a file are the same bytes."""

    encoded: bytes = field(repr=False)

    @classmethod
    def parse(cls, raw: bytes) -> Passphrase:
        """The first and only line of ``raw``; raises PassphraseUnfit."""
        try:
            text = raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise PassphraseUnfit("a passphrase must be UTF-8 text.") from error
        if not text or len(raw) > LIMIT_BYTES or "\n" in text or "\0" in text:
            raise PassphraseUnfit(
                f"a passphrase must be one line of 1 to {LIMIT_BYTES} bytes; check its source."
            )
        return cls(unicodedata.normalize("NFC", text).encode("utf-8"))

    def check_strength(self) -> None:
        """Raises PassphraseUnfit for one that may not protect keys."""
        if len(self.encoded.decode("utf-8")) < MINIMUM_CHARACTERS:
            raise PassphraseUnfit(
                f"a passphrase must have at least {MINIMUM_CHARACTERS} characters; "
                "for example 'openssl rand -base64 24' makes one."
            )


class PassphraseSource:
    """One place to get a passphrase from. Thread-safe; whoever reads twice gets the same."""

    def __init__(
        self,
        descriptor: int | None = None,
        *,
        credential: str | None = CREDENTIAL,
        ask: bool = False,
        prompt: str = "Passphrase: ",
    ) -> None:
        """``descriptor`` goes before ``credential``; ``ask`` goes to the terminal only."""
        self._descriptor = descriptor
        self._credential = credential
        self._ask = ask
        self._prompt = prompt
        self._lock = threading.Lock()
        self._read: Passphrase | None = None

    @property
    def given(self) -> bool:
        """Whether its user chose one: then new states are encrypted under it."""
        return self._ask or self._descriptor is not None or self._credential_path() is not None

    def read(self) -> Passphrase:
        """The passphrase; raises PassphraseMissing or PassphraseUnfit."""
        return self._once(confirm=False)

    def choose(self) -> Passphrase:
        """A passphrase to encrypt under; who types it, types it twice.

        Raises PassphraseMissing or PassphraseUnfit.
        """
        chosen = self._once(confirm=True)
        chosen.check_strength()
        return chosen

    def _once(self, *, confirm: bool) -> Passphrase:
        with self._lock:
            if self._read is None:
                self._read = self._found(confirm=confirm)
            return self._read

    def _found(self, *, confirm: bool) -> Passphrase:
        path = self._credential_path()
        if not self._ask and self._descriptor is not None:
            return Passphrase.parse(_read_descriptor(self._descriptor))
        if not self._ask and path is not None:
            return Passphrase.parse(path.read_bytes()[: LIMIT_BYTES + 1])
        if not (sys.stdin and sys.stdin.isatty()):
            raise PassphraseMissing(
                "a passphrase is needed: give it by 'fedhelp --passphrase-fd N ...', by the "
                f"systemd credential {CREDENTIAL}, or start the command at a terminal, which asks."
            )
        typed = getpass.getpass(self._prompt)
        if confirm and getpass.getpass("Once more: ") != typed:
            raise PassphraseUnfit("the passphrase was typed in two ways; start again.")
        return Passphrase.parse(typed.encode("utf-8", "surrogateescape"))

    def _credential_path(self) -> Path | None:
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if directory is None or self._credential is None:
            return None
        path = Path(directory) / self._credential
        return path if path.is_file() else None


_current = PassphraseSource()


def current() -> PassphraseSource:
    """The source of this process."""
    return _current


def use(source: PassphraseSource) -> None:
    """Make ``source`` this process's, for every state that it opens from now on."""
    global _current
    _current = source


@contextmanager
def handed_on() -> Iterator[tuple[list[str], tuple[int, ...]]]:
    """Options that give a child process ``fedhelp`` this passphrase, and descriptors to pass to it.

    Both are empty if there is none. For one child, which must be started within the block.
    """
    if not _current.given:
        yield [], ()
        return
    reading, writing = os.pipe()
    try:
        # A pipe holds 64 KiB, so that this cannot block.
        os.write(writing, _current.read().encoded)
        os.close(writing)
        yield ["--passphrase-fd", str(reading)], (reading,)
    finally:
        os.close(reading)


def _read_descriptor(descriptor: int) -> bytes:
    try:
        with os.fdopen(descriptor, "rb") as file:
            return file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise PassphraseMissing(
            f"file descriptor {descriptor} cannot be read; for example "
            "'fedhelp --passphrase-fd 3 ... 3<FILE' opens it."
        ) from error
