from __future__ import annotations

from pathlib import Path

import pytest

from fedhelp_secure.errors import FedHelpError, MalformedMessage
from fedhelp_secure.evidence.entries import parse_entry, serialise_entry
from fedhelp_secure.evidence.log import EvidenceLog
from fedhelp_secure.evidence.merkle import ProofRefused
from fedhelp_secure.evidence.receipts import check_receipt, parse_receipt
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.wire.v1.evidence_pb2 import LogEntry, Receipt, RoundOpened

KEY = SigningKey.generate()
ORIGIN = "north/hub/log"


def entry(number: int) -> LogEntry:
    return LogEntry(unix_milliseconds=number, round_opened=RoundOpened(round=number))


@pytest.fixture
def receipt(tmp_path: Path) -> Receipt:
    with EvidenceLog.open(tmp_path, origin=ORIGIN, signing_key=KEY) as log:
        for number in range(1, 8):
            log.append(entry(number))
        return log.receipt(4)


def test_a_receipt_proves_its_entry(receipt: Receipt) -> None:
    copied = parse_receipt(receipt.SerializeToString())
    assert check_receipt(copied, log_key=KEY.public, origin=ORIGIN) == entry(5)


def test_no_flipped_bit_goes_unnoticed(receipt: Receipt) -> None:
    data = receipt.SerializeToString(deterministic=True)
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        with pytest.raises(FedHelpError):
            check_receipt(parse_receipt(bytes(flipped)), log_key=KEY.public, origin=ORIGIN)


def test_a_receipt_for_another_index_or_log_is_refused(receipt: Receipt) -> None:
    moved = Receipt()
    moved.CopyFrom(receipt)
    moved.index = 7
    with pytest.raises(ProofRefused, match="outside"):
        check_receipt(moved, log_key=KEY.public, origin=ORIGIN)
    with pytest.raises(FedHelpError):
        check_receipt(receipt, log_key=KEY.public, origin="north/other/log")
    with pytest.raises(FedHelpError):
        check_receipt(receipt, log_key=SigningKey.generate().public, origin=ORIGIN)


def test_a_receipt_has_one_byte_form(receipt: Receipt) -> None:
    data = receipt.SerializeToString(deterministic=True)
    for other in (data + b"\x98\x06\x01", data + data, b"\xff"):
        with pytest.raises(MalformedMessage):
            parse_receipt(other)


def test_an_entry_has_one_byte_form() -> None:
    data = serialise_entry(entry(1))
    assert parse_entry(data) == entry(1)
    for other in (
        data + b"\x98\x06\x01",
        data[:1] + b"\x81\x00" + data[2:],
        data + data,
        b"",
        b"\xff",
    ):
        with pytest.raises(MalformedMessage):
            parse_entry(other)


@pytest.mark.parametrize(
    "bad", [LogEntry(), LogEntry(round_opened=RoundOpened(charter_digest="x" * (1 << 20)))]
)
def test_an_entry_without_event_or_too_long_is_refused(bad: LogEntry) -> None:
    with pytest.raises(MalformedMessage):
        serialise_entry(bad)
