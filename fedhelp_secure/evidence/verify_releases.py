"""Part of step 10: a ledger beside manifests, log and the other hospitals' ledgers.

Every function raises BundleRefused naming the round.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.evidence.verify_chain import Account
from fedhelp_secure.evidence.verify_rounds import Accepted, Rounds
from fedhelp_secure.secure_sum.cohort import check_cohort


def check_contributions(
    account: Account, charter_digest: str, accepted: list[Accepted], rounds: Rounds | None
) -> None:
    """Every manifest of this hospital names the debit of its round, and is what was sent."""
    manifests = {item.event.round: item for item in accepted}
    for number, item in manifests.items():
        if number not in account.reserved:
            raise BundleRefused(
                f"round {number} was released without a debit: the manifest does not name its "
                "debit, and there is none."
            )
        if account.reserved[number] != item.manifest.ledger_entry_digest:
            raise BundleRefused(f"the manifest of round {number} does not name its debit.")
    for (charter, number), contribution in account.sent.items():
        shown = manifests.get(number)
        if charter == charter_digest and shown and shown.event.manifest_digest != contribution:
            raise BundleRefused(f"round {number} was sent with another manifest than was logged.")
    if rounds is None:
        return
    for charter, number in account.opened:
        summed = number in manifests and number in rounds.summed
        if charter == charter_digest and not summed:
            raise BundleRefused(f"round {number} was opened, but the log has no sum with it.")


def check_members(account: Account, charter_digest: str, accepted: tuple[Accepted, ...]) -> None:
    """What the hospital opened is the sum of those in the log."""
    for (charter, number), contributors in account.contributors.items():
        members = sorted(item.event.hospital for item in accepted if item.event.round == number)
        if charter == charter_digest and list(contributors) != members:
            raise BundleRefused(f"round {number} was opened with others than the log has.")


def check_cohorts(account: Account, charter: Charter) -> None:
    """Without a log: what the hospital opened is the sum of a cohort."""
    for (digest, number), contributors in account.contributors.items():
        if digest != charter.digest:
            continue
        try:
            check_cohort(charter, contributors)
        except FedHelpError as error:
            raise BundleRefused(f"round {number} was opened without a cohort: {error}") from error


def check_same_sums(account: Account, charter_digest: str, sums: dict[int, str]) -> None:
    """All hospitals opened the same; ``sums`` by round grows with every ledger."""
    for (charter, number), opened in account.sums.items():
        if charter == charter_digest and sums.setdefault(number, opened) != opened:
            raise BundleRefused(f"round {number} was opened to another sum than other hospitals'.")


def check_debits(account: Account, charter_digest: str, accounts: Mapping[str, Account]) -> None:
    """Whoever is in an opened sum debited that round, as far as ledgers are at hand."""
    for (charter, number), contributors in account.contributors.items():
        for name in contributors:
            other = accounts.get(name)
            if charter == charter_digest and other and number not in other.reserved:
                raise BundleRefused(
                    f"round {number} was opened with a release of {name}, whose ledger has no "
                    "debit for it."
                )
