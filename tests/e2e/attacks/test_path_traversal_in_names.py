"""Names that climb out of a directory: in requests, charters, manifests, tables and bundles."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.attacks.conftest import Attacked
from support.aggregator import contribution_of, upload
from support.attacks import log_of
from support.federation import Federation, make_federation

from fedhelp_client.data.folder import TABLE
from fedhelp_secure.charter import KIND as CHARTER_KIND
from fedhelp_secure.enrolment.request import KIND as REQUEST_KIND
from fedhelp_secure.enrolment.request import make_request
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.evidence.bundle import sign_index
from fedhelp_secure.evidence.layout import INDEX_KIND
from fedhelp_secure.secure_sum.contribution import KIND as MANIFEST_KIND
from fedhelp_secure.signing import peek_document
from fedhelp_secure.transport.client import PeerRefused
from fedhelp_secure.transport.identity import Role

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
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("paths") / "parties", large=1, small=1)


@pytest.mark.parametrize("name", NAMES)
def test_an_enrolment_request_cannot_name_a_path(
    federation: Federation, tmp_path: Path, name: str
) -> None:
    # Signed with its own key, as a request is: only the name is wrong.
    state = federation.state("small-1")
    document = peek_document(REQUEST_KIND, make_request(state)) | {"name": name}
    request = tmp_path / "request.json"
    request.write_bytes(state.signing_key().sign_document(REQUEST_KIND, document))
    before = everything(federation.root)
    done = fedhelp(
        *("keys", "enrol", request, "--state", federation.state("registrar").root),
        *("--group", "small", "--out", tmp_path / "bundle.json"),
    )
    assert done.returncode == 1
    assert "lower-case letters, digits or hyphens" in done.stderr
    assert everything(federation.root) == before
    assert not (tmp_path / "bundle.json").exists()


@pytest.mark.parametrize("name", NAMES[:-2])
def test_a_party_cannot_be_called_a_path(tmp_path: Path, name: str) -> None:
    for option in ("--name", "--federation"):
        given = {"--name": "small-1", "--federation": "fed"} | {option: name}
        done = fedhelp(
            *("enrol", "init", "--state", tmp_path / "state", "--role", "hospital"),
            *(part for pair in given.items() for part in pair),
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
    assert everything(tmp_path) == set()


@pytest.mark.parametrize("place", ["hospital", "aggregator", "unmasker", "federation", "name"])
def test_a_charter_cannot_name_a_path_even_with_the_governance_keys_signature(
    federation: Federation, tmp_path: Path, place: str
) -> None:
    document = federation.charter.document()
    parts = {
        "hospital": document["hospitals"][0],
        "unmasker": document["custodians"]["unmaskers"][0],
        "aggregator": document["aggregator"],
    }
    parts.get(place, document)["federation" if place == "federation" else "name"] = "../../escaped"
    charter = tmp_path / "charter.json"
    charter.write_bytes(federation.governance_key.sign_document(CHARTER_KIND, document))
    done = fedhelp(
        *("server", "run", "--state", federation.state("aggregator").root, "--charter", charter),
        *("--listen", "127.0.0.1:0", "--decryptor", "127.0.0.1:1", "--unmasker", "127.0.0.1:1"),
    )
    assert done.returncode == 1
    assert "the charter is not valid at" in done.stderr
    assert not (federation.state("aggregator").root / "aggregator").exists()


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


@pytest.mark.parametrize("column", ["image", "mask"])
@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/hostname", "link.png", "a/../../secret.png"]
)
def test_a_table_cannot_reach_outside_its_folder(tmp_path: Path, column: str, name: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    row = {"image": "own.png", "label": "benign", "patient_id": "p1", "mask": ""} | {column: name}
    (folder / TABLE).write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    (folder / "own.png").write_bytes(_picture())
    done = fedhelp("client", "data", "check", folder)
    assert done.returncode == 1
    assert "leaves the data folder" in done.stderr


def _picture() -> bytes:
    import numpy as np

    from fedhelp_client.data.images import png_bytes

    return png_bytes(np.zeros((32, 32), dtype=np.uint8))


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
    done = fedhelp("audit", "verify", bundle)
    assert done.returncode == 1
    assert "step 1 (index) failed" in done.stderr
    assert "Traceback" not in done.stderr
    if spoil is not _indexed_upwards:
        with pytest.raises(FedHelpError):
            sign_index(bundle, federation.state(Role.AUDITOR))
