"""What the aggregator checks before it serves anything."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.aggregator import charter_of
from support.federation import Federation
from typer.testing import CliRunner

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.errors import ConfigurationError, FedHelpError, SignatureRefused
from fedhelp_secure.evidence.log import LogInUse
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import StateDirectory, StateError, write_atomically
from fedhelp_secure.transport.identity import Role
from fedhelp_server.aggregator.blobs import NoBlobStore
from fedhelp_server.aggregator.commands import app
from fedhelp_server.aggregator.custodians import CustodianAddresses
from fedhelp_server.aggregator.limits import (
    MAXIMUM_TRANSFERS,
    MAXIMUM_WATCHES,
    SHORT_CALLS,
    capacity,
)
from fedhelp_server.aggregator.service import Aggregator, WrongAggregator, WrongCustodians

NOWHERE = CustodianAddresses("127.0.0.1:1", ("127.0.0.1:1",))


@pytest.fixture
def root(federation: Federation, tmp_path: Path) -> Path:
    """A copy of the aggregator's state, as it is after enrolment."""
    return Path(shutil.copytree(federation.state(Role.AGGREGATOR).root, tmp_path / "state"))


@pytest.fixture
def charter_file(federation: Federation, tmp_path: Path) -> Path:
    path = tmp_path / "charter.json"
    path.write_bytes(federation.charter_envelope)
    return path


def opened(root: Path, charter_file: Path) -> Aggregator:
    return Aggregator(StateDirectory.open(root, Role.AGGREGATOR), charter_file, NOWHERE)


def missing(federation: Federation, root: Path, charter_file: Path) -> Path:
    return root / "nothing"


def unsigned(federation: Federation, root: Path, charter_file: Path) -> Path:
    key = SigningKey.generate()
    charter_file.write_bytes(key.sign_document("charter", federation.charter.document()))
    return charter_file


def other_key(federation: Federation, root: Path, charter_file: Path) -> Path:
    write_atomically(root / "keys" / "signing.pem", SigningKey.generate().to_pem())
    return charter_file


def other_name(federation: Federation, root: Path, charter_file: Path) -> Path:
    identity = {"federation": "testfed", "role": "aggregator", "name": "someone-else"}
    write_atomically(root / "identity.json", canonical_json(identity))
    return charter_file


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (missing, ConfigurationError),
        (unsigned, SignatureRefused),
        (other_key, WrongAggregator),
        (other_name, WrongAggregator),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_made(
    federation: Federation,
    root: Path,
    charter_file: Path,
    spoil: Callable[[Federation, Path, Path], Path],
    error: type[FedHelpError],
) -> None:
    spoiled = spoil(federation, root, charter_file)
    with pytest.raises(error):
        opened(root, spoiled)
    assert not (root / "aggregator").exists()


def test_another_charter_on_the_same_state_is_refused(
    federation: Federation, root: Path, charter_file: Path
) -> None:
    opened(root, charter_file).close()
    _, envelope = charter_of(federation, "another")
    first = charter_file.read_bytes()
    charter_file.write_bytes(envelope)
    with pytest.raises(StateError, match="another charter"):
        opened(root, charter_file)
    charter_file.write_bytes(first)
    opened(root, charter_file).close()


def test_two_processes_on_one_state_are_refused(root: Path, charter_file: Path) -> None:
    aggregator = opened(root, charter_file)
    with pytest.raises(LogInUse):
        opened(root, charter_file)
    aggregator.close()


def test_the_charters_adoption_is_logged_once(root: Path, charter_file: Path) -> None:
    for _ in range(3):
        aggregator = opened(root, charter_file)
        assert aggregator._journal.log.size == 1
        aggregator.close()


def test_everything_stored_is_for_its_owner_only(root: Path, charter_file: Path) -> None:
    opened(root, charter_file).close()
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
    assert (many.watches, many.uploads, many.downloads) == (
        MAXIMUM_WATCHES,
        MAXIMUM_TRANSFERS,
        MAXIMUM_TRANSFERS,
    )


def test_the_command_line_names_what_is_wrong(root: Path, charter_file: Path) -> None:
    arguments = [
        *("run", "--state", str(root), "--charter", str(charter_file)),
        *("--listen", "127.0.0.1:0", "--decryptor", "127.0.0.1:1"),
        *("--unmasker", "127.0.0.1:1", "--unmasker", "127.0.0.1:1"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, WrongCustodians)
    assert "in this order: unmasker." in str(result.exception)
    assert not (root / "aggregator").exists()


def test_a_blob_store_that_cannot_be_used_is_refused(root: Path, charter_file: Path) -> None:
    state = StateDirectory.open(root, Role.AGGREGATOR)
    for _ in range(2):
        # The second time: what was opened before it was refused is closed again.
        with pytest.raises(NoBlobStore, match="install"):
            Aggregator(state, charter_file, NOWHERE, blobs_url="no-such-protocol://x")
    opened(root, charter_file).close()


def test_the_commands_load_nothing_that_they_do_not_need() -> None:
    code = (
        "import sys, fedhelp_server.aggregator.commands;"
        "sys.exit(bool({'tenseal', 'grpc', 'torch', 'fsspec'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
