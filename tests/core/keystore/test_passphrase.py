"""Where a passphrase comes from, and where it never does."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from support.passphrases import FIRST, descriptor_with, give

from fedhelp_secure.keystore import passphrase
from fedhelp_secure.keystore.passphrase import (
    CREDENTIAL,
    Passphrase,
    PassphraseMissing,
    PassphraseSource,
    PassphraseUnfit,
)

ENCODED = FIRST.encode()


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory as systemd makes it, without a credential of ours."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    return tmp_path


def test_it_is_read_from_a_descriptor_once_and_never_shown() -> None:
    source = PassphraseSource(descriptor_with(ENCODED + b"\n"))
    assert source.given
    assert source.read().encoded == ENCODED
    assert source.read() is source.read()
    assert FIRST not in repr(source.read())
    assert FIRST not in repr(source)


def test_it_is_read_from_the_systemd_credential(credentials: Path) -> None:
    assert not PassphraseSource().given
    (credentials / CREDENTIAL).write_bytes(ENCODED + b"\n")
    assert PassphraseSource().given
    assert PassphraseSource().read().encoded == ENCODED
    # What the command line says goes first, and a key of somebody else's is not the node's.
    other = PassphraseSource(descriptor_with(b"given on the command line"))
    assert other.read().encoded == b"given on the command line"
    with pytest.raises(PassphraseMissing):
        PassphraseSource(credential=None).read()


def test_without_a_source_the_error_names_all_three() -> None:
    with pytest.raises(PassphraseMissing) as missing:
        PassphraseSource().read()
    for way in ("--passphrase-fd", CREDENTIAL, "terminal"):
        assert way in str(missing.value)


def test_neither_arguments_nor_environment_give_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PASSPHRASE", "FEDHELP_PASSPHRASE", "FEDHELP_PASSPHRASE_FD"):
        monkeypatch.setenv(name, FIRST)
    assert not PassphraseSource().given
    with pytest.raises(PassphraseMissing):
        PassphraseSource().read()
    command = [sys.executable, "-m", "fedhelp_secure", "--passphrase", FIRST, "enrol", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "No such option" in done.stderr


def test_a_closed_descriptor_is_a_missing_passphrase() -> None:
    descriptor = descriptor_with(ENCODED)
    os.close(descriptor)
    with pytest.raises(PassphraseMissing, match=f"descriptor {descriptor} cannot be read"):
        PassphraseSource(descriptor).read()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n",
        b"two\nlines",
        b"ends twice\n\n",
        b"zero\0byte",
        b"\xff\xfe not text",
        b"x" * 1025,
    ],
)
def test_what_is_no_passphrase_is_refused(raw: bytes) -> None:
    with pytest.raises(PassphraseUnfit):
        PassphraseSource(descriptor_with(raw)).read()


def test_two_ways_to_write_a_letter_are_one_passphrase() -> None:
    composed, decomposed = "schl\u00fcssel der klinik", "schlu\u0308ssel der klinik"
    assert Passphrase.parse(composed.encode()) == Passphrase.parse(decomposed.encode())
    assert Passphrase.parse(b" spaces count ").encoded == b" spaces count "


def test_a_short_one_opens_but_may_not_encrypt() -> None:
    assert PassphraseSource(descriptor_with(b"14 characters!")).read()
    with pytest.raises(PassphraseUnfit, match="at least 15 characters"):
        PassphraseSource(descriptor_with(b"14 characters!")).choose()
    PassphraseSource(descriptor_with(b"15 characters!!")).choose()


def test_a_child_process_gets_it_through_a_descriptor_of_its_own() -> None:
    give(FIRST)
    with passphrase.handed_on() as (options, descriptors):
        assert options == ["--passphrase-fd", str(descriptors[0])]
        assert FIRST not in "".join(options)
        program = f"import os; print(os.read({descriptors[0]}, 100).decode())"
        command = [sys.executable, "-c", program]
        shown = subprocess.run(command, pass_fds=descriptors, capture_output=True, check=True)
    assert shown.stdout.decode().strip() == FIRST
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptors[0])
    give(None)
    with passphrase.handed_on() as nothing:
        assert nothing == ([], ())


def test_a_terminal_is_asked_without_echo(tmp_path: Path) -> None:
    state = tmp_path / "state"
    options = ["--federation", "testfed", "--role", "auditor", "--name", "one"]
    init = ["--ask-passphrase", "enrol", "init", "--state", str(state), *options]
    assert "Once more" in _at_a_terminal(init, [FIRST, FIRST])
    assert (state / "passphrase.json").exists()
    request = ["enrol", "request", "--state", str(state), "--out", str(tmp_path / "request.json")]
    assert "asks to enrol" in _at_a_terminal(request, [FIRST])
    assert "does not open" in _at_a_terminal(request, ["not the right passphrase"])
    typo = ["--ask-passphrase", "enrol", "init", "--state", str(tmp_path / "other"), *options]
    assert "typed in two ways" in _at_a_terminal(typo, [FIRST, FIRST + "x"])
    assert not (tmp_path / "other" / "keys").exists()


def _at_a_terminal(arguments: list[str], answers: list[str]) -> str:
    """Everything the terminal showed while ``fedhelp`` ran with it."""
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover (the child is another program)
        os.execv(sys.executable, [sys.executable, "-m", "fedhelp_secure", *arguments])  # noqa: S606
    shown = b""
    try:
        for answer in answers:
            while not shown.rstrip().endswith((b"assphrase:", b"Once more:")):
                shown += os.read(terminal, 1024)
            os.write(terminal, answer.encode() + b"\n")
            shown += b"."
        while chunk := os.read(terminal, 1024):
            shown += chunk
    except OSError:
        # Linux's way to say that the other side has closed.
        pass
    finally:
        os.waitpid(pid, 0)
        os.close(terminal)
    text = shown.decode()
    assert all(answer not in text for answer in answers)
    return text
