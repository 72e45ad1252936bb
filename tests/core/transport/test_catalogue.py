from __future__ import annotations

import importlib
import pkgutil
import re
import warnings
from collections import Counter
from types import ModuleType

import grpc
import pytest

from fedhelp_secure.errors import (
    ConfigurationError,
    FedHelpError,
    InternalError,
    MalformedMessage,
    PeerError,
    PolicyError,
    RateLimited,
    SignatureRefused,
    UnavailablePeer,
)
from fedhelp_secure.transport.access import AccessRefused, CallerNotAuthenticated
from fedhelp_secure.transport.catalogue import GENERIC_SENTENCE, SENTENCE_LIMIT, refusal_of

PACKAGES = ("fedhelp_secure", "fedhelp_keys", "fedhelp_server", "fedhelp_client")
CODE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*\Z")
PRIVATE = "patient 4711"


def _import_all(package: ModuleType) -> None:
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


@pytest.fixture(scope="module")
def every_error() -> list[type[FedHelpError]]:
    """Every class under FedHelpError in the installed packages."""
    with warnings.catch_warnings():
        # Third-party packages warn while they are imported; that is not what is tested here.
        warnings.simplefilter("ignore")
        for name in PACKAGES:
            _import_all(importlib.import_module(name))
    found: list[type[FedHelpError]] = []
    waiting: list[type[FedHelpError]] = [FedHelpError]
    while waiting:
        kind = waiting.pop()
        found.append(kind)
        waiting += kind.__subclasses__()
    # A class made by a test (or by dataclass slots) is not the product's.
    return [kind for kind in dict.fromkeys(found) if kind.__module__.split(".")[0] in PACKAGES]


def test_the_walk_finds_errors_of_every_branch(every_error: list[type[FedHelpError]]) -> None:
    for branch in (ConfigurationError, PeerError, PolicyError, InternalError):
        assert sum(issubclass(kind, branch) for kind in every_error) > 1
    assert len(every_error) > 20


def test_codes_are_unique_and_well_formed(every_error: list[type[FedHelpError]]) -> None:
    own = [kind for kind in every_error if "code" in vars(kind)]
    counted = Counter(kind.code for kind in own)
    twice = {code for code, times in counted.items() if times > 1}
    assert not twice, sorted(
        f"{kind.__module__}.{kind.__name__}" for kind in own if kind.code in twice
    )
    for kind in own:
        assert isinstance(kind.code, str)
        assert CODE.match(kind.code), kind


def test_every_error_is_under_a_branch_and_documented(
    every_error: list[type[FedHelpError]],
) -> None:
    for kind in every_error:
        if kind is not FedHelpError:
            branches = (ConfigurationError, PeerError, PolicyError, InternalError)
            assert issubclass(kind, branches), kind
        assert kind.__doc__, kind


def test_our_own_faults_never_leak_a_message(every_error: list[type[FedHelpError]]) -> None:
    own = [kind for kind in every_error if issubclass(kind, (InternalError, ConfigurationError))]
    for kind in own:
        refusal = refusal_of(_raised(kind))
        assert refusal.status is grpc.StatusCode.INTERNAL
        assert refusal.sentence == GENERIC_SENTENCE
        assert refusal.code == kind.code


def test_no_class_of_error_tells_a_peer_where_a_file_is(
    every_error: list[type[FedHelpError]],
) -> None:
    for kind in every_error:
        for path in ("/srv/fedhelp/keys/signing.pem", "'/var/lib/a b'", "/x"):
            error = kind.__new__(kind)
            Exception.__init__(error, f"{path} is wrong ({path}): mend {path}, then try again.")
            refusal = refusal_of(error)
            assert path.strip("'").split(" ")[0] not in refusal.sentence, kind
            if refusal.status is grpc.StatusCode.INTERNAL:
                assert refusal.sentence == GENERIC_SENTENCE, kind
            else:
                assert refusal.sentence.endswith("then try again."), kind


@pytest.mark.parametrize(
    "sentence",
    [
        "the call by spiffe://fed/hospital/a is refused; ask at https://example.org/a/b.",
        "less than 1/4 and/or more; sha256:00ff is not host:443/x.",
    ],
)
def test_what_only_looks_like_a_path_stays(sentence: str) -> None:
    assert refusal_of(PolicyError(sentence)).sentence == sentence


def test_a_refused_rate_has_a_status_of_its_own() -> None:
    refusal = refusal_of(RateLimited("try again."))
    assert refusal.status is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refusal.code == "rate-limited"


@pytest.mark.parametrize(
    "error", [ValueError(PRIVATE), KeyError(PRIVATE), MemoryError(), FedHelpError(PRIVATE)]
)
def test_any_other_error_is_internal_and_says_nothing(error: Exception) -> None:
    refusal = refusal_of(error)
    assert refusal.status is grpc.StatusCode.INTERNAL
    assert refusal.sentence == GENERIC_SENTENCE
    assert PRIVATE not in refusal.code


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (MalformedMessage, grpc.StatusCode.INVALID_ARGUMENT),
        (SignatureRefused, grpc.StatusCode.INVALID_ARGUMENT),
        (PolicyError, grpc.StatusCode.FAILED_PRECONDITION),
        (UnavailablePeer, grpc.StatusCode.UNAVAILABLE),
        (AccessRefused, grpc.StatusCode.PERMISSION_DENIED),
        (CallerNotAuthenticated, grpc.StatusCode.UNAUTHENTICATED),
    ],
)
def test_a_peer_is_told_what_it_can_mend(kind: type[FedHelpError], status: grpc.StatusCode) -> None:
    refusal = refusal_of(kind("do this instead."))
    assert (refusal.status, refusal.sentence, refusal.code) == (
        status,
        "do this instead.",
        kind.code,
    )


def test_sentences_are_short_and_printable() -> None:
    refusal = refusal_of(PeerError("\x1b[2Jred\r\n" + "x" * 10_000))
    assert refusal.sentence.isprintable()
    assert len(refusal.sentence) == SENTENCE_LIMIT


def _raised(kind: type[FedHelpError]) -> FedHelpError:
    error = kind.__new__(kind)
    Exception.__init__(error, PRIVATE)
    return error
