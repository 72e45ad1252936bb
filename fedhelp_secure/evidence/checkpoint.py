"""Signed tree heads: C2SP ``tlog-checkpoint`` in a C2SP ``signed-note`` with Ed25519.

A checkpoint is three lines (origin, size in decimal, root in base64), an empty line, and one or
more signature lines ``— <key name> base64(key id || signature)``. The key id is the first four
bytes of SHA-256(name || 0x0A || 0x01 || public key). Sources: https://c2sp.org/tlog-checkpoint and
https://c2sp.org/signed-note. Our log writes no extension lines, so that none are accepted.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

from fedhelp_secure.errors import MalformedMessage, SignatureRefused
from fedhelp_secure.evidence.merkle import HASH_BYTES
from fedhelp_secure.signing import SigningKey, VerifyingKey

MAXIMUM_NOTE_BYTES = 16 * 1024
MAXIMUM_SIGNATURES = 64

ED25519 = b"\x01"
"""Type of a plain signature of the text, part of the key id (c2sp.org/signed-note)."""
_SIZE = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z")
_NAME = re.compile(r"[^\s+]{1,300}\Z")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
_KEY_ID_BYTES = 4


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a log: its name, how many entries it has, and their root."""

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        if not _NAME.match(self.origin) or self.size < 0 or len(self.root) != HASH_BYTES:
            raise MalformedMessage(
                "a checkpoint needs an origin without spaces, a size and a root of 32 bytes."
            )

    def body(self) -> str:
        """The signed text, its final newline included."""
        return f"{self.origin}\n{self.size}\n{encode(self.root)}\n"


def key_id(name: str, key: VerifyingKey, kind: bytes = ED25519) -> bytes:
    """Four bytes that tell keys of one name apart; an identifier, not a commitment."""
    return hashlib.sha256(name.encode() + b"\n" + kind + key.raw).digest()[:_KEY_ID_BYTES]


def sign_note(text: str, *, name: str, key: SigningKey) -> bytes:
    """``text`` (ending in a newline) with one signature line, in UTF-8."""
    signed = key_id(name, key.public) + key.sign(text.encode())
    return f"{text}\n— {name} {encode(signed)}\n".encode()


def open_note(note: bytes, *, name: str, key: VerifyingKey) -> str:
    """The text of ``note``, signed by ``key`` under ``name``.

    Signatures of other keys (witnesses) are ignored, as the specification asks. Raises
    MalformedMessage if it is no note, SignatureRefused if no signature is this key's or one that
    claims to be does not verify.
    """
    text, lines = split_note(note)
    wanted = key_id(name, key)
    found = False
    for line in lines:
        signer, identifier, signature = parse_signature(line)
        if signer == name and identifier == wanted:
            key.check(signature, text.encode())
            found = True
    if not found:
        raise SignatureRefused("a checkpoint is not signed by the log's key; do not use it.")
    return text


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> bytes:
    """The signed note; the key's name is the log's origin."""
    return sign_note(checkpoint.body(), name=checkpoint.origin, key=key)


def open_checkpoint(note: bytes, *, origin: str, key: VerifyingKey) -> Checkpoint:
    """The checkpoint in ``note``, after checking its signature and origin.

    Raises MalformedMessage or SignatureRefused.
    """
    lines = open_note(note, name=origin, key=key).split("\n")
    if len(lines) != 4 or lines[3] != "" or not _SIZE.match(lines[1]):
        raise MalformedMessage("a checkpoint must have three lines: origin, size and root.")
    if lines[0] != origin:
        raise SignatureRefused("a checkpoint is of another log; ask for the right one.")
    return Checkpoint(origin, int(lines[1]), decode(lines[2]))


def encode(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def decode(text: str) -> bytes:
    """The bytes that `encode` wrote as ``text``; raises MalformedMessage for any other spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise MalformedMessage("base64 was expected; ask the sender again.") from error
    if encode(data) != text:
        raise MalformedMessage("base64 must be in its one canonical spelling.")
    return data


def split_note(note: bytes) -> tuple[str, list[str]]:
    """The text of ``note`` and its signature lines, of which nothing is checked but the form.

    Raises MalformedMessage.
    """
    if len(note) > MAXIMUM_NOTE_BYTES:
        raise MalformedMessage("a checkpoint is longer than any log's; ask for it again.")
    try:
        whole = note.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedMessage("a checkpoint must be UTF-8 text.") from error
    head, separator, signatures = whole.rpartition("\n\n")
    if not separator or not signatures.endswith("\n") or _CONTROL.search(whole):
        raise MalformedMessage("a checkpoint must be a signed note (c2sp.org/signed-note).")
    lines = signatures[:-1].split("\n")
    if len(lines) > MAXIMUM_SIGNATURES:
        raise MalformedMessage("a checkpoint has too many signatures.")
    if len(set(lines)) != len(lines):
        # It would prove nothing more, and give one signed head several byte forms.
        raise MalformedMessage("a checkpoint has a signature twice.")
    return head + "\n", lines


def parse_signature(line: str) -> tuple[str, bytes, bytes]:
    """Key name, key id and signature of a signature line; raises MalformedMessage."""
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != "—" or not _NAME.match(parts[1]):
        raise MalformedMessage("a checkpoint has a line that is no signature.")
    blob = decode(parts[2])
    if len(blob) <= _KEY_ID_BYTES:
        raise MalformedMessage("a checkpoint has an empty signature.")
    return parts[1], blob[:_KEY_ID_BYTES], blob[_KEY_ID_BYTES:]
