"""How long a certificate lives, when it is renewed, and how far clocks may differ."""

from __future__ import annotations

import datetime

from cryptography import x509

BACKDATING = datetime.timedelta(minutes=5)
"""A certificate begins so long before it is issued: peers' clocks may be behind by so much."""

SHORTEST_HOURS = 24
LONGEST_HOURS = 30 * 24
DEFAULT_LIFETIME = datetime.timedelta(hours=LONGEST_HOURS)

_RENEWAL_FRACTION = 2 / 3
_LATE_FRACTION = 5 / 6


def renewal_due(certificate: x509.Certificate) -> datetime.datetime:
    """When two thirds of ``certificate``'s life are over; its life begins when it is issued."""
    return _after(certificate, _RENEWAL_FRACTION)


def renewal_late(certificate: x509.Certificate) -> datetime.datetime:
    """From when on it is an error, and no longer a warning, that a renewal fails: five sixths."""
    return _after(certificate, _LATE_FRACTION)


def _after(certificate: x509.Certificate, fraction: float) -> datetime.datetime:
    issued = certificate.not_valid_before_utc + BACKDATING
    life = max(certificate.not_valid_after_utc - issued, datetime.timedelta(0))
    return issued + life * fraction
