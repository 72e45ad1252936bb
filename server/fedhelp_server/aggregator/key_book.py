"""What the custodians stated of the rounds' keys: checked, logged, kept, and handed on.

The aggregator only relays it. It checks what hospitals and auditors will check, so that a round
does not open that nobody could use, and that a custodian goes on with the epochs that it has shown
before: one that was restored from an outdated backup would fork them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import InternalError
from fedhelp_secure.secure_sum.epochs import (
    BEGUN_KIND,
    DESTROYED_KIND,
    EPOCH_KIND,
    CustodianParty,
    KeyEpoch,
    KeysRefused,
    open_destroyed,
)
from fedhelp_secure.secure_sum.round_keys import (
    custodian_parties,
    open_custodian_keys,
    round_keys_digest,
)
from fedhelp_secure.transport.chunks import split
from fedhelp_secure.wire.v1.coordinator_pb2 import CustodianKeys, GetRoundKeysResponse
from fedhelp_secure.wire.v1.evidence_pb2 import LogEntry, StatementSubmitted
from fedhelp_server.aggregator.journal import write_entry
from fedhelp_server.aggregator.store import Change, Store, StoredSubmission


@dataclass(frozen=True, slots=True)
class BegunRound:
    """Every custodian has begun a round."""

    stated: tuple[CustodianKeys, ...]
    """The decryptor's, then the unmaskers' in the charter's order."""
    context_digest: str
    context: bytes | None
    """The decryptor's public context of that epoch; None if the store has it."""

    @property
    def digests(self) -> list[str]:
        """Of the ``round-begun`` statements."""
        return [digest(keys.round_begun) for keys in self.stated]


class KeyBook:
    """The custodians' statements under one charter."""

    def __init__(self, charter: Charter, store: Store) -> None:
        self._charter_digest = charter.digest
        self._store = store
        self._parties = custodian_parties(charter)

    def check(self, index: int, number: int, stated: CustodianKeys) -> KeyEpoch:
        """The epoch to which custodian ``index`` (from 0) bound round ``number``.

        Raises MalformedMessage, SignatureRefused or KeysRefused for what no hospital would take, or
        if its epochs are not those that it stated before.
        """
        party = self._parties[index]
        epoch = open_custodian_keys(self._charter_digest, number, party, stated)
        known = self._store.statements(party.identity.uri, EPOCH_KIND)
        shared = min(len(known), len(stated.key_epochs))
        if list(known[:shared]) != list(stated.key_epochs[:shared]):
            raise KeysRefused(
                f"{party.identity} shows other epochs than before; was it restored from an "
                "outdated backup? Restore the newest one."
            )
        for record in stated.destroyed:
            open_destroyed(party, record)
        return epoch

    def has_context(self, context_digest: str) -> bool:
        """Whether the public context of this digest is kept."""
        return self._store.context(context_digest) is not None

    def record(self, change: Change, number: int, begun: BegunRound) -> None:
        """Log what is new of the statements with which round ``number`` was begun; keep them."""
        for party, keys in zip(self._parties, begun.stated, strict=True):
            self._submit(change, party, EPOCH_KIND, keys.key_epochs)
            self._submit(change, party, DESTROYED_KIND, keys.destroyed)
            self._submit(change, party, BEGUN_KIND, [keys.round_begun])
            change.add_round_keys(number, party.identity, keys.SerializeToString())
        if begun.context is not None:
            change.add_context(begun.context_digest, begun.context)

    def begun(self, number: int) -> bool:
        """Whether round ``number`` has its custodians' statements."""
        return self._store.round_keys(number, self._parties[0].identity) is not None

    def rounds_begun(self, number: int) -> list[bytes]:
        """The ``round-begun`` statements of a round that has begun, in the charter's order."""
        return [keys.round_begun for keys in self._stated(number)]

    def digest(self, number: int) -> str:
        """What a manifest for round ``number`` must name."""
        return round_keys_digest(self.rounds_begun(number))

    def response(self, number: int, context_digest: str) -> Iterator[GetRoundKeysResponse]:
        """All that a hospital needs for round ``number``; the context unless it has that digest."""
        stated = self._stated(number)
        for keys in stated:
            yield GetRoundKeysResponse(custodian=keys)
        decryptor = open_custodian_keys(self._charter_digest, number, self._parties[0], stated[0])
        if decryptor.key == context_digest:
            return
        for chunk in split(self._store.context(decryptor.key) or b""):
            yield GetRoundKeysResponse(context_chunk=chunk)

    def _stated(self, number: int) -> list[CustodianKeys]:
        kept = [self._store.round_keys(number, party.identity) for party in self._parties]
        if None in kept:
            raise InternalError(f"round {number} lacks its custodians' statements; report this.")
        return [CustodianKeys.FromString(keys or b"") for keys in kept]

    def _submit(
        self, change: Change, party: CustodianParty, kind: str, envelopes: Sequence[bytes]
    ) -> None:
        uri = party.identity.uri
        known = set(self._store.statements(uri, kind))
        for envelope in envelopes:
            if envelope in known:
                continue
            event = StatementSubmitted(submitter=uri, kind=kind, envelope_digest=digest(envelope))
            position = write_entry(change, LogEntry(statement_submitted=event))
            change.add_submission(
                StoredSubmission(uri, kind, event.envelope_digest, envelope, position)
            )
