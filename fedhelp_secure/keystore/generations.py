"""The generations of a party's long-lived keys: the present one, and those before it.

``enrolment/key-generations.json`` is there once keys have been rotated (docs/adr/0032). It holds no
secret. The first generation's keys are ``keys/signing.pem`` and ``keys/sealing.bin``, the others'
are in ``keys/generation-N/``: files never move, so that writing this one file is the whole change.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.keystore.files import StateError, write_atomically
from fedhelp_secure.sealing import SealingKey
from fedhelp_secure.signing import SigningKey

FIRST = 1
GENERATIONS_FILE = Path("enrolment") / "key-generations.json"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Generation(_Document):
    """One pair of keys of a party."""

    number: int = Field(ge=FIRST)
    signer: str
    """URI of the signing key; ``file:`` is the generation's own file."""
    signing_key: str
    """Public half, base64; it stays known when the private one is gone."""
    sealing_key: str | None
    """The same; None for a party whose sealing key does not change with its signing key."""
    destroyed: bool = False
    """Whether the private halves are gone from the state."""


@dataclass(frozen=True, slots=True)
class NextKeys:
    """Keys that are made and not yet in use."""

    number: int
    signer: str
    signing_key: SigningKey
    sealing_key: SealingKey | None
    """None if it stays the same."""


class _File(_Document):
    version: Literal[1] = 1
    generations: tuple[Generation, ...] = Field(min_length=2)
    """In order; the last is the present one."""


def parse_generations(data: bytes) -> tuple[Generation, ...]:
    """The generations in the file's content; raises ValidationError."""
    return _File.model_validate_json(data).generations


def read_generations(root: Path) -> tuple[Generation, ...]:
    """All generations of the state at ``root``; empty before the first rotation.

    Raises StateError if the file is damaged.
    """
    try:
        return parse_generations((root / GENERATIONS_FILE).read_bytes())
    except FileNotFoundError:
        return ()
    except (OSError, ValidationError) as error:
        raise StateError(f"{root / GENERATIONS_FILE} is damaged; put its backup back.") from error


def write_generations(root: Path, generations: tuple[Generation, ...]) -> None:
    """Make ``generations`` those of the state at ``root``, the last of them the present one."""
    document = _File(generations=generations).model_dump(mode="json")
    write_atomically(root / GENERATIONS_FILE, canonical_json(document))


def folder_of(root: Path, number: int) -> Path:
    """Where the keys of generation ``number`` lie."""
    keys = root / "keys"
    return keys if number == FIRST else keys / f"generation-{number}"
