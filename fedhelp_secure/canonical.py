"""One byte form for every JSON document that is signed or digested (RFC 8785), and its digest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
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


def digest(data: bytes) -> str:
    """``sha256:`` and 64 hexadecimal digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def check_digest_form(value: str) -> str:
    """``value`` unchanged; raises MalformedMessage unless it is a digest as made by `digest`."""
    if not _DIGEST.match(value):
        raise MalformedMessage("a digest must be 'sha256:' and 64 lower-case hexadecimal digits.")
    return value
