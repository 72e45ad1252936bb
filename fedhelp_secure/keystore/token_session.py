"""Sessions with PKCS#11 tokens (OASIS PKCS#11 3.1), through python-pkcs11."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import pkcs11
from pkcs11 import Session, Token

from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.keystore.passphrase import Passphrase


class TokenUnavailable(ConfigurationError):
    """A PKCS#11 token cannot be reached, does not open, or does not hold the key."""

    code = "token"


class TokenConnection:
    """One login to one token. Thread-safe: a session does one thing at a time."""

    def __init__(self, module: Path, **token: str | None) -> None:
        self._module = module
        self._token = token
        self._lock = threading.Lock()
        self._session: Session | None = None

    @contextmanager
    def session(self, pin: Callable[[], Passphrase], *, writing: bool = False) -> Iterator[Session]:
        """The session, opened with ``pin`` if there is none; raises TokenUnavailable.

        After an error it is given up, so that the next one starts anew: a token that was taken out
        may be back.
        """
        with self._lock:
            try:
                if self._session is not None and writing and not self._session.rw:
                    self._give_up()
                if self._session is None:
                    self._session = self._opened(pin(), writing=writing)
                yield self._session
            except pkcs11.PKCS11Error as error:
                self._give_up()
                raise _translated(error, self._module) from error

    def _opened(self, pin: Passphrase, *, writing: bool) -> Session:
        try:
            library = pkcs11.lib(str(self._module))
        except RuntimeError as error:
            raise TokenUnavailable(
                f"{self._module} cannot be loaded as a PKCS#11 library; check module-path."
            ) from error
        tokens = [token for token in library.get_tokens() if self._fits(token)]
        if len(tokens) != 1:
            raise TokenUnavailable(
                f"{self._module} shows {len(tokens)} tokens of the URI's name, but must show one; "
                "check that it is plugged in, or name its serial."
            )
        return tokens[0].open(rw=writing, user_pin=pin.encoded.decode("utf-8"))

    def _fits(self, token: Token) -> bool:
        serial = token.serial.decode("utf-8", "replace").rstrip("\0 ")
        shown = {
            "label": token.label,
            "serial": serial,
            "manufacturer": token.manufacturer_id,
            "model": token.model,
        }
        return all(value in (None, shown[name]) for name, value in self._token.items())

    def _give_up(self) -> None:
        if self._session is not None:
            with suppress(pkcs11.PKCS11Error):
                self._session.close()
        self._session = None


@cache
def connection_to(
    module: Path, label: str | None, serial: str | None, manufacturer: str | None, model: str | None
) -> TokenConnection:
    """The one connection of this process to that token; None fits every token."""
    return TokenConnection(
        module, label=label, serial=serial, manufacturer=manufacturer, model=model
    )


def _translated(error: pkcs11.PKCS11Error, module: Path) -> TokenUnavailable:
    # python-pkcs11's errors are empty: their class says all there is, and no PIN is in them.
    name = type(error).__name__
    if isinstance(error, pkcs11.PinLocked):
        return TokenUnavailable("the token's PIN is locked; its security officer must reset it.")
    if isinstance(error, pkcs11.PinIncorrect | pkcs11.PinInvalid | pkcs11.PinLenRange):
        return TokenUnavailable("the token refuses the PIN; give the right one.")
    return TokenUnavailable(f"the token behind {module} answers {name}; see its own manual.")
