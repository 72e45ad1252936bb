"""What the aggregator checks before it serves anything."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.aggregator import charter_of, context_file
from support.federation import Federation
from typer.testing import CliRunner

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.errors import ConfigurationError, FedHelpError, SignatureRefused
from fedhelp_secure.evidence.log import LogInUse
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import StateDirectory, StateError, write_atomically
from fedhelp_secure.transport.identity import Role
from fedhelp_server.aggregator.commands import app
from fedhelp_server.aggregator.custodians import CustodianAddresses
from fedhelp_server.aggregator.limits import MAXIMUM_WATCHES, SHORT_CALLS, capacity
from fedhelp_server.aggregator.service import (
    Aggregator,
    AggregatorFiles,
    WrongAggregator,
    WrongContext,
)

NOWHERE = CustodianAddresses("127.0.0.1:1", "127.0.0.1:1")


@pytest.fixture
def root(federation: Federation, tmp_path: Path) -> Path:
    """A copy of the aggregator's state, as it is after enrolment."""
    return Path(shutil.copytree(federation.state(Role.AGGREGATOR).root, tmp_path / "state"))


@pytest.fixture
def files(federation: Federation, tmp_path: Path) -> AggregatorFiles:
    charter = tmp_path / "charter.json"
    charter.write_bytes(federation.charter_envelope)
    return AggregatorFiles(charter, context_file(federation))


def opened(root: Path, files: AggregatorFiles) -> Aggregator:
    return Aggregator(StateDirectory.open(root, Role.AGGREGATOR), files, NOWHERE)


def other_context(federation: Federation, root: Path, files: AggregatorFiles) -> AggregatorFiles:
    path = root.parent / "context"
    path.write_bytes(files.context.read_bytes()[:-1])
    return AggregatorFiles(files.charter, path)


def no_context(federation: Federation, root: Path, files: AggregatorFiles) -> AggregatorFiles:
    return AggregatorFiles(files.charter, root / "nothing")


def unsigned(federation: Federation, root: Path, files: AggregatorFiles) -> AggregatorFiles:
    key = SigningKey.generate()
    files.charter.write_bytes(key.sign_document("charter", federation.charter.document()))
    return files


def other_key(federation: Federation, root: Path, files: AggregatorFiles) -> AggregatorFiles:
    write_atomically(root / "keys" / "signing.pem", SigningKey.generate().to_pem())
    return files


def other_name(federation: Federation, root: Path, files: AggregatorFiles) -> AggregatorFiles:
    identity = {"federation": "testfed", "role": "aggregator", "name": "someone-else"}
    write_atomically(root / "identity.json", canonical_json(identity))
    return files


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (other_context, WrongContext),
        (no_context, ConfigurationError),
        (unsigned, SignatureRefused),
        (other_key, WrongAggregator),
        (other_name, WrongAggregator),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_made(
    federation: Federation,
    root: Path,
    files: AggregatorFiles,
    spoil: Callable[[Federation, Path, AggregatorFiles], AggregatorFiles],
    error: type[FedHelpError],
) -> None:
    spoiled = spoil(federation, root, files)
    with pytest.raises(error):
        opened(root, spoiled)
    assert not (root / "aggregator").exists()


def test_another_charter_on_the_same_state_is_refused(
    federation: Federation, root: Path, files: AggregatorFiles
) -> None:
    opened(root, files).close()
    _, envelope = charter_of(federation, "another")
    first = files.charter.read_bytes()
    files.charter.write_bytes(envelope)
    with pytest.raises(StateError, match="another charter"):
        opened(root, files)
    files.charter.write_bytes(first)
    opened(root, files).close()


def test_two_processes_on_one_state_are_refused(root: Path, files: AggregatorFiles) -> None:
    aggregator = opened(root, files)
    with pytest.raises(LogInUse):
        opened(root, files)
    aggregator.close()


def test_the_charters_adoption_is_logged_once(root: Path, files: AggregatorFiles) -> None:
    for _ in range(3):
        aggregator = opened(root, files)
        assert aggregator._journal.log.size == 1
        aggregator.close()


def test_everything_stored_is_for_its_owner_only(root: Path, files: AggregatorFiles) -> None:
    opened(root, files).close()
    exposed = [path for path in (root / "aggregator").rglob("*") if path.stat().st_mode & 0o077]
    assert exposed == []


def test_threads_follow_from_the_charter_and_are_bounded(
    federation: Federation,
) -> None:
    few = capacity(federation.charter)
    assert few.workers == 3 * 2 * 4 + SHORT_CALLS
    # Only the number of parties counts here, which a valid charter could not have so large.
    hospitals = federation.charter.hospitals * 500
    many = capacity(federation.charter.model_copy(update={"hospitals": hospitals}))
    assert (many.watches, many.uploads, many.downloads) == (MAXIMUM_WATCHES, 64, 64)


def test_the_command_line_names_what_is_wrong(root: Path, files: AggregatorFiles) -> None:
    arguments = [
        *("run", "--state", str(root), "--charter", str(files.charter)),
        *("--context", str(files.charter), "--listen", "127.0.0.1:0"),
        *("--decryptor", NOWHERE.decryptor, "--unmasker", NOWHERE.unmasker),
    ]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, WrongContext)
    assert "context.public" in str(result.exception)
