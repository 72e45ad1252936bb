"""A hospital as a process of its own: six patients, every round of the charter, then its exports.

Run it as ``python -m support.hospital STATE CONTEXT AGGREGATOR REGISTRAR OUT``; it is
`fedhelp_client.node.node` without images and training.
"""

from __future__ import annotations

import sys
from pathlib import Path

from support.site import Site

from fedhelp_client.node.coordinator import connect
from fedhelp_secure.enrolment.renewal import upkeep_of
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Role


def main(root: str, context: str, aggregator: str, registrar: str, out: str) -> None:
    """Take part, and leave ``ledgers/NAME.jsonl`` and ``receipts/NAME-ROUND.bin`` in ``out``."""
    state = StateDirectory.open(Path(root), Role.HOSPITAL)
    name = state.identity.name
    with upkeep_of(state, registrar):
        charter = connect(state, aggregator, "aggregator").charter
        site = Site(state, charter, Path(context), aggregator)
        site.run()
    site.ledger.export(Path(out) / "ledgers" / f"{name}.jsonl")
    site.releaser.files.export_receipts(Path(out) / "receipts", name)


if __name__ == "__main__":
    main(*sys.argv[1:])
