"""The one interceptor of every server: it authenticates, authorises and translates errors.

It wraps all four kinds of handler, so that no servicer can be reached without it and none has to
speak gRPC's statuses: servicers raise FedHelpErrors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, cast

import grpc

from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.transport.admission import Admission
from fedhelp_secure.transport.catalogue import CODE_KEY, refusal_of

_LOGGER = logging.getLogger(__name__)

# What gRPC hands a behaviour and takes from it differs between the four kinds, and is typed in the
# generated servicers; here it only passes through.
_Behaviour = Callable[[Any, grpc.ServicerContext], Any]
_Admit = Callable[[grpc.ServicerContext], None]


class AccessInterceptor(grpc.ServerInterceptor):
    """Lets through only what `Admission` admits."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler with the checks before it; None (unimplemented) if there is no handler."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method)

        def admit(context: grpc.ServicerContext) -> None:
            self._admission.admit(method, context)

        return _guarded(handler, admit, method)


def _guarded(
    handler: grpc.RpcMethodHandler[Any, Any], admit: _Admit, method: str
) -> grpc.RpcMethodHandler[Any, Any]:
    # A handler of one kind has the behaviour of that kind, which the stubs cannot say: hence casts.
    codec = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    if handler.request_streaming and handler.response_streaming:
        stream_stream = _guarded_stream(cast(_Behaviour, handler.stream_stream), admit, method)
        return grpc.stream_stream_rpc_method_handler(stream_stream, **codec)
    if handler.request_streaming:
        stream_unary = _guarded_value(cast(_Behaviour, handler.stream_unary), admit, method)
        return grpc.stream_unary_rpc_method_handler(stream_unary, **codec)
    if handler.response_streaming:
        unary_stream = _guarded_stream(cast(_Behaviour, handler.unary_stream), admit, method)
        return grpc.unary_stream_rpc_method_handler(unary_stream, **codec)
    unary_unary = _guarded_value(cast(_Behaviour, handler.unary_unary), admit, method)
    return grpc.unary_unary_rpc_method_handler(unary_unary, **codec)


def _guarded_value(behaviour: _Behaviour, admit: _Admit, method: str) -> _Behaviour:
    def guarded(request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401
        try:
            admit(context)
            return behaviour(request, context)
        except Exception as error:  # noqa: BLE001 - nothing but the catalogue may reach the wire
            _refuse(context, error, method)

    return guarded


def _guarded_stream(behaviour: _Behaviour, admit: _Admit, method: str) -> _Behaviour:
    def guarded(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: ANN401
        try:
            admit(context)
            yield from behaviour(request, context)
        except Exception as error:  # noqa: BLE001 - nothing but the catalogue may reach the wire
            _refuse(context, error, method)

    return guarded


def _refuse(context: grpc.ServicerContext, error: Exception, method: str) -> NoReturn:
    if isinstance(error, grpc.RpcError) and not context.is_active():
        # The caller has gone: its request iterator says so, and nobody is left to answer.
        raise error
    refusal = refusal_of(error)
    if refusal.status is grpc.StatusCode.INTERNAL:
        _LOGGER.error("%s failed", method, exc_info=error)
    elif isinstance(error, FedHelpError):
        _LOGGER.info("%s refused: %s", method, refusal.code)
    context.set_trailing_metadata(((CODE_KEY, refusal.code),))
    context.abort(refusal.status, refusal.sentence)
