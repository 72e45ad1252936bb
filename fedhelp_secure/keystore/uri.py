"""URIs that name where a private key is: ``file:`` (RFC 8089) and ``pkcs11:`` (RFC 7512)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from fedhelp_secure.errors import ConfigurationError

_SELECTORS = {"token", "manufacturer", "serial", "model", "object", "id", "type"}
_QUERY = {"pin-source", "module-path"}


class SignerUriRefused(ConfigurationError):
    """A signer's URI has another form than this program takes."""

    code = "signer-uri"


@dataclass(frozen=True, slots=True)
class FileUri:
    """A PKCS#8 PEM file; None: the one in the party's own state."""

    path: Path | None

    def __str__(self) -> str:
        return "file:" if self.path is None else self.path.as_uri()


@dataclass(frozen=True, slots=True)
class TokenUri:
    """A private key in a PKCS#11 token. It never holds a PIN, so that it may be shown."""

    text: str
    module: Path
    token: str | None = None
    manufacturer: str | None = None
    serial: str | None = None
    model: str | None = None
    object: str | None = None
    id: bytes | None = None
    pin_source: Path | None = None

    def __str__(self) -> str:
        return self.text


def parse(text: str) -> FileUri | TokenUri:
    """The parsed URI; raises SignerUriRefused."""
    if not (text.isascii() and text.isprintable()):
        raise SignerUriRefused("a signer's URI must be printable ASCII; percent-encode the rest.")
    scheme, _, rest = text.partition(":")
    if scheme == "file":
        return FileUri(_file_path(text) if rest else None)
    if scheme == "pkcs11":
        return _token(text, rest)
    raise SignerUriRefused(
        "a signer's URI must begin with file: or pkcs11:, for example "
        "'pkcs11:token=hospital;object=signing?module-path=/usr/lib/softhsm/libsofthsm2.so'."
    )


def _file_path(text: str) -> Path:
    parts = urlsplit(text)
    path = Path(_decoded(parts.path))
    if parts.netloc not in ("", "localhost") or parts.query or not path.is_absolute():
        raise SignerUriRefused(
            "a file: URI must name an absolute path, as file:/media/ca.pem does."
        )
    return path


def _token(text: str, rest: str) -> TokenUri:
    path, _, query = rest.partition("?")
    selectors = _attributes(path, ";", _SELECTORS)
    found = _attributes(query, "&", _QUERY)
    if selectors.pop("type", "private") != "private":
        raise SignerUriRefused("a signer's pkcs11: URI must name a private key (type=private).")
    if "module-path" not in found or not Path(_decoded(found["module-path"])).is_absolute():
        raise SignerUriRefused(
            "a pkcs11: URI must name the token's library by an absolute path, after a question "
            "mark: ?module-path=/usr/lib/softhsm/libsofthsm2.so"
        )
    if not {"token", "serial"} & selectors.keys() or not {"object", "id"} & selectors.keys():
        raise SignerUriRefused(
            "a pkcs11: URI must name one token (token= or serial=) and one key (object= or id=)."
        )
    identifier = selectors.pop("id", None)
    pin_source = found.get("pin-source")
    texts = {name: _decoded(value) for name, value in selectors.items()}
    return TokenUri(
        text,
        Path(_decoded(found["module-path"])),
        id=None if identifier is None else unquote_to_bytes(identifier),
        pin_source=None if pin_source is None else _pin_path(_decoded(pin_source)),
        **texts,
    )


def _pin_path(source: str) -> Path:
    path = _file_path(source) if source.startswith("file:") else Path(source)
    if not path.is_absolute():
        raise SignerUriRefused("pin-source must name a file by an absolute path: file:/run/pin.")
    return path


def _attributes(text: str, separator: str, known: set[str]) -> dict[str, str]:
    """Names and still encoded values; raises SignerUriRefused for a name unknown or repeated."""
    found: dict[str, str] = {}
    for item in filter(None, text.split(separator)):
        name, equals, value = item.partition("=")
        if name == "pin-value":
            raise SignerUriRefused(
                "a PIN in a URI would be stored and shown: leave pin-value out; the PIN is the "
                "passphrase, or in the file that pin-source=file:/... names."
            )
        if not equals or not value or name not in known or name in found:
            raise SignerUriRefused(
                f"a pkcs11: URI may have each of {', '.join(sorted(known))} once there, with a "
                "value; see RFC 7512."
            )
        found[name] = value
    return found


def _decoded(value: str) -> str:
    try:
        return unquote_to_bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise SignerUriRefused("a signer's URI must be UTF-8, percent-encoded.") from error
