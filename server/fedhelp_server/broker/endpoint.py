"""The HTTPS call itself: to the charter's host and nowhere else, bounded in time and size."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import ConfigurationError, InternalError, UnavailablePeer
from fedhelp_secure.foundation_model import ANSWER_LIMIT_BYTES, host_of
from fedhelp_server.broker.protocol import AnswerRefused

CONNECT_SECONDS = 10.0


class EgressRefused(InternalError):
    """A request was about to go somewhere else than to the charter's foundation model."""

    code = "egress"


class AuthoritiesUnreadable(ConfigurationError):
    """The file given with --ca holds no certificate."""

    code = "foundation-model-ca"


class CallNotSent(UnavailablePeer):
    """No connection came about: certainly nothing was sent; the same call may succeed later."""


class CallLost(UnavailablePeer):
    """Something may have been sent, and no whole answer came; ``reason`` is short and stable."""

    def __init__(self, reason: str) -> None:
        super().__init__("the connection to the foundation model was lost during the call.")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one call."""

    seconds: float = 600.0
    """From the connection to the last byte of the answer."""
    answer_bytes: int = ANSWER_LIMIT_BYTES


def check_destination(url: httpx.URL, charter: Charter) -> None:
    """Raises EgressRefused unless ``url`` is HTTPS to exactly the charter's host and port."""
    # Parsed by another library than the one that connects: where they differ, nothing is sent.
    same_host = f"{url.host}:{url.port or 443}" == host_of(charter)
    if url.scheme != "https" or not same_host or url.userinfo:
        raise EgressRefused("a request to another host than the charter's was stopped.")


class FoundationModelEndpoint:
    """The charter's foundation model, over HTTPS."""

    def __init__(self, charter: Charter, *, ca: Path | None, limits: Limits | None = None) -> None:
        """``ca``: the only certificates to trust (PEM); None for the system's.

        Raises AuthoritiesUnreadable, CharterRefused or EgressRefused.
        """
        self._charter = charter
        self._limits = limits or Limits()
        model = charter.foundation_model
        try:
            self._url = httpx.URL(f"{model.url.rstrip('/')}/v2/models/{model.model}/infer")
        except httpx.InvalidURL as error:
            raise EgressRefused("the charter's foundation_model.url is not a URL.") from error
        check_destination(self._url, charter)
        try:
            self._tls = ssl.create_default_context(cafile=None if ca is None else str(ca))
        except OSError as error:  # ssl.SSLError included
            raise AuthoritiesUnreadable(
                f"{ca} holds no certificate in PEM; give the foundation model's with --ca."
            ) from error
        self._guard = threading.Lock()
        self._cancel: Callable[[], object] | None = None
        self._closed = False

    def infer(self, body: bytes, *, idempotency_key: str) -> bytes:
        """The body of the answer to one POST of ``body``; never tried twice, never redirected.

        Raises CallNotSent, CallLost, or AnswerRefused.
        """
        return asyncio.run(self._infer(body, idempotency_key))

    def close(self) -> None:
        """End a running call (CallLost) and allow no other."""
        with self._guard:
            self._closed = True
            if self._cancel is not None:
                self._cancel()

    async def _infer(self, body: bytes, idempotency_key: str) -> bytes:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        if task is None:
            raise InternalError("a call must run in a task of its own.")
        with self._guard:
            if self._closed:
                raise CallNotSent("the broker is stopping; ask again when it is back.")
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await self._exchange(body, idempotency_key)
        except asyncio.CancelledError as error:
            raise CallLost("stopped") from error
        except TimeoutError as error:
            raise CallLost("timeout") from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise CallNotSent(
                "the foundation model cannot be reached, or its certificate is not trusted; "
                "check that it runs, the charter's URL and --ca."
            ) from error
        except httpx.HTTPError as error:
            raise CallLost("connection") from error
        finally:
            with self._guard:
                self._cancel = None

    async def _exchange(self, body: bytes, idempotency_key: str) -> bytes:
        timeout = httpx.Timeout(self._limits.seconds, connect=CONNECT_SECONDS)
        async with httpx.AsyncClient(
            verify=self._tls, trust_env=False, follow_redirects=False, timeout=timeout
        ) as client:
            request = client.build_request(
                "POST",
                self._url,
                content=body,
                headers={
                    "Content-Type": "application/json",
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                    # A structured string: draft-ietf-httpapi-idempotency-key-header.
                    "Idempotency-Key": f'"{idempotency_key}"',
                },
            )
            check_destination(request.url, self._charter)
            response = await client.send(request, stream=True)
            try:
                return await self._read(response)
            finally:
                await response.aclose()

    async def _read(self, response: httpx.Response) -> bytes:
        if response.is_redirect:
            raise AnswerRefused("redirect", "the foundation model wanted to redirect the call.")
        if response.status_code != 200:
            raise AnswerRefused(
                f"status-{response.status_code}",
                f"the foundation model answered with status {response.status_code}.",
            )
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise AnswerRefused("answer-encoding", "the foundation model's answer is compressed.")
        received = bytearray()
        async for part in response.aiter_raw():
            if len(received) + len(part) > self._limits.answer_bytes:
                raise AnswerRefused(
                    "answer-size",
                    f"the foundation model's answer is over {self._limits.answer_bytes} bytes.",
                )
            received += part
        return bytes(received)
