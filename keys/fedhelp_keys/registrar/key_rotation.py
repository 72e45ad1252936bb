"""Other keys for a party that is enrolled: the registry's side of `fedhelp enrol rotate-keys`.

Charters are made from the registry, so that the next one has the new keys; those that run keep what
they pin.
"""

from __future__ import annotations

import logging

from fedhelp_keys.registrar.registry import EnrolmentRefused, FormerKeys, Member, Registry
from fedhelp_keys.registrar.trust import standing
from fedhelp_secure.canonical import digest
from fedhelp_secure.enrolment.key_rotation import KeyRotation, open_rotation
from fedhelp_secure.errors import PolicyError
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Identity

MOST_ROTATIONS = 100
"""Of one party: nobody fills the registry."""

_LOGGER = logging.getLogger(__name__)


class RotationRefused(PolicyError):
    """The keys of this party may not be replaced by these."""

    code = "key-rotation"


def accept_rotation(state: StateDirectory, calling: Identity, envelope: bytes) -> int:
    """Replace the keys of ``calling`` as the statement ``envelope`` says; how often that was done.

    The statement that was accepted last may come again: its sender has not heard of it. Raises
    RotationRefused, EnrolmentRefused for a party that is not enrolled, Revoked, MalformedMessage or
    SignatureRefused, and then changes nothing.
    """
    rotation = open_rotation(envelope)
    if rotation.identity != calling:
        raise RotationRefused("a key rotation must name the party that asks for it.")
    registry = Registry(state)

    def replaced(known: Member | None, others: frozenset[str]) -> Member:
        if known is None:
            raise EnrolmentRefused(
                "this party is not in the registry; make a request file and ask to be enrolled."
            )
        if _is_done(rotation, known):
            return known
        _check(rotation, known, others)
        former = FormerKeys(signing_key=known.signing_key, sealing_key=known.sealing_key)
        update: dict[str, object] = {
            "former": (*known.former, former),
            "signing_key": rotation.new_signing_key.to_base64(),
        }
        if rotation.new_sealing_key is not None:
            update["sealing_key"] = rotation.new_sealing_key.to_base64()
        return known.model_copy(update=update)

    with standing(state, calling):
        member = registry.replace(calling, replaced)
    _LOGGER.info(
        "%s has rotated its keys, sequence %d: signing key %s",
        calling,
        len(member.former),
        digest(rotation.new_signing_key.raw),
    )
    return len(member.former)


def _is_done(rotation: KeyRotation, known: Member) -> bool:
    """Whether this is the last rotation that was accepted."""
    return (
        rotation.sequence == len(known.former)
        and rotation.old_signing_key.to_base64() == known.former[-1].signing_key
        and rotation.new_signing_key.to_base64() == known.signing_key
        and (
            rotation.new_sealing_key is None
            or rotation.new_sealing_key.to_base64() == known.sealing_key
        )
    )


def _check(rotation: KeyRotation, known: Member, others: frozenset[str]) -> None:
    """``others``: every key that anybody has or had, this party's present ones too."""
    if rotation.old_signing_key.to_base64() != known.signing_key or (
        rotation.old_sealing_key is not None
        and rotation.old_sealing_key.to_base64() != known.sealing_key
    ):
        raise RotationRefused(
            "these are not the keys with which this party is enrolled, so they cannot be replaced; "
            "compare the digests with the registrar's operator. A statement counts once."
        )
    if len(known.former) >= MOST_ROTATIONS:
        raise RotationRefused(
            f"a party's keys are rotated at most {MOST_ROTATIONS} times; ask the registrar's "
            "operator to enrol this party under another name."
        )
    if rotation.sequence != len(known.former) + 1:
        raise RotationRefused(
            f"this party's next rotation is number {len(known.former) + 1}; was its state restored "
            "from an older copy? Ask the registrar's operator."
        )
    made = {rotation.new_signing_key.to_base64()}
    if rotation.new_sealing_key is not None:
        made.add(rotation.new_sealing_key.to_base64())
    if made & others or (rotation.old_sealing_key is None) != (rotation.new_sealing_key is None):
        raise RotationRefused(
            "one of the new keys is one that a party has or had; rotated keys must be new."
        )
