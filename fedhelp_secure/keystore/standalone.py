"""One secret in one file of its own, outside of every state: a privacy officer's key.

Encrypted, the file is the lock of `lock` (one line of JSON), then the secret as `container` writes
it.
"""

from __future__ import annotations

from collections.abc import Callable

from fedhelp_secure.keystore import container, lock
from fedhelp_secure.keystore.passphrase import Passphrase


def seal(secret: bytes, chosen: Passphrase, purpose: str, *, cost: int = lock.COST) -> bytes:
    """The file that holds ``secret``, for ``purpose`` only; raises PassphraseUnfit."""
    chosen.check_strength()
    context = {"file": purpose}
    key = lock.new_key()
    return lock.wrap(key, chosen, context, cost=cost) + b"\n" + container.seal(key, secret, context)


def unseal(data: bytes, read: Callable[[], Passphrase], purpose: str) -> bytes:
    """The secret in ``data``, which is that itself if it is not encrypted.

    Raises what ``read`` raises, PassphraseWrong, or StateError if ``data`` was altered.
    """
    if not data.startswith(b"{"):
        return data
    document, _, sealed = data.partition(b"\n")
    context = {"file": purpose}
    return container.unseal(lock.unwrap(document, read(), context), sealed, context)
