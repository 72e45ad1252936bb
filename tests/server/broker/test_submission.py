"""The record reaches the evidence log, late if need be, and once."""

from __future__ import annotations

from pathlib import Path

from support.aggregator import AggregatorServer
from support.broker import BrokerProcess, BrokerWorld, closed_port, wait_until

from fedhelp_secure.canonical import digest
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.evidence.receipts import check_receipt, parse_receipt
from fedhelp_server.aggregator.custodians import CustodianAddresses
from fedhelp_server.broker.states import CallState

RECORD_SUBMITTED = (
    "import os, signal, sys, time\n"
    "from fedhelp_server.broker import submission\n"
    "def die(*_):\n"
    "    ready = sys.argv[sys.argv.index('--ready-file') + 1]\n"
    "    while not os.path.exists(ready): time.sleep(0.01)\n"
    "    os.kill(os.getpid(), signal.SIGKILL)\n"
    "submission.write_atomically = die\n"
)


def test_the_record_is_submitted_after_a_restart_of_both(
    world: BrokerWorld, tmp_path: Path
) -> None:
    federation = world.federation
    charter = federation.charter
    nobody = f"127.0.0.1:{closed_port()}"
    receipt_file = world.calls_directory(tmp_path) / "receipt.bin"
    with BrokerProcess(world, tmp_path, aggregator=nobody) as broker:
        _, record = world.fetch(broker.address)  # the answer does not wait for the log
        broker.kill()
    assert not receipt_file.exists()
    assert world.journal(tmp_path).state is CallState.ANSWERED
    with AggregatorServer(
        federation,
        tmp_path,
        (charter, federation.charter_envelope),
        CustodianAddresses(nobody, (nobody,)),
    ) as aggregator:
        # It dies when the log has taken the record and before it knows.
        with BrokerProcess(
            world, tmp_path, aggregator=aggregator.address, dies=RECORD_SUBMITTED
        ) as broker:
            wait_until(lambda: broker.process.poll() is not None)
        assert not receipt_file.exists()
        with BrokerProcess(world, tmp_path, aggregator=aggregator.address):
            wait_until(receipt_file.exists)
        with BrokerProcess(world, tmp_path, aggregator=aggregator.address) as broker:
            world.fetch(broker.address)
        submitted = [
            entry.statement_submitted
            for entry in aggregator.entries()
            if entry.statement_submitted.kind == "foundation-model-call"
        ]
    receipt = parse_receipt(receipt_file.read_bytes())
    entry = check_receipt(
        receipt, log_key=charter.aggregator.verifying_key(), origin=log_origin(charter)
    )
    assert submitted == [entry.statement_submitted]
    assert submitted[0].envelope_digest == digest(record)
    assert submitted[0].submitter == world.identity.uri
    assert len(world.server.requests) == 1
