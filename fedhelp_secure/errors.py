"""Every error of the project, under one root.

Each class carries a stable ``code`` that logs, the evidence and peers may quote, and each message
is a sentence that says what to do next. Nothing patient-derived and no secret may enter a message.
The four branches say whose hand can mend it.
"""

from __future__ import annotations


class FedHelpError(Exception):
    """Root of every error that this project raises on purpose."""

    code = "error"


class ConfigurationError(FedHelpError):
    """This machine's own files or options are wrong: its operator can mend them."""

    code = "configuration"


class PeerError(FedHelpError):
    """Another party sent something that may not be accepted, or refused what we sent."""

    code = "peer"


class PolicyError(FedHelpError):
    """A rule of the charter, the site or the privacy budget forbids it: nothing was done."""

    code = "policy"


class InternalError(FedHelpError):
    """A promise of our own code did not hold: please report it."""

    code = "internal"


class UnavailablePeer(PeerError):
    """A peer cannot be reached now; the same request may succeed later."""

    code = "unavailable"


class RateLimited(UnavailablePeer):
    """The caller's identity makes more calls than a server takes from one; it may come again."""

    code = "rate-limited"


class SignatureRefused(PeerError):
    """A signature is missing, or not by the key that the charter names."""

    code = "signature"


class MalformedMessage(PeerError):
    """Bytes from a peer do not have the form that the contract fixes."""

    code = "malformed"
