"""gRPC is told its cipher suites before it starts, whatever the environment says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import fedhelp_secure

WEAK = "AES128-SHA:ECDHE-ECDSA-AES128-SHA:AES128-GCM-SHA256"


@pytest.mark.parametrize("module", ["fedhelp_secure.transport.server", "fedhelp_secure.cli"])
def test_the_environment_cannot_weaken_the_suites(module: str) -> None:
    program = f"import {module}, os; print(os.environ['GRPC_SSL_CIPHER_SUITES'])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "GRPC_SSL_CIPHER_SUITES": WEAK},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip().split(":") == list(fedhelp_secure.TLS12_CIPHER_SUITES)


def test_every_suite_has_forward_secrecy_and_authenticated_encryption() -> None:
    assert fedhelp_secure.TLS12_CIPHER_SUITES
    for suite in fedhelp_secure.TLS12_CIPHER_SUITES:
        assert suite.startswith("ECDHE-")
        assert "-GCM-" in suite or suite.endswith("-CHACHA20-POLY1305")
