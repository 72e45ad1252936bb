"""Part of step 10: which key must sign which entry of one ledger.

The charter names one key. A ledger outlives charters, so that entries before may be signed by keys
that this one has succeeded, and entries after by those that succeed it. Every succession is signed
by both keys: from the charter's key backwards each has taken over what the one before signed, and
forwards each was named by the one before.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.privacy.events import KIND
from fedhelp_secure.privacy.records import Consented, LedgerEntry, Reservation, Succeeded
from fedhelp_secure.signing import VerifyingKey, peek_document


class LedgerKeys:
    """The keys of one ledger, entry by entry."""

    def __init__(self, lines: Sequence[bytes], named: VerifyingKey) -> None:
        """``named`` is the charter's. Raises FedHelpError for lines that are no entries."""
        self._named = named
        self.present = named
        """What must have signed the next entry."""
        for line in lines:
            document = peek_document(KIND, line)
            if document.get("status") == "succeeded":
                # Only where to begin: if this is not true, the first entry's signature is not its.
                self.present = VerifyingKey.from_base64(str(document.get("old_key")))
                break
        self._had = [self.present]
        self._consent_keys: set[str] = set()

    def follow(self, entry: LedgerEntry) -> None:
        """Go on after ``entry``; raises BundleRefused for a key that nobody may have here."""
        record = entry.record
        if isinstance(record, Reservation | Consented) and record.site.consent_key is not None:
            self._consent_keys.add(record.site.consent_key)
        if isinstance(record, Succeeded):
            self.present = VerifyingKey.from_base64(record.new_key)
            if self.present in self._had:
                raise BundleRefused(f"entry {record.sequence} goes back to a key it had given up.")
            self._had.append(self.present)
        if self._consent_keys & {key.to_base64() for key in self._had}:
            raise BundleRefused(
                f"entry {record.sequence}: the consent key is one of the hospital's own."
            )

    def check_named(self) -> None:
        """Raises BundleRefused unless the charter's key is one of those that the ledger had."""
        if self._named not in self._had:
            raise BundleRefused("no succession leads to or from the key that the charter names.")
