"""A state that others could read, or lead astray, is refused with the command that mends it."""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
from pathlib import Path

import pytest
from support.federation import FEDERATION

from fedhelp_keys.custodian.key_files import prepare
from fedhelp_keys.registrar.ca import found_federation
from fedhelp_secure.keystore.store import secret_files
from fedhelp_secure.state import StateDirectory, StateError
from fedhelp_secure.transport.certificates import tls_key_of, utc_now
from fedhelp_secure.transport.identity import Identity, Role

EVERY_PARTY = ["keys", "keys/sealing.bin", "keys/signing.pem", "tls", "tls/key.pem"]
OF_A_ROLE = {
    Role.REGISTRAR: ["registrar", "registrar/ca-key.pem"],
    Role.DECRYPTOR: ["decryptor", "decryptor/context.secret"],
}
OTHERS = ["", "identity.json"]
TABLE = [
    (role, name) for role in Role for name in (*OTHERS, *EVERY_PARTY, *OF_A_ROLE.get(role, []))
]


def make_state(root: Path, role: Role) -> StateDirectory:
    if role is Role.REGISTRAR:
        return found_federation(root, FEDERATION, now=utc_now())
    state = StateDirectory.create(root, Identity(FEDERATION, role, "one"))
    tls_key_of(state)
    if role is Role.DECRYPTOR:
        prepare(state)
    return state


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[Role, Path]:
    """One of each role, with a blank and a quote on the way to it."""
    folder = tmp_path_factory.mktemp("a party's states")
    return {role: make_state(folder / role.value, role).root for role in Role}


def mend(error: StateError) -> None:
    """Run the command that the refusal gives, as an operator would."""
    command = re.search(r"run: (.+)$", str(error))
    assert command is not None, error
    subprocess.run(["sh", "-ec", command[1]], check=True, capture_output=True)


@pytest.mark.parametrize("role", list(Role))
def test_the_table_has_every_secret_file_of_the_role(states: dict[Role, Path], role: Role) -> None:
    root = states[role]
    listed = {root / name for of_role, name in TABLE if of_role is role}
    assert {path for path in secret_files(root)} <= listed
    folders = {path for path in root.rglob("*") if path.is_dir()}
    named = {root / "trust"} if role is Role.REGISTRAR else set()
    assert folders - named <= listed


@pytest.mark.parametrize(("role", "name"), TABLE)
def test_it_is_the_owners_alone(states: dict[Role, Path], role: Role, name: str) -> None:
    root = states[role]
    path = root / name
    assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    StateDirectory.open(root)
    for others in (0o040, 0o004, 0o020, 0o001):
        path.chmod(stat.S_IMODE(path.stat().st_mode) | others)
        with pytest.raises(StateError, match=re.escape(str(path))) as refused:
            StateDirectory.open(root, role)
        mend(refused.value)
        StateDirectory.open(root, role)


@pytest.mark.parametrize(("role", "name"), [row for row in TABLE if row[1]])
def test_it_is_no_symbolic_link(
    states: dict[Role, Path], tmp_path: Path, role: Role, name: str
) -> None:
    root, moved = states[role], tmp_path / "moved"
    path = root / name
    os.rename(path, moved)
    path.symlink_to(moved)
    try:
        with pytest.raises(StateError, match="is a symbolic link") as refused:
            StateDirectory.open(root, role)
        mend(refused.value)
    finally:
        if path.is_symlink():
            path.unlink()
            os.rename(moved, path)
    StateDirectory.open(root, role)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
@pytest.mark.parametrize(("role", "name"), [row for row in TABLE if row[0] is Role.REGISTRAR])
def test_it_belongs_to_who_runs_the_process(
    states: dict[Role, Path], role: Role, name: str
) -> None:
    path = states[role] / name
    os.chown(path, 12345, -1)
    with pytest.raises(StateError, match="belongs to another user") as refused:
        StateDirectory.open(states[role])
    mend(refused.value)
    StateDirectory.open(states[role])


def test_the_way_to_the_state_may_lead_over_a_link(
    states: dict[Role, Path], tmp_path: Path
) -> None:
    (tmp_path / "state").symlink_to(states[Role.HOSPITAL])
    StateDirectory.open(tmp_path / "state").signing_key()


def test_a_new_secret_of_a_role_is_checked_too(tmp_path: Path) -> None:
    """One that this table does not know yet, such as a key of a later epoch."""
    state = make_state(tmp_path / "state", Role.DECRYPTOR)
    path = state.root / "decryptor" / "epochs" / "2" / "context.secret"
    state.write_secret(path, b"secret")
    StateDirectory.open(state.root)
    path.parent.parent.chmod(0o750)
    with pytest.raises(StateError, match="epochs"):
        StateDirectory.open(state.root)
    path.parent.parent.chmod(0o700)
    path.chmod(0o640)
    with pytest.raises(StateError, match=shlex.quote(str(state.root))):
        StateDirectory.open(state.root)
