"""The keys of one round: what the custodians' statements prove together.

See `fedhelp_secure.secure_sum.epochs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.charter import Charter, Decryptor, Unmasker
from fedhelp_secure.sealing import SealingKey
from fedhelp_secure.secure_sum.epochs import (
    CustodianParty,
    KeyEpoch,
    KeysRefused,
    open_begun,
    open_epoch,
    sign_begun,
    sign_epoch,
)
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.wire.v1.coordinator_pb2 import CustodianKeys

MOST_EPOCHS = 1000
"""Of one custodian: weekly rotation for nineteen years, and a chain that fits a message."""


@dataclass(frozen=True, slots=True)
class RoundKeys:
    """The custodians' keys of one round, as `open_round_keys` found them proved."""

    charter: str
    """The charter's digest."""
    round_number: int
    epochs: tuple[int, ...]
    """The decryptor's first, then the unmaskers' in the charter's order."""
    context_digest: str
    """Of the decryptor's public context."""
    sealing_keys: tuple[SealingKey, ...]
    """The unmaskers', in the charter's order."""
    digest: str
    """What a manifest names: see `round_keys_digest`."""


def custodian_parties(charter: Charter) -> tuple[CustodianParty, ...]:
    """The decryptor, then the unmaskers in the charter's order."""
    named: tuple[tuple[Role, Decryptor | Unmasker], ...] = (
        (Role.DECRYPTOR, charter.custodians.decryptor),
        *((Role.UNMASKER, unmasker) for unmasker in charter.custodians.unmaskers),
    )
    return tuple(
        CustodianParty(
            Identity(charter.federation, role, party.name),
            party.verifying_key(),
            party.context_digest if isinstance(party, Decryptor) else party.sealing_key,
            charter.custodians.epoch,
        )
        for role, party in named
    )


def open_round_keys(
    charter: Charter, round_number: int, stated: Sequence[CustodianKeys]
) -> RoundKeys:
    """The keys of a round, from what every custodian stated, in the charter's order.

    Raises MalformedMessage, SignatureRefused, or KeysRefused unless each statement is its
    custodian's, about this round, and its epoch follows from the key that the charter pins.
    """
    parties = custodian_parties(charter)
    if len(stated) != len(parties):
        raise KeysRefused("a round's keys must be those of every custodian of the charter.")
    charter_digest = charter.digest
    epochs = [
        open_custodian_keys(charter_digest, round_number, party, keys)
        for party, keys in zip(parties, stated, strict=True)
    ]
    decryptor, *unmaskers = epochs
    return RoundKeys(
        charter=charter_digest,
        round_number=round_number,
        epochs=tuple(epoch.epoch for epoch in epochs),
        context_digest=decryptor.key,
        sealing_keys=tuple(SealingKey.from_base64(epoch.key) for epoch in unmaskers),
        digest=round_keys_digest(keys.round_begun for keys in stated),
    )


def open_custodian_keys(
    charter_digest: str, round_number: int, party: CustodianParty, stated: CustodianKeys
) -> KeyEpoch:
    """The epoch to which ``party`` bound a round; raises as `open_round_keys` does."""
    begun = open_begun(party, stated.round_begun)
    if (begun.charter, begun.round) != (charter_digest, round_number):
        raise KeysRefused("a custodian's statement begins another round; ask for this round's.")
    chain = open_chain(party, stated.key_epochs)
    last = digest(stated.key_epochs[-1])
    if (begun.epoch, begun.epoch_statement) != (chain[-1].epoch, last):
        raise KeysRefused("a round is bound to another epoch than its custodian shows the key of.")
    return chain[-1]


def open_chain(party: CustodianParty, envelopes: Sequence[bytes]) -> tuple[KeyEpoch, ...]:
    """The epochs in ``envelopes``: from the one whose key the charter pins, each naming the last.

    Raises as `open_round_keys` does.
    """
    if not 0 < len(envelopes) <= MOST_EPOCHS:
        raise KeysRefused(f"a custodian must show 1 to {MOST_EPOCHS} epochs.")
    chain: list[KeyEpoch] = []
    for number, envelope in enumerate(envelopes):
        epoch = open_epoch(party, envelope)
        if number == 0:
            follows = (epoch.epoch, epoch.key) == (party.first_epoch, party.pinned)
        else:
            follows = (epoch.epoch, epoch.previous) == (
                chain[-1].epoch + 1,
                digest(envelopes[number - 1]),
            )
        if not follows:
            raise KeysRefused(
                "a custodian's epochs do not follow from the key that the charter pins; do not "
                "encrypt under them, and ask its operator what was restored or replaced."
            )
        chain.append(epoch)
    return tuple(chain)


def round_keys_digest(rounds_begun: Iterable[bytes]) -> str:
    """One name for every custodian's ``round-begun`` statement of a round, in the charter's order.

    They hold 32 fresh bytes each: nobody knows it before all custodians have begun the round.
    """
    return digest(canonical_json({"rounds_begun": [digest(begun) for begun in rounds_begun]}))


def begin_under_first_epochs(
    charter: Charter, round_number: int, signing_keys: Mapping[str, SigningKey], *, now: datetime
) -> tuple[CustodianKeys, ...]:
    """What every custodian would state of a round under the very keys that the charter pins.

    For whoever has all custodians' signing keys, by name: measurements and audits in one process.
    """
    stated = []
    for party in custodian_parties(charter):
        key = signing_keys[party.identity.name]
        epoch = sign_epoch(
            key,
            party.identity,
            epoch=party.first_epoch,
            key=party.pinned,
            previous=None,
            now=now,
        )
        begun = sign_begun(
            key,
            party.identity,
            charter_digest=charter.digest,
            round_number=round_number,
            epoch=party.first_epoch,
            epoch_envelope=epoch,
        )
        stated.append(CustodianKeys(round_begun=begun, key_epochs=[epoch]))
    return tuple(stated)
