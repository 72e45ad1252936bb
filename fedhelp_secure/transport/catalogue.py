"""What of an error crosses the wire: a gRPC status, one public sentence and the stable code.

Inside, errors are precise. A peer learns what it did wrong, or which rule forbids it; of our own
faults (configuration, bugs) it learns only that there is one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import grpc

from fedhelp_secure.errors import (
    ConfigurationError,
    FedHelpError,
    InternalError,
    PeerError,
    PolicyError,
    RateLimited,
    UnavailablePeer,
)
from fedhelp_secure.transport.access import AccessRefused, CallerNotAuthenticated
from fedhelp_secure.trust.store import Revoked

CODE_KEY = "fedhelp-code"
"""The trailing metadata entry that carries the code."""

GENERIC_SENTENCE = "this party has a fault of its own; ask its operator to look at its log."
SENTENCE_LIMIT = 500
"""Characters; gRPC carries the sentence in a header, and headers are limited to 8 KiB."""

_PATH = re.compile(r"(?<![\w:/.])/(?:[^\s/,;:'\"]+/)*[^\s/,;:'\"]+")
"""An absolute path; not what follows a host in a URI."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """How one error is told to a peer."""

    status: grpc.StatusCode
    sentence: str
    code: str


_STATUS: Mapping[type[FedHelpError], grpc.StatusCode] = MappingProxyType(
    {
        CallerNotAuthenticated: grpc.StatusCode.UNAUTHENTICATED,
        AccessRefused: grpc.StatusCode.PERMISSION_DENIED,
        Revoked: grpc.StatusCode.PERMISSION_DENIED,
        RateLimited: grpc.StatusCode.RESOURCE_EXHAUSTED,
        UnavailablePeer: grpc.StatusCode.UNAVAILABLE,
        PeerError: grpc.StatusCode.INVALID_ARGUMENT,
        PolicyError: grpc.StatusCode.FAILED_PRECONDITION,
        ConfigurationError: grpc.StatusCode.INTERNAL,
        InternalError: grpc.StatusCode.INTERNAL,
        FedHelpError: grpc.StatusCode.INTERNAL,
    }
)


def refusal_of(error: Exception) -> Refusal:
    """How ``error`` is told to a peer; any error but a FedHelpError is a fault of our own."""
    if not isinstance(error, FedHelpError):
        return Refusal(grpc.StatusCode.INTERNAL, GENERIC_SENTENCE, InternalError.code)
    nearest = next(kind for kind in type(error).__mro__ if kind in _STATUS)
    status = _STATUS[nearest]
    if status is grpc.StatusCode.INTERNAL:
        return Refusal(status, GENERIC_SENTENCE, error.code)
    # No error of these kinds names a file of ours on purpose; none must by mistake.
    return Refusal(status, printable(_PATH.sub("(a file)", str(error))), error.code)


def printable(text: str) -> str:
    """``text`` without control characters (terminal escapes too), cut to SENTENCE_LIMIT."""
    return "".join(mark if mark.isprintable() else " " for mark in text)[:SENTENCE_LIMIT]
