"""A real PKCS#11 token for tests: SoftHSM from Debian, as installed or as `make dev` fetched it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

PIN = "a PIN of the tests"
_PLACES = (Path("/"), Path(sys.prefix) / "share" / "softhsm")


@dataclass(frozen=True, slots=True)
class SoftToken:
    """One initialised token."""

    label: str
    module: Path
    pin_file: Path

    def uri(self, key: str, *, pin_source: bool = True) -> str:
        """The RFC 7512 URI of the key called ``key`` in it."""
        source = f"&pin-source=file:{quote(str(self.pin_file))}" if pin_source else ""
        return (
            f"pkcs11:token={self.label};object={key};type=private"
            f"?module-path={quote(str(self.module))}{source}"
        )


def find(pattern: str) -> Path | None:
    """The first file of SoftHSM that fits ``pattern``, or None."""
    return next((found for place in _PLACES for found in sorted(place.glob(pattern))), None)


def initialised(directory: Path, label: str) -> SoftToken | None:
    """A new token under ``directory``, or None without SoftHSM; set SOFTHSM2_CONF to its file."""
    module = find("usr/lib/*/softhsm/libsofthsm2.so") or find("usr/lib/softhsm/libsofthsm2.so")
    tool = find("usr/bin/softhsm2-util")
    if module is None or tool is None:
        return None
    (directory / "tokens").mkdir()
    configuration(directory).write_text(
        f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\n"
    )
    subprocess.run(
        [
            *(tool, "--module", module, "--init-token", "--free", "--label", label),
            *("--so-pin", "the officer's PIN", "--pin", PIN),
        ],
        env={"SOFTHSM2_CONF": str(configuration(directory))},
        capture_output=True,
        check=True,
    )
    pin_file = directory / "pin"
    pin_file.write_text(PIN + "\n")
    pin_file.chmod(0o600)
    return SoftToken(label, module, pin_file)


def configuration(directory: Path) -> Path:
    """SoftHSM's own configuration for the tokens under ``directory``."""
    return directory / "softhsm2.conf"
