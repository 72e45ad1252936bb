"""Who a chain of certificates speaks for, by the trust list."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from cryptography import x509

from fedhelp_secure.transport.certificates import check_period, identity_of
from fedhelp_secure.transport.identity import Identity
from fedhelp_secure.trust.trust_list import TrustList


def verified_identity(
    chain: Sequence[x509.Certificate], trusted: TrustList, *, now: datetime.datetime
) -> Identity:
    """The one identity that ``chain`` (the leaf first) speaks for at ``now``.

    Raises CertificateRefused.
    """
    check_period(chain[0], now)
    return identity_of(chain[0])
