"""One HTTP/1.1 POST on a line, with h11: no redirect, no compression, no more than is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import h11

from fedhelp_server.broker.egress import Line
from fedhelp_server.broker.provider import AnswerRefused, CallLost

_HEADER_BYTES = 16 * 1024
_INTERIM_ANSWERS = 8


def post(
    line: Line, *, target: str, headers: Mapping[str, str], body: bytes, answer_bytes: int
) -> bytes:
    """The body of the answer, of status 200; raises CallLost or AnswerRefused."""
    machine = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEADER_BYTES)
    every = {
        **headers,
        "Accept-Encoding": "identity",
        "Connection": "close",
        "Content-Length": str(len(body)),
    }
    request = h11.Request(method="POST", target=target, headers=list(every.items()))
    line.send(machine.send(request) or b"")
    line.send(machine.send(h11.Data(data=body)) or b"")
    machine.send(h11.EndOfMessage())
    received = bytearray()
    for event in _events(machine, line):
        if isinstance(event, h11.Response):
            _check(event, answer_bytes)
        elif isinstance(event, h11.Data):
            if len(received) + len(event.data) > answer_bytes:
                raise _too_long(answer_bytes)
            received += event.data
    return bytes(received)


def _events(machine: h11.Connection, line: Line) -> Iterator[h11.Event]:
    """The answer's, up to the end of its body; raises CallLost or AnswerRefused."""
    ended = False
    interim = 0
    while True:
        try:
            event = machine.next_event()
        except h11.RemoteProtocolError as error:
            if ended:
                raise CallLost("connection") from error
            raise _no_http() from error
        if event is h11.NEED_DATA:
            data = line.receive()
            ended = not data
            machine.receive_data(data)
        elif isinstance(event, h11.EndOfMessage):
            return
        elif isinstance(event, h11.InformationalResponse):
            interim += 1
            if interim > _INTERIM_ANSWERS:
                raise _no_http()
        elif isinstance(event, h11.Response | h11.Data):
            yield event
        else:
            raise CallLost("connection")


def _no_http() -> AnswerRefused:
    return AnswerRefused("answer-http", "the foundation model does not answer as HTTP servers do.")


def _check(response: h11.Response, answer_bytes: int) -> None:
    headers = {name.lower(): value for name, value in response.headers}
    status = response.status_code
    if 300 <= status < 400:
        raise AnswerRefused("redirect", "the foundation model wanted to redirect the call.")
    if status != 200:
        raise AnswerRefused(
            f"status-{status}", f"the foundation model answered with status {status}."
        )
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise AnswerRefused("answer-encoding", "the foundation model's answer is compressed.")
    if int(headers.get(b"content-length", b"0")) > answer_bytes:
        raise _too_long(answer_bytes)


def _too_long(answer_bytes: int) -> AnswerRefused:
    return AnswerRefused(
        "answer-size", f"the foundation model's answer is over {answer_bytes} bytes."
    )
