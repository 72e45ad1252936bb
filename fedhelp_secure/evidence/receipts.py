"""Receipts: what a submitter keeps to show that the log took its entry."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.evidence.checkpoint import open_checkpoint
from fedhelp_secure.evidence.entries import parse_entry
from fedhelp_secure.evidence.merkle import check_inclusion, leaf_hash
from fedhelp_secure.signing import VerifyingKey
from fedhelp_secure.wire.v1.evidence_pb2 import LogEntry, Receipt


def parse_receipt(data: bytes) -> Receipt:
    """The receipt that was serialised to ``data``; raises MalformedMessage for other bytes."""
    receipt = Receipt()
    try:
        receipt.ParseFromString(data)
    except DecodeError as error:
        raise MalformedMessage("a receipt is not a Receipt message; fetch it again.") from error
    receipt.DiscardUnknownFields()
    if receipt.SerializeToString(deterministic=True) != data:
        raise MalformedMessage("a receipt is not in its one byte form; fetch it again.")
    return receipt


def check_receipt(receipt: Receipt, *, log_key: VerifyingKey, origin: str) -> LogEntry:
    """The entry that ``receipt`` proves to be in the log ``origin``.

    Raises SignatureRefused (checkpoint), ProofRefused (path) or MalformedMessage. The caller must
    still compare the entry with what it submitted.
    """
    checkpoint = open_checkpoint(receipt.checkpoint, origin=origin, key=log_key)
    check_inclusion(
        leaf_hash(receipt.entry),
        receipt.index,
        size=checkpoint.size,
        path=list(receipt.path),
        root=checkpoint.root,
    )
    return parse_entry(receipt.entry)
