"""How much one identity may ask of a server: calls a second, and calls at once.

A token bucket (Turner 1986) for each identity: it holds at most `CALL_BURST` calls and fills at
`CALLS_A_SECOND`. The limits are far above what a party of a federation needs, and far below what
hurts the others. Whoever is over them is told so with `RateLimited`, and clients back off.

The size of a message is limited by gRPC itself (`fedhelp_secure.transport.limits`).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import grpc

from fedhelp_secure.errors import RateLimited
from fedhelp_secure.transport.catalogue import CODE_KEY, refusal_of
from fedhelp_secure.transport.identity import Identity

CALLS_A_SECOND = 50.0
CALL_BURST = 200
"""A node asks for up to 100 receipts, one a round, when it starts."""

CALLS_AT_ONCE = 16
"""Of all kinds, by one identity: a node has one watch and one transfer, twice while one ends."""

_LOGGED_EVERY_SECONDS = 60.0

_NOBODY = "whoever has no valid certificate"
"""One account for all of them: the access interceptor refuses each, and logs it."""

_LOGGER = logging.getLogger(__name__)

Clock = Callable[[], float]

Identify = Callable[[grpc.ServicerContext], Identity | None]

_Behaviour = Callable[[Any, grpc.ServicerContext], Any]


@dataclass(slots=True)
class TokenBucket:
    """Holds at most ``size`` tokens and fills at ``rate`` a second; full at first."""

    rate: float
    size: float
    clock: Clock = time.monotonic
    _tokens: float = field(init=False)
    _filled: float = field(init=False)

    def __post_init__(self) -> None:
        self._tokens, self._filled = self.size, self.clock()

    def take(self) -> bool:
        """Whether there was a token, which is then gone. Not safe for several threads."""
        now = self.clock()
        self._tokens = min(self.size, self._tokens + self.rate * (now - self._filled))
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass(slots=True)
class _Account:
    """One identity's calls."""

    calls: TokenBucket
    reports: TokenBucket
    running: int = 0


class Rates:
    """The accounts of every identity that calls one server; safe for many threads.

    Identities are those in certificates of the federation, so there are as many as it has parties.
    """

    def __init__(
        self,
        *,
        calls_a_second: float = CALLS_A_SECOND,
        burst: int = CALL_BURST,
        at_once: int = CALLS_AT_ONCE,
        clock: Clock = time.monotonic,
    ) -> None:
        self._calls_a_second = calls_a_second
        self._burst = burst
        self._at_once = at_once
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def call(self, who: str) -> Iterator[None]:
        """One call by ``who`` for the length of the block; raises RateLimited if it is too many."""
        with self._lock:
            account = self._accounts.get(who)
            if account is None:
                account = self._accounts[who] = self._new_account()
            if not account.calls.take() or account.running >= self._at_once:
                report = account.reports.take()
            else:
                report = None
                account.running += 1
        if report is not None:
            self._refuse(who, report)
        try:
            yield
        finally:
            with self._lock:
                account.running -= 1

    def _new_account(self) -> _Account:
        return _Account(
            TokenBucket(self._calls_a_second, self._burst, self._clock),
            # Nobody fills the log by being refused.
            TokenBucket(1 / _LOGGED_EVERY_SECONDS, 1, self._clock),
        )

    def _refuse(self, who: str, report: bool) -> None:
        if report:
            _LOGGER.warning(
                "%s makes more calls than are served; further ones are refused without a line here "
                "for %d s",
                who,
                _LOGGED_EVERY_SECONDS,
            )
        raise RateLimited(
            f"this party serves at most {self._calls_a_second:g} calls a second and "
            f"{self._at_once} at once of one identity; try again later."
        )


class RateInterceptor(grpc.ServerInterceptor):
    """Counts every call against its caller's limits. Goes before the access interceptor.

    So calls that will be refused count too: nobody fills a log with refusals.
    """

    def __init__(self, identify: Identify, rates: Rates | None = None) -> None:
        """``identify`` says who calls, None for whoever has no valid certificate."""
        self._identify = identify
        self._rates = Rates() if rates is None else rates

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler with its calls counted; None (unimplemented) if there is no handler."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        kind = f"{_kind(handler.request_streaming)}_{_kind(handler.response_streaming)}"
        behaviour = cast(_Behaviour, getattr(handler, kind))
        counted = self._stream(behaviour) if handler.response_streaming else self._value(behaviour)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return cast(
            "grpc.RpcMethodHandler[Any, Any]",
            make(
                counted,
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            ),
        )

    def _value(self, behaviour: _Behaviour) -> _Behaviour:
        def counted(request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401
            with self._counted(context):
                return behaviour(request, context)

        return counted

    def _stream(self, behaviour: _Behaviour) -> _Behaviour:
        def counted(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: ANN401
            with self._counted(context):
                yield from behaviour(request, context)

        return counted

    def _who(self, context: grpc.ServicerContext) -> str:
        identity = self._identify(context)
        return _NOBODY if identity is None else identity.uri

    @contextlib.contextmanager
    def _counted(self, context: grpc.ServicerContext) -> Iterator[None]:
        with contextlib.ExitStack() as running:
            try:
                running.enter_context(self._rates.call(self._who(context)))
            except RateLimited as error:
                refusal = refusal_of(error)
                context.set_trailing_metadata(((CODE_KEY, refusal.code),))
                context.abort(refusal.status, refusal.sentence)
            yield


def _kind(streaming: bool) -> str:
    return "stream" if streaming else "unary"
