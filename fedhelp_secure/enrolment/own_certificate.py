"""A certificate that another authority than the registrar's issues, such as a hospital's PKI.

The key stays in the state; the authority gets a PKCS#10 request and must be in the trust list. The
registrar does not renew such a certificate; `check_own_certificate` warns as its end nears.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509

from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport import certificates
from fedhelp_secure.transport.chain import check_own_certificate, load_chain
from fedhelp_secure.trust.store import TrustStore

LIMIT_BYTES = 64 * 1024


class OwnAuthority(ConfigurationError):
    """A party that brings its own certificate asks for one of the registrar, or the reverse."""

    code = "own-authority"


def make_csr(state: StateDirectory) -> bytes:
    """A PKCS#10 request (PEM) for ``state``'s TLS key, with URI and DNS name to be copied."""
    key = certificates.tls_key_of(state)
    return certificates.make_request(state.identity, key, for_any_authority=True)


def install_own_certificate(
    state: StateDirectory, chain: bytes, *, now: datetime.datetime
) -> x509.Certificate:
    """Use ``chain`` (PEM, leaf first, then intermediates) from now on; returns the leaf.

    Raises StateError before the registrar's bundle is installed, CertificateRefused or
    OwnCertificateUnusable, and then changes nothing.
    """
    if len(chain) > LIMIT_BYTES:
        raise certificates.CertificateRefused("a certificate chain is too long; leave roots out.")
    load_chain(chain)
    trusted = TrustStore(state).current()
    files = certificates.TlsFiles(certificates.tls_key_of(state), chain, authorities=b"")
    leaf = check_own_certificate(state.identity, files, trusted, now=now)
    # First: with both in doubt, nobody asks the registrar for what it will not issue.
    write_atomically(_marker(state), b"")
    write_atomically(state.tls_certificate_path, chain)
    return leaf


def forget_own_authority(state: StateDirectory) -> None:
    """From now on the registrar certifies this party."""
    _marker(state).unlink(missing_ok=True)


def has_own_certificate(state: StateDirectory) -> bool:
    """Whether another authority than the registrar's certifies this party."""
    return _marker(state).exists()


def check_renewable(state: StateDirectory) -> None:
    """Raises OwnAuthority if the registrar does not renew this party's certificate."""
    if has_own_certificate(state):
        raise OwnAuthority(
            "this party brings its own certificate: have its authority issue a new one for "
            "'fedhelp enrol request --csr FILE', then run 'fedhelp enrol own-certificate'."
        )


def _marker(state: StateDirectory) -> Path:
    return state.root / "enrolment" / "own-certificate"
