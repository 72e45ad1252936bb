"""Encrypted states and keys in tokens, through the commands and processes that people run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificates import authorities_pem
from support.passphrases import FIRST, SECOND, descriptor_with, give
from support.softhsm import PIN, SoftToken
from typer.testing import CliRunner

from fedhelp_secure import cli
from fedhelp_secure.demo.processes import ProcessFailed, ProcessGroup
from fedhelp_secure.enrolment.renewal import renew
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.keystore.container import is_sealed
from fedhelp_secure.keystore.store import secret_files
from fedhelp_secure.keystore.token_session import connection_to
from fedhelp_secure.signing import open_document
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import own_tls_files
from fedhelp_secure.transport.identity import Role


def fedhelp(
    *arguments: str | Path, passphrase: str | None = None, new: str | None = None
) -> tuple[str, FedHelpError | None]:
    """Run the whole command line in this process; what it printed, and the error that ended it.

    Passphrases are in descriptors, as a shell's ``3<FILE`` gives them.
    """
    called = [str(argument) for argument in arguments]
    if passphrase is not None:
        called = ["--passphrase-fd", str(descriptor_with(passphrase.encode())), *called]
    if new is not None:
        called += ["--new-passphrase-fd", str(descriptor_with(new.encode()))]
    result = CliRunner().invoke(cli.build(called), called)
    if result.exception is not None and not isinstance(result.exception, FedHelpError):
        raise result.exception
    return result.output, result.exception


def run(*arguments: str | Path, passphrase: str | None = None, new: str | None = None) -> str:
    """As `fedhelp`, to a good end; what it printed."""
    printed, error = fedhelp(*arguments, passphrase=passphrase, new=new)
    assert error is None, error
    assert not [secret for secret in (FIRST, SECOND, PIN) if secret in printed]
    return printed


def found(root: Path, *options: str, passphrase: str | None = None) -> str:
    init = ("keys", "init", "--state", root / "registrar", "--federation", "testfed")
    return run(*init, *options, passphrase=passphrase)


def join(root: Path, name: str, role: str = "auditor", *, passphrase: str | None = None) -> str:
    """Request, enrolment and installation of a party that has its state or gets one."""
    state, request, bundle = root / name, root / "request.json", root / "bundle.json"
    identity = ["--federation", "testfed", "--role", role, "--name", name]
    where = ("--state", state, "--out", request)
    printed = run("enrol", "request", *where, *identity, passphrase=passphrase)
    registrar = ("--state", root / "registrar", "--out", bundle)
    printed += run("keys", "enrol", request, *registrar, passphrase=passphrase)
    return printed + run("enrol", "install", bundle, "--state", state, passphrase=passphrase)


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registrar and an auditor, both under `FIRST` from the first byte on."""
    root = tmp_path_factory.mktemp("encrypted")
    found(root, passphrase=FIRST)
    join(root, "auditor", passphrase=FIRST)
    return root


def test_no_key_of_an_encrypted_federation_is_in_the_clear(encrypted: Path) -> None:
    files = [path for name in ("registrar", "auditor") for path in secret_files(encrypted / name)]
    assert len(files) == 7
    assert all(is_sealed(path.read_bytes()) for path in files)
    everything = [path for path in encrypted.rglob("*") if path.is_file()]
    assert not [path for path in everything if b"PRIVATE KEY" in path.read_bytes()]


@pytest.mark.parametrize(
    ("passphrase", "sentence"),
    [(None, "a passphrase is needed"), (SECOND, "does not open the keys; nothing was changed")],
)
def test_without_the_passphrase_nothing_is_done(
    encrypted: Path, passphrase: str | None, sentence: str
) -> None:
    before = contents(encrypted)
    commands: tuple[tuple[str | Path, ...], ...] = (
        ("enrol", "request", "--state", encrypted / "auditor", "--out", encrypted / "new.json"),
        ("enrol", "passphrase", "--state", encrypted / "auditor", "--remove"),
        ("keys", "serve", "--state", encrypted / "registrar", "--listen", "127.0.0.1:0"),
    )
    for command in commands:
        _, error = fedhelp(*command, passphrase=passphrase)
        assert sentence in str(error)
    change = ("enrol", "passphrase", "--state", encrypted / "auditor")
    assert sentence in str(fedhelp(*change, passphrase=passphrase, new=FIRST)[1])
    assert contents(encrypted) == before


def contents(root: Path) -> dict[Path, bytes]:
    """Of every file but locks, which hold nothing."""
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path: path.read_bytes() for path in files}


@pytest.fixture
def copied(encrypted: Path, tmp_path: Path) -> Path:
    shutil.copytree(encrypted, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def group(tmp_path: Path) -> Iterator[ProcessGroup]:
    with ProcessGroup(tmp_path / "processes") as started:
        yield started


def test_a_passphrase_changes_under_a_running_registrar(copied: Path, group: ProcessGroup) -> None:
    """It was started with the former one, goes on serving, and next time needs the new one."""
    registrar = str(copied / "registrar")
    serve = ("keys", "serve", "--state", registrar, "--listen", "127.0.0.1:0")
    give(FIRST)
    running, address = group.serve("registrar", *serve)
    # No process shows a passphrase in its arguments or its environment.
    for what in ("cmdline", "environ"):
        assert FIRST.encode() not in Path(f"/proc/{running.process.pid}/{what}").read_bytes()
    auditor = StateDirectory.open(copied / "auditor", Role.AUDITOR)
    renew(auditor, address)
    run("enrol", "passphrase", "--state", registrar, passphrase=FIRST, new=SECOND)
    run("enrol", "passphrase", "--state", auditor.root, passphrase=FIRST, new=SECOND)
    give(SECOND)
    before = own_tls_files(auditor)
    renew(auditor, address)
    assert own_tls_files(auditor).key != before.key
    assert all(is_sealed(path.read_bytes()) for path in secret_files(auditor.root))
    group.stop()
    give(SECOND)
    group.serve("registrar-again", *serve)
    give(FIRST)
    with pytest.raises(ProcessFailed, match="does not open the keys"):
        group.serve("registrar-with-the-former", *serve)


def test_a_passphrase_is_set_and_removed_by_command(tmp_path: Path) -> None:
    printed = found(tmp_path)
    assert "Keys at rest: not encrypted; signing key file:; authority key file:." in printed
    registrar = ("--state", tmp_path / "registrar")
    assert "are encrypted" in run("enrol", "passphrase", *registrar, passphrase=FIRST)
    _, error = fedhelp("enrol", "passphrase", *registrar, passphrase=FIRST, new="too short")
    assert "at least 15 characters" in str(error)
    assert "NOT encrypted" in run("enrol", "passphrase", *registrar, "--remove", passphrase=FIRST)
    assert "NOT encrypted" in join(tmp_path, "auditor")


# --- tokens ---


@pytest.fixture(scope="module")
def token_root(tmp_path_factory: pytest.TempPathFactory, soft_token: SoftToken) -> tuple[Path, str]:
    """A registrar with both keys in a token, an auditor with its signing key there; the output."""
    root = tmp_path_factory.mktemp("tokens")
    keys = [f"--ca-key={soft_token.uri('root', pin_source=False)}"]
    keys += [f"--governance-key={soft_token.uri('governance')}"]
    # One passphrase a process: it opens the files here, and is the PIN of the token.
    printed = found(root, *keys, passphrase=PIN)
    identity = ["--federation", "testfed", "--role", "auditor", "--name", "auditor"]
    signing = ["--signing-key", soft_token.uri("auditor")]
    init = ("enrol", "init", "--state", str(root / "auditor"), *identity, *signing)
    printed += run(*init, passphrase=PIN)
    return root, printed + join(root, "auditor", passphrase=PIN)


def test_the_root_and_the_signing_keys_are_in_the_token_alone(
    token_root: tuple[Path, str], soft_token: SoftToken
) -> None:
    root, printed = token_root
    names = [str(path.relative_to(root)) for path in secret_files(root / "registrar")]
    assert names == ["registrar/keys/sealing.bin", "registrar/tls/key.pem"]
    names = [str(path.relative_to(root)) for path in secret_files(root / "auditor")]
    assert names == ["auditor/keys/sealing.bin", "auditor/tls/key.pem"]
    assert f"authority key {soft_token.uri('root', pin_source=False)}" in printed
    assert f"signing key {soft_token.uri('governance')}" in printed
    assert f"signing key {soft_token.uri('auditor')}" in printed
    assert PIN not in printed
    assert not [path for path in root.rglob("*.json") if PIN in path.read_text()]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl program is not installed")
def test_openssl_verifies_the_certificates(token_root: tuple[Path, str], tmp_path: Path) -> None:
    root, _ = token_root
    roots = tmp_path / "roots.pem"
    for party in ("registrar", "auditor"):
        tls = root / party / "tls"
        purpose = ["-purpose", "sslserver", "-x509_strict", "-check_ss_sig"]
        roots.write_bytes(authorities_pem(StateDirectory.open(root / party)))
        files = ["-CAfile", str(roots), str(tls / "certificate.pem")]
        command = ["openssl", "verify", *purpose, *files]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_parties_trust_what_the_token_signs(token_root: tuple[Path, str]) -> None:
    root, _ = token_root
    give(PIN)
    registrar = StateDirectory.open(root / "registrar", Role.REGISTRAR)
    auditor = StateDirectory.open(root / "auditor", Role.AUDITOR)
    envelope = registrar.signing_key().sign_document("charter", {"name": "pilot"})
    assert open_document("charter", envelope, auditor.governance_key()) == {"name": "pilot"}
    statement = auditor.signing_key().sign_document("statement", {"round": 1})
    assert open_document("statement", statement, auditor.signing_key().public) == {"round": 1}


def test_a_running_registrar_issues_with_the_token(
    token_root: tuple[Path, str], group: ProcessGroup
) -> None:
    root, _ = token_root
    give(PIN)
    serve = ("keys", "serve", "--state", str(root / "registrar"), "--listen", "127.0.0.1:0")
    _, address = group.serve("registrar", *serve)
    auditor = StateDirectory.open(root / "auditor")
    before = own_tls_files(auditor)
    renew(auditor, address)
    assert own_tls_files(auditor).certificate != before.certificate


def test_a_signer_that_cannot_be_had_leaves_nothing(tmp_path: Path, soft_token: SoftToken) -> None:
    init = ("keys", "init", "--state", tmp_path / "state", "--federation", "testfed")
    good = soft_token.uri("root", pin_source=False)
    for uri, passphrase, sentence in (
        (good, "another PIN", "refuses the PIN"),
        (good, None, "a passphrase is needed"),
        (f"{good}&pin-value={PIN.replace(' ', '%20')}", None, "leave pin-value out"),
        (soft_token.uri("governance"), None, "no ECDSA P-256 key"),
        (f"file:{tmp_path}/absent.pem", None, "put it back"),
        ("https://example/key", None, "must begin with file: or pkcs11:"),
    ):
        connection_to(soft_token.module, soft_token.label, *[None] * 3)._give_up()
        _, error = fedhelp(*init, "--ca-key", uri, passphrase=passphrase)
        assert sentence in str(error)
        assert PIN not in str(error)
    assert not (tmp_path / "state").exists()
