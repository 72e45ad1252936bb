"""Names that climb out of a directory: in requests, charters, manifests, tables and bundles."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from e2e.attacks.conftest import Attacked
from support.aggregator import contribution_of, upload
from support.attacks import log_of
from support.federation import Federation

from fedhelp_client.data.folder import load_folder
from fedhelp_client.data.images import png_bytes
from fedhelp_client.data.table import TABLE
from fedhelp_client.data.types import FolderRefused
from fedhelp_secure.charter import KIND as CHARTER_KIND
from fedhelp_secure.charter import CharterRefused, open_charter
from fedhelp_secure.enrolment.request import KIND as REQUEST_KIND
from fedhelp_secure.enrolment.request import make_request, open_request
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.evidence.bundle import sign_index
from fedhelp_secure.evidence.layout import INDEX_KIND
from fedhelp_secure.evidence.verify import StepFailed, verify_bundle
from fedhelp_secure.secure_sum.contribution import KIND as MANIFEST_KIND
from fedhelp_secure.signing import peek_document
from fedhelp_secure.transport.client import PeerRefused
from fedhelp_secure.transport.identity import Identity, Role

NAMES = ["../../escaped", "/tmp/escaped", "..", "a/../../escaped", "a\\..\\escaped", "a\0b", "."]  # noqa: S108


def fedhelp(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedhelp_secure", *map(str, arguments)],
        capture_output=True,
        check=False,
        timeout=60,
        text=True,
    )


def everything(root: Path) -> set[str]:
    return {str(path) for path in root.rglob("*")}


@pytest.fixture(scope="module")
def federation(attacked: Attacked) -> Federation:
    return attacked.federation


def _signed_request(federation: Federation, name: str) -> bytes:
    """Signed with its own key, as a request is: only the name is wrong."""
    state = federation.state("small-1")
    document = peek_document(REQUEST_KIND, make_request(state)) | {"name": name}
    return state.signing_key().sign_document(REQUEST_KIND, document)


@pytest.mark.parametrize("name", NAMES)
def test_no_path_is_a_partys_name(federation: Federation, name: str) -> None:
    with pytest.raises(FedHelpError):
        open_request(_signed_request(federation, name))
    for parts in ((name, "small-1"), ("fed", name)):
        with pytest.raises(FedHelpError):
            Identity(parts[0], Role.HOSPITAL, parts[1])


def test_a_registrar_refuses_a_request_that_names_a_path(
    federation: Federation, tmp_path: Path
) -> None:
    request, registrar = tmp_path / "request.json", federation.state("registrar").root
    request.write_bytes(_signed_request(federation, NAMES[0]))
    before = everything(registrar)
    done = fedhelp(
        *("keys", "enrol", request, "--state", registrar),
        *("--group", "small", "--out", tmp_path / "bundle.json"),
    )
    assert done.returncode == 1
    assert "lower-case letters, digits or hyphens" in done.stderr
    assert everything(registrar) == before
    assert not (tmp_path / "bundle.json").exists()


def test_a_party_cannot_be_called_a_path(tmp_path: Path) -> None:
    done = fedhelp(
        *("enrol", "init", "--state", tmp_path / "state", "--role", "hospital"),
        *("--federation", "fed", "--name", "../../escaped"),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert everything(tmp_path) == set()


def _renamed(federation: Federation, place: str, name: str) -> bytes:
    """The federation's charter with a path in the place of a name, and a good signature."""
    document = federation.charter.document()
    parts = {
        "hospital": document["hospitals"][0],
        "unmasker": document["custodians"]["unmaskers"][0],
        "aggregator": document["aggregator"],
    }
    parts.get(place, document)["federation" if place == "federation" else "name"] = name
    return federation.governance_key.sign_document(CHARTER_KIND, document)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["hospital", "aggregator", "unmasker", "federation", "name"])
def test_no_path_is_a_name_in_a_charter(federation: Federation, place: str, name: str) -> None:
    with pytest.raises(CharterRefused):
        open_charter(_renamed(federation, place, name), federation.governance_key.public)


def test_a_server_refuses_a_charter_that_names_a_path_whoever_signed_it(
    federation: Federation, tmp_path: Path
) -> None:
    charter, root = tmp_path / "charter.json", tmp_path / "state"
    charter.write_bytes(_renamed(federation, "hospital", "../../escaped"))
    shutil.copytree(federation.state("aggregator").root, root)
    before = everything(tmp_path)
    done = fedhelp(
        *("server", "run", "--state", root, "--charter", charter, "--listen", "127.0.0.1:0"),
        *("--decryptor", "127.0.0.1:1", "--unmasker", "127.0.0.1:1"),
    )
    assert done.returncode == 1
    assert "the charter is not valid at" in done.stderr
    assert everything(tmp_path) == before


def test_a_manifest_cannot_name_a_path(attacked: Attacked) -> None:
    federation, charter = attacked.federation, attacked.federation.charter
    made = contribution_of(federation, charter, "small-1")
    root = federation.state(Role.AGGREGATOR).root
    key = federation.state("small-1").signing_key()
    before = everything(root)
    for field, value in (
        ("hospital", "../../escaped"),
        ("ciphertext_digest", "sha256:../../../escaped"),
        ("ledger_entry_digest", "sha256:../../../escaped"),
        ("charter", "../../escaped"),
    ):
        messages = list(upload(charter, made))
        document = peek_document(MANIFEST_KIND, made.manifest)
        assert field in document
        document[field] = value
        messages[0].header.manifest = key.sign_document(MANIFEST_KIND, document)
        with pytest.raises(PeerRefused):
            attacked.party("small-1").send(iter(messages))
    assert not [path for path in everything(root) - before if "escaped" in path]
    assert "Traceback" not in log_of(attacked.servers, "aggregator")


def _folder(root: Path, column: str, name: str) -> Path:
    """A data folder whose table names a file outside, with a secret there."""
    folder = root / "data"
    folder.mkdir()
    (root / "secret.png").write_bytes(b"secret")
    (folder / "link.png").symlink_to(root / "secret.png")
    row = {"image": "own.png", "label": "benign", "patient_id": "p1", "mask": ""} | {column: name}
    (folder / TABLE).write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    (folder / "own.png").write_bytes(png_bytes(np.zeros((32, 32), dtype=np.uint8)))
    return folder


@pytest.mark.parametrize("column", ["image", "mask"])
@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/hostname", "link.png", "a/../../secret.png"]
)
def test_a_table_cannot_reach_outside_its_folder(tmp_path: Path, column: str, name: str) -> None:
    with pytest.raises(FolderRefused, match="leaves the data folder"):
        load_folder(_folder(tmp_path, column, name), "classification")


def test_a_node_says_so(tmp_path: Path) -> None:
    done = fedhelp("client", "data", "check", _folder(tmp_path, "image", "../secret.png"))
    assert done.returncode == 1
    assert "leaves the data folder" in done.stderr


def _named_upwards(bundle: Path, federation: Federation) -> None:
    (bundle / "objects" / "..evil.json").write_text("{}")


def _linked_file(bundle: Path, federation: Federation) -> None:
    (bundle / "governance.pub").unlink()
    (bundle / "governance.pub").symlink_to("/etc/hostname")


def _linked_directory(bundle: Path, federation: Federation) -> None:
    (bundle / "ledgers").symlink_to("/etc")


def _indexed_upwards(bundle: Path, federation: Federation) -> None:
    files = {"../../../etc/hostname": "sha256:" + "0" * 64}
    key = federation.state(Role.AUDITOR).signing_key()
    (bundle / "index.json").write_bytes(key.sign_document(INDEX_KIND, {"files": files}))


@pytest.mark.parametrize(
    "spoil", [_named_upwards, _linked_file, _linked_directory, _indexed_upwards]
)
def test_a_bundle_cannot_reach_outside_itself(
    federation: Federation, tmp_path: Path, spoil: Callable[[Path, Federation], None]
) -> None:
    bundle = tmp_path / "bundle"
    (bundle / "objects").mkdir(parents=True)
    (bundle / "charter.json").write_bytes(federation.charter_envelope)
    key = federation.governance_key.public
    (bundle / "governance.pub").write_text(f"{key.to_base64()}\n")
    sign_index(bundle, federation.state(Role.AUDITOR))
    spoil(bundle, federation)
    with pytest.raises(StepFailed, match=r"step 1 \(index\) failed"):
        verify_bundle(bundle)
    if spoil is not _indexed_upwards:
        with pytest.raises(FedHelpError):
            sign_index(bundle, federation.state(Role.AUDITOR))
