"""The CKKS secret key at rest: encrypted in the file, in the clear in the worker alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from support.federation import Federation
from support.passphrases import FIRST, chosen, give
from support.sums import public_context

from fedhelp_keys.custodian.decryption import DecryptionWorker
from fedhelp_keys.custodian.key_files import FIRST as FIRST_EPOCH
from fedhelp_keys.custodian.key_files import prepare, secret_path
from fedhelp_secure.keystore.container import is_sealed
from fedhelp_secure.keystore.lock import LEAST_COST
from fedhelp_secure.keystore.passphrase import PassphraseMissing
from fedhelp_secure.keystore.store import secret_files
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Identity, Role


def test_a_new_key_is_encrypted_from_the_first_byte_on(tmp_path: Path) -> None:
    give(FIRST)
    identity = Identity("testfed", Role.DECRYPTOR, "decryptor")
    state = StateDirectory.create(tmp_path / "state", identity)
    prepare(state)
    assert secret_path(state, FIRST_EPOCH) in secret_files(state.root)
    assert all(is_sealed(path.read_bytes()) for path in secret_files(state.root))


def test_an_encrypted_decryptor_decrypts(shared_federation: Federation, tmp_path: Path) -> None:
    root = tmp_path / "decryptor"
    shutil.copytree(shared_federation.state("decryptor").root, root)
    state = StateDirectory.open(root)
    state.secrets.encrypt(chosen(FIRST), cost=LEAST_COST)
    path = secret_path(state, FIRST_EPOCH)
    assert is_sealed(path.read_bytes())
    secure_sum = shared_federation.charter.secure_sum
    expected = np.arange(secure_sum.polynomial_degree, dtype=np.uint64)
    frame = public_context(shared_federation).encrypt_frame(expected)

    give(None)
    with pytest.raises(PassphraseMissing):
        state.read_secret(path)
    give(FIRST)
    worker = DecryptionWorker()
    try:
        (opened,) = worker.decrypt([frame], secure_sum, secret=state.read_secret(path))
        assert opened.tolist() == expected.tolist()
        child = worker.process_id
        for what in ("cmdline", "environ"):
            assert FIRST.encode() not in Path(f"/proc/{child}/{what}").read_bytes()
    finally:
        worker.close()
