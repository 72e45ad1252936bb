"""One byte form for every JSON document that is signed or digested (RFC 8785), and its digest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rfc8785

from fedhelp_secure.errors import MalformedMessage

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


def canonical_json(document: Mapping[str, Any]) -> bytes:
    """The RFC 8785 form of ``document``: equal documents give equal bytes on every machine.

    Raises MalformedMessage for what has no such form: NaN, infinities, integers beyond 2**53, text
    that is no Unicode, nesting beyond all sense.
    """
    try:
        return rfc8785.dumps(dict(document))
    # Of a lone surrogate in a key, rfc8785 lets Python's own error through.
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as error:
        raise MalformedMessage(
            "a document holds a number or a text that JSON cannot carry exactly; its sender must "
            "mend it."
        ) from error


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in ``data``; raises MalformedMessage naming ``what``, never its content."""
    try:
        document = json.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise MalformedMessage(f"{what} is not JSON; ask its sender to send it again.") from error
    if not isinstance(document, dict):
        raise MalformedMessage(f"{what} is not a JSON object; ask its sender to send it again.")
    return document


def digest(data: bytes | memoryview) -> str:
    """``sha256:`` and 64 hexadecimal digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Digesting:
    """The digest, as `digest` writes it, of bytes that come in parts."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, part: bytes) -> None:
        """Go on with ``part``."""
        self._hash.update(part)

    @property
    def digest(self) -> str:
        """Of everything so far."""
        return "sha256:" + self._hash.hexdigest()


def file_digest(path: Path) -> str:
    """The digest of the file at ``path``, which is not read into memory as a whole."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def check_digest_form(value: str) -> str:
    """``value`` unchanged; raises MalformedMessage unless it is a digest as made by `digest`."""
    if not _DIGEST.match(value):
        raise MalformedMessage("a digest must be 'sha256:' and 64 lower-case hexadecimal digits.")
    return value
