"""Passphrases as a process gets them: through a file descriptor."""

from __future__ import annotations

import os

from fedhelp_secure.keystore import passphrase
from fedhelp_secure.keystore.passphrase import Passphrase, PassphraseSource

FIRST = "the first passphrase of a test"
SECOND = "quite another passphrase"


def descriptor_with(data: bytes) -> int:
    """A descriptor that gives ``data``, then ends."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as file:
        file.write(data)
    return reading


def give(text: str | None) -> None:
    """From now on this process's passphrase is ``text``; None: nobody gives it one."""
    if text is None:
        passphrase.use(PassphraseSource(credential=None))
    else:
        passphrase.use(PassphraseSource(descriptor_with(text.encode())))


def chosen(text: str) -> Passphrase:
    """``text`` as a passphrase to encrypt under."""
    return Passphrase.parse(text.encode())
