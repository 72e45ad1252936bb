"""The self-signed certificate: for this machine, for serving, for signing nothing."""

from __future__ import annotations

import stat
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from support.broker import fedhelp

from fedhelp_server.foundation_model.certificate import make_certificate


def test_it_names_this_machine_and_may_sign_nothing(tmp_path: Path) -> None:
    certificate_path, key_path = make_certificate(tmp_path / "fm")
    certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
    extensions = certificate.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    assert addresses == ["127.0.0.1", "::1"]
    constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints.ca is False
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lifetime.days == 30
    assert stat.S_IMODE(key_path.stat().st_mode) == 0o600


def test_the_command_says_what_to_do_next(tmp_path: Path) -> None:
    done = fedhelp("broker", "foundation-model-certificate", "--out", str(tmp_path / "fm"))
    assert done.returncode == 0, done.stderr
    assert f"--ca {tmp_path / 'fm' / 'certificate.pem'}" in done.stdout
