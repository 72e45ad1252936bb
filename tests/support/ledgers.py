"""Ledgers of a told story, changed and signed again: what a dishonest hospital can do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.evidence import Story

from fedhelp_secure.canonical import digest
from fedhelp_secure.privacy.events import KIND
from fedhelp_secure.signing import peek_document

Documents = list[dict[str, Any]]
Change = Callable[[Documents], Documents | None]


def rewrite(story: Story, change: Change, hospital: str) -> None:
    """Change the ledger's entries, number and chain them again, and sign them again."""
    envelopes = story.ledgers[hospital].splitlines()
    documents = [peek_document(KIND, envelope) for envelope in envelopes]
    changed = change(documents)
    documents = documents if changed is None else changed
    key, previous, lines = story.federation.state(hospital).signing_key(), None, []
    for sequence, document in enumerate(documents):
        envelope = key.sign_document(KIND, document | {"sequence": sequence, "previous": previous})
        previous = digest(envelope)
        lines.append(envelope + b"\n")
    story.ledgers[hospital] = b"".join(lines)


def at(entry: int, *path: str, value: object) -> Callable[[Documents], None]:
    """Set one field of one entry: 0 and 3 are the reservations, 1 and 4 sent, 2 and 5 opened."""

    def change(documents: Documents) -> None:
        place = documents[entry]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change
