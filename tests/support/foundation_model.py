"""``fedhelp broker foundation-model`` as a process: the real network behind real protocols."""

from __future__ import annotations

import ssl
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
from support.broker import wait_until

from fedhelp_server.foundation_model.certificate import make_certificate


@dataclass(frozen=True)
class FoundationModel:
    process: subprocess.Popen[bytes]
    addresses: list[str]
    """host:port of HTTPS, then of gRPC if it was asked for."""
    certificate: Path
    ready: Path
    log: Path

    @property
    def url(self) -> str:
        return f"https://{self.addresses[0]}"

    def client(self) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self.certificate))
        return httpx.Client(base_url=self.url, verify=context, trust_env=False, timeout=30)


def start(root: Path, *options: str) -> FoundationModel:
    certificate, key = make_certificate(root)
    ready, log = root / "ready", root / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "fedhelp_secure", "broker", "foundation-model"),
                *("--listen", "127.0.0.1:0", "--certificate", str(certificate)),
                *("--key", str(key), "--ready-file", str(ready), *options),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    wait_until(lambda: ready.exists() or process.poll() is not None, 60)
    assert ready.exists(), log.read_text()
    return FoundationModel(process, ready.read_text().split(), certificate, ready, log)
