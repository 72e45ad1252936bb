"""Events from a bundle and from a log in use, and the two commands as a reader runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.evidence import Story
from support.federation import Federation
from typer.testing import CliRunner

from fedhelp_secure.errors import FedHelpError, SignatureRefused
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.bundle import sign_index
from fedhelp_secure.evidence.commands import app
from fedhelp_secure.evidence.events.formats import written
from fedhelp_secure.evidence.events.options import EventFormat
from fedhelp_secure.evidence.events.source import (
    SourceUnclear,
    from_bundle,
    from_directory,
    open_source,
)
from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.evidence.log import EvidenceLog, LogDamaged, log_origin
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.wire.v1.evidence_pb2 import CharterAdopted, LogEntry


@pytest.fixture
def log(federation: Federation, true_story: Story, tmp_path: Path) -> Iterator[EvidenceLog]:
    """An aggregator's, open for writing, in ``tmp_path / "log"``."""
    key = federation.state(Role.AGGREGATOR).signing_key()
    origin = log_origin(federation.charter)
    with EvidenceLog.open(tmp_path / "log", origin=origin, signing_key=key) as found:
        for entry in true_story.entries:
            found.append(entry)
        yield found


def test_a_log_in_use_and_its_bundle_give_the_same_events(
    federation: Federation, log: EvidenceLog, true_bundle: Path, tmp_path: Path
) -> None:
    live = from_directory(tmp_path / "log", federation.charter)
    kept = from_bundle(true_bundle, federation.governance_key.public)
    assert kept.warning is None
    assert list(live.events()) == list(kept.events())
    assert [event.index for event in live.events(3, 5)] == [3, 4]
    # What is after the checkpoint was not acknowledged.
    with (tmp_path / "log" / "entries.log").open("ab") as file:
        file.write(b"\0\0\0\5torn")
    assert from_directory(tmp_path / "log", federation.charter).size == live.size == log.size


def test_an_altered_log_has_no_events(
    federation: Federation, log: EvidenceLog, tmp_path: Path
) -> None:
    path = tmp_path / "log" / "entries.log"
    whole = path.read_bytes()
    for data in (whole[:-1], whole[:20], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(data)
        with pytest.raises(LogDamaged):
            from_directory(tmp_path / "log", federation.charter)
    with pytest.raises(LogDamaged):
        from_directory(tmp_path / "nowhere", federation.charter)


def test_a_log_with_another_entry_in_its_place_has_no_events(
    federation: Federation, log: EvidenceLog, true_story: Story, tmp_path: Path
) -> None:
    key = federation.state(Role.AGGREGATOR).signing_key()
    with EvidenceLog.open(tmp_path / "other", origin=log.origin, signing_key=key) as other:
        for entry in (*true_story.entries[:-1], true_story.entries[0]):
            other.append(entry)
    (tmp_path / "log" / "entries.log").write_bytes((tmp_path / "other/entries.log").read_bytes())
    with pytest.raises(LogDamaged, match="does not hash to its signed checkpoint"):
        from_directory(tmp_path / "log", federation.charter)


def test_a_log_signed_by_another_has_no_events(
    federation: Federation, true_story: Story, tmp_path: Path
) -> None:
    origin = log_origin(federation.charter)
    with EvidenceLog.open(tmp_path, origin=origin, signing_key=SigningKey.generate()) as other:
        other.append(true_story.entries[0])
    with pytest.raises(SignatureRefused):
        from_directory(tmp_path, federation.charter)


def test_a_log_of_another_charter_has_no_events(
    federation: Federation, log: EvidenceLog, tmp_path: Path
) -> None:
    log.append(LogEntry(charter_adopted=CharterAdopted(charter_digest=f"sha256:{1:064x}")))
    with pytest.raises(BundleRefused, match="of another charter"):
        from_directory(tmp_path / "log", federation.charter)


def test_an_altered_bundle_has_no_events(federation: Federation, bundle: Path) -> None:
    lines = (bundle / layout.ENTRIES).read_bytes().splitlines(keepends=True)
    (bundle / layout.ENTRIES).write_bytes(b"".join(lines[:-1]))
    with pytest.raises(BundleRefused, match="changed after"):
        from_bundle(bundle, None)
    sign_index(bundle, federation.state(Role.AUDITOR))
    with pytest.raises(BundleRefused, match="but its checkpoint signs"):
        from_bundle(bundle, None)


def test_one_source_is_needed(federation: Federation, true_bundle: Path, tmp_path: Path) -> None:
    key = federation.governance_key.public
    charter = true_bundle / layout.CHARTER
    for bundle, log, named, given in (
        (None, None, None, key),
        (true_bundle, tmp_path, charter, key),
        (true_bundle, None, charter, key),
        (None, tmp_path, None, key),
        (None, tmp_path, charter, None),
        (None, tmp_path, tmp_path / "nowhere", key),
    ):
        with pytest.raises(SourceUnclear):
            open_source(bundle, log, named, given)
    with pytest.raises(SignatureRefused):
        open_source(true_bundle, None, None, SigningKey.generate().public)


def fedhelp(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedhelp_secure", "audit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_prints_every_format(
    federation: Federation, true_bundle: Path, tmp_path: Path
) -> None:
    key = federation.state(Role.AUDITOR).governance_key_path
    known = list(from_bundle(true_bundle, None).events())
    done = fedhelp("events", true_bundle, "--governance-key", key)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == written(known, EventFormat.JSON_LINES)
    out = tmp_path / "events"
    arguments = ("--format", "rfc5424", "--from", "4", "--enterprise-number", "55555")
    done = fedhelp("events", true_bundle, *arguments, "--out", out)
    assert done.returncode == 0
    assert done.stderr.startswith("warning: the governance key is the bundle's own")
    assert out.read_text() == written(known[4:], EventFormat.RFC5424, enterprise=55555)


def test_the_command_reads_a_log_in_use(
    federation: Federation, log: EvidenceLog, true_bundle: Path, tmp_path: Path
) -> None:
    key = federation.state(Role.AUDITOR).governance_key_path
    charter = true_bundle / layout.CHARTER
    named = ("--log", tmp_path / "log", "--charter", charter, "--governance-key", key)
    done = fedhelp("events", *named, "--format", "fhir-ndjson")
    assert (done.returncode, done.stderr) == (0, "")
    ids = [json.loads(line)["id"] for line in done.stdout.splitlines()]
    assert len(set(ids)) == log.size


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["events"], "give a bundle, or --log"),
        (["ship", "--to", "nowhere", "--ca", "ca.pem"], "--to must have the form HOST:PORT"),
        (["ship", "--to", "127.0.0.1:1", "--ca", "ca.pem"], "give a bundle, or --log"),
    ],
)
def test_the_commands_say_what_is_missing(arguments: list[str], sentence: str) -> None:
    with pytest.raises(FedHelpError, match=sentence):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
