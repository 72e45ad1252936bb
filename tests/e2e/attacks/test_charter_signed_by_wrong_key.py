"""A charter that governance did not sign, given to every party that reads one: none goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from support.broker import make_public_set
from support.deployment import PATIENCE_SECONDS, Deployment, raw_channel, serving
from support.processes import context_file
from support.services import register

from fedhelp_secure.charter import sign_charter
from fedhelp_secure.signing import SigningKey, VerifyingKey
from fedhelp_secure.transport.catalogue import CODE_KEY
from fedhelp_secure.transport.certificates import own_tls_files
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.transport.server import start_server
from fedhelp_secure.wire.v1 import custodian_pb2 as wire
from fedhelp_secure.wire.v1 import custodian_pb2_grpc as stubs

SENTENCE = "charter is not signed by the key"


def wrong_keys(deployment: Deployment) -> dict[str, SigningKey]:
    """Of the aggregator, of a hospital, and of nobody."""
    federation = deployment.federation
    return {
        "aggregator": federation.state(Role.AGGREGATOR).signing_key(),
        "hospital": federation.state("small-1").signing_key(),
        "nobody": SigningKey.generate(),
    }


@pytest.fixture(scope="module")
def forged(deployment: Deployment) -> dict[str, bytes]:
    """The charter as it is, under each wrong signature, and twice dressed up as governance's."""
    charter = deployment.federation.charter
    envelopes = {name: sign_charter(charter, key) for name, key in wrong_keys(deployment).items()}
    governance = deployment.federation.state(Role.REGISTRAR).governance_key()
    own = wrong_keys(deployment)["aggregator"].public
    dressed = envelopes["aggregator"].replace(_identifier(own), _identifier(governance))
    assert dressed != envelopes["aggregator"]
    return {**envelopes, "dressed": dressed}


def _identifier(key: VerifyingKey) -> bytes:
    return key._as_securesystemslib().keyid.encode()


@pytest.fixture
def file(forged: dict[str, bytes], tmp_path: Path) -> Path:
    path = tmp_path / "charter.json"
    path.write_bytes(forged["dressed"])
    return path


def refusal(*arguments: str) -> str:
    """What ``fedhelp ARGUMENTS`` ends with; it must end, and with an error."""
    done = subprocess.run(
        [sys.executable, "-m", "fedhelp_secure", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    return done.stderr


def state_of(deployment: Deployment, role: Role) -> str:
    return str(deployment.federation.state(role).root)


def test_the_aggregator_does_not_start(deployment: Deployment, file: Path) -> None:
    said = refusal(
        *("server", "run", "--state", state_of(deployment, Role.AGGREGATOR)),
        *("--charter", str(file), "--listen", "127.0.0.1:0"),
        *("--decryptor", "127.0.0.1:1", "--unmasker", "127.0.0.1:1"),
    )
    assert SENTENCE in said


def test_the_broker_does_not_start(deployment: Deployment, file: Path, tmp_path: Path) -> None:
    public_set = tmp_path / "public-set.npz"
    make_public_set().save(public_set)
    said = refusal(
        *("broker", "run", "--state", state_of(deployment, Role.BROKER)),
        *("--charter", str(file), "--public-set", str(public_set), "--listen", "127.0.0.1:0"),
    )
    assert SENTENCE in said


def test_the_auditor_exports_nothing(deployment: Deployment, file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = refusal(
        *("audit", "export", "--state", state_of(deployment, Role.AUDITOR)),
        *("--aggregator", "127.0.0.1:1", "--charter", str(file)),
        *("--ledgers", str(tmp_path / "empty"), "--receipts", str(tmp_path / "empty")),
        *("--out", str(tmp_path / "bundle")),
    )
    assert SENTENCE in said
    assert not (tmp_path / "bundle").exists()


def test_nobody_is_shown_it_as_a_charter(deployment: Deployment, file: Path) -> None:
    state = state_of(deployment, Role.UNMASKER)
    assert SENTENCE in refusal("keys", "show-charter", str(file), "--state", state)


def test_a_hospital_does_not_take_it_from_its_own_aggregator(
    deployment: Deployment, forged: dict[str, bytes]
) -> None:
    """The aggregator is the right one, with its own certificate, and lies."""
    aggregator = deployment.federation.state(Role.AGGREGATOR)
    server = start_server(
        aggregator, "127.0.0.1:0", register=register(lambda _context: forged["dressed"])
    )
    hospital = deployment.federation.state("large-1")
    before = sorted(hospital.root.rglob("*"))
    try:
        said = refusal(
            *("client", "rehearse", "--state", str(hospital.root)),
            *("--context", str(context_file(deployment.federation))),
            *("--aggregator", f"aggregator@{server.address}"),
        )
    finally:
        server.stop()
    assert SENTENCE in said
    assert sorted(hospital.root.rglob("*")) == before


def asked(deployment: Deployment, role: Role, charter: bytes) -> str:
    """The code with which a custodian's process refuses the aggregator's request."""
    files = own_tls_files(deployment.federation.state(Role.AGGREGATOR))
    with raw_channel(files, deployment.addresses[role], serving(role)) as channel:
        if role is Role.DECRYPTOR:
            digest = f"sha256:{'0' * 64}"
            sum_header = wire.DecryptSumHeader(charter=charter, round=1, sum_digest=digest)
            answer = stubs.DecryptorStub(channel).DecryptSum(
                iter([wire.DecryptSumRequest(header=sum_header)]), timeout=PATIENCE_SECONDS
            )
        else:
            header = wire.UnmaskSumHeader(charter=charter, round=1)
            answer = stubs.UnmaskerStub(channel).UnmaskSum(
                iter([wire.UnmaskSumRequest(header=header)]), timeout=PATIENCE_SECONDS
            )
        with pytest.raises(grpc.RpcError):
            next(answer)
        return str(dict(answer.trailing_metadata() or ()).get(CODE_KEY))


@pytest.mark.parametrize("role", [Role.DECRYPTOR, Role.UNMASKER], ids=["decryptor", "unmasker"])
def test_a_custodian_answers_under_governance_s_charter_alone(
    deployment: Deployment, forged: dict[str, bytes], role: Role
) -> None:
    codes = {name: asked(deployment, role, envelope) for name, envelope in forged.items()}
    assert codes == dict.fromkeys(forged, "signature")
    # The control: the true charter gets past this check, and fails at what comes with it.
    right = asked(deployment, role, deployment.federation.charter_envelope)
    assert right not in ("signature", "None")
