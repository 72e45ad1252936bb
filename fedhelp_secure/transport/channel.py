"""A channel that asks the trust list before every call, and ends its calls when the answer is no.

gRPC's own interceptors see a call only when it begins; this is a whole `grpc.Channel` instead,
around a real one that is closed, with everything that runs on it, and made anew when calls are
allowed again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import grpc

from fedhelp_secure.errors import FedHelpError, UnavailablePeer
from fedhelp_secure.trust.review import keep_reviewing

_LOGGER = logging.getLogger(__name__)

_Made = TypeVar("_Made", bound=Callable[..., Any])
_Allowed = Callable[[], None]
_Connect = Callable[[], grpc.Channel]


class CheckedChannel(grpc.Channel):
    """Safe for many threads, as every channel."""

    def __init__(self, connect: _Connect, allowed: _Allowed) -> None:
        """``connect`` makes the real channel; ``allowed`` raises a FedHelpError for no."""
        self._connect = connect
        self._allowed = allowed
        self._lock = threading.Lock()
        self._present: grpc.Channel | None = None
        self._closed = False
        keep_reviewing(self)

    def ready(self) -> grpc.Channel:
        """The real channel, for one call; raises what ``allowed`` raises.

        Raises ValueError, as gRPC does, if this channel has been closed.
        """
        self._allowed()
        with self._lock:
            if self._closed:
                raise ValueError("Cannot invoke RPC on closed channel!")
            if self._present is None:
                self._present = self._connect()
            return self._present

    def is_present(self, channel: grpc.Channel) -> bool:
        """Whether ``channel`` is still the one for calls."""
        with self._lock:
            return channel is self._present

    def review(self) -> None:
        """End every call if none is allowed any more."""
        try:
            self._allowed()
        except FedHelpError as error:
            if self._hang_up():
                _LOGGER.warning("running calls are ended: %s", error)

    def close(self) -> None:
        """As of any channel."""
        self._closed = True
        self._hang_up()

    def _hang_up(self) -> bool:
        with self._lock:
            ended, self._present = self._present, None
        if ended is not None:
            ended.close()
        return ended is not None

    def __enter__(self) -> CheckedChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The stubs in the generated code give further arguments than gRPC's own type stubs know.

    def unary_unary(self, method: str, *options: Any, **named: Any) -> Any:  # noqa: ANN401
        """As of any channel."""
        return _CheckedCall(self, lambda real: real.unary_unary(method, *options, **named))

    def unary_stream(self, method: str, *options: Any, **named: Any) -> Any:  # noqa: ANN401
        """As of any channel."""
        return _CheckedCall(self, lambda real: real.unary_stream(method, *options, **named))

    def stream_unary(self, method: str, *options: Any, **named: Any) -> Any:  # noqa: ANN401
        """As of any channel."""
        return _CheckedCall(self, lambda real: real.stream_unary(method, *options, **named))

    def stream_stream(self, method: str, *options: Any, **named: Any) -> Any:  # noqa: ANN401
        """As of any channel."""
        return _CheckedCall(self, lambda real: real.stream_stream(method, *options, **named))

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False
    ) -> None:
        """As of any channel; of the connection that there is now."""
        self.ready().subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """As of any channel."""
        self.ready().unsubscribe(callback)


class _CheckedCall(Generic[_Made]):
    """What a stub calls, for each of the four kinds."""

    def __init__(self, channel: CheckedChannel, make: Callable[[grpc.Channel], _Made]) -> None:
        self._channel = channel
        self._make = make
        self._made: tuple[grpc.Channel, _Made] | None = None

    def __call__(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        return self._run(lambda made: made(*arguments, **named))

    def with_call(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        return self._run(lambda made: made.with_call(*arguments, **named))

    def future(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        return self._run(lambda made: made.future(*arguments, **named))

    def _run(self, call: Callable[[Any], Any]) -> Any:  # noqa: ANN401
        real = self._channel.ready()
        made = self._made
        try:
            if made is None or made[0] is not real:
                made = self._made = (real, self._make(real))
            return call(made[1])
        except ValueError as error:
            if self._channel.is_present(real):
                raise
            raise UnavailablePeer("the call was given up before it began; try again.") from error
