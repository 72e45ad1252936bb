"""The one call against a real HTTPS server: what leaves, what may come back, what is kept."""

from __future__ import annotations

import datetime
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.broker import (
    COUNT,
    BrokerWorld,
    Exchange,
    answer_well,
    closed_port,
    embeddings_of_server,
    inference_response,
    key_digest,
    rows_asked_for,
    wait_until,
)

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import CharterRefused
from fedhelp_secure.evidence.verify_calls import check_call
from fedhelp_secure.foundation_model import (
    ANSWER_LIMIT_BYTES,
    MAXIMUM_IMAGES,
    batch_key,
    encode_answer,
    idempotency_key,
    open_answer,
    open_record,
    request_digest_of,
)
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_server.broker import call as call_module
from fedhelp_server.broker import journal as journal_module
from fedhelp_server.broker import recorder as recorder_module
from fedhelp_server.broker.call import (
    CallIndeterminate,
    CallRunning,
    CallSpent,
    ProxySetRefused,
)
from fedhelp_server.broker.egress import EgressMisconfigured
from fedhelp_server.broker.provider import CallNotSent
from fedhelp_server.broker.providers.open_inference_http import build_request
from fedhelp_server.broker.states import CallState
from fedhelp_server.foundation_model.certificate import make_certificate

WHO = Identity("testfed", Role.HOSPITAL, "small-1")


def test_the_answer_and_its_record_are_kept_and_given_again(
    world: BrokerWorld, tmp_path: Path
) -> None:
    charter = world.federation.charter
    concluded: list[None] = []
    call = world.one_call(tmp_path, concluded=lambda: concluded.append(None))
    first = call.answer(WHO)
    again = call.answer(Identity("testfed", Role.HOSPITAL, "large-1"))
    restarted = world.one_call(tmp_path).answer(WHO)
    assert first == again == restarted
    assert len(world.server.requests) == 1
    assert concluded == [None]
    embeddings, record = open_answer(charter, record=first.record, body=first.body)
    np.testing.assert_array_equal(embeddings, embeddings_of_server())
    assert record.requested_by == WHO.uri
    assert record.host == world.server.url.removeprefix("https://")
    body = build_request(world.public_set.images)
    [batch] = record.batches
    assert (batch.images, batch.request_digest) == (COUNT, digest(body))
    assert (batch.request_bytes, batch.attempts, batch.cost) == (len(body), 1, None)
    assert batch.address == record.host
    assert batch.tls_key == key_digest(world.server.certificate)
    assert batch.answer_digest == digest(inference_response())
    assert record.request_digest == request_digest_of(record.batches)
    assert record.answer_digest == digest(first.body)
    assert record.earlier == ()


def test_the_request_goes_to_the_model_with_its_idempotency_key(
    world: BrokerWorld, tmp_path: Path
) -> None:
    world.one_call(tmp_path).answer(WHO)
    [request] = world.server.requests
    assert request.path == "/v2/models/dinov2-small/infer"
    assert request.body == build_request(world.public_set.images)
    key = idempotency_key(world.federation.charter)
    assert request.headers["Idempotency-Key"] == f'"{batch_key(key, 1)}"'
    assert "Cookie" not in request.headers
    assert "Authorization" not in request.headers


def test_the_intent_is_durable_before_anything_is_sent(world: BrokerWorld, tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def look(exchange: Exchange) -> None:
        seen.append(sorted(path.name for path in world.calls_directory(tmp_path).iterdir()))
        exchange.reply(inference_response())

    world.server.act = look
    world.one_call(tmp_path).answer(WHO)
    assert seen == [["0001-intent.json", "0002-sent.json"]]


def test_concurrent_requests_make_one_call(world: BrokerWorld, tmp_path: Path) -> None:
    def slowly(exchange: Exchange) -> None:
        time.sleep(0.3)
        exchange.reply(inference_response())

    world.server.act = slowly
    call = world.one_call(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: call.answer(WHO), range(8)))
    assert len(set(answers)) == 1
    assert len(world.server.requests) == 1


def redirect(exchange: Exchange) -> None:
    exchange.reply(b"", status=307, headers={"Location": f"{exchange.path}?again"})


def redirect_without_location(exchange: Exchange) -> None:
    exchange.reply(inference_response(), status=302)


def compressed(exchange: Exchange) -> None:
    exchange.reply(b"\x1f\x8b\x08", headers={"Content-Encoding": "gzip"})


def oversized(exchange: Exchange) -> None:
    exchange.reply(b" " * 200_000 + inference_response())


def endless(exchange: Exchange) -> None:
    exchange.handler.send_response(200)
    exchange.handler.end_headers()  # no length: as long as the connection lasts
    while True:
        exchange.handler.wfile.write(b" " * 65536)


def promising(exchange: Exchange) -> None:
    """A length of 10 GB, and nothing after it."""
    exchange.reply(b"", length=10_000_000_000)


def bomb(exchange: Exchange) -> None:
    packed = gzip.compress(b" " * 50_000_000)
    exchange.reply(packed, headers={"Content-Encoding": "gzip"})


def endless_headers(exchange: Exchange) -> None:
    exchange.handler.send_response_only(200)
    exchange.handler.flush_headers()
    while True:
        exchange.handler.wfile.write(b"X-More: " + b"x" * 1000 + b"\r\n")


def interim_for_ever(exchange: Exchange) -> None:
    for _ in range(100):
        exchange.handler.wfile.write(b"HTTP/1.1 102 Processing\r\n\r\n")


def no_http(exchange: Exchange) -> None:
    exchange.handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


HOSTILE: list[tuple[Callable[[Exchange], None], str]] = [
    (redirect, "redirect"),
    (redirect_without_location, "redirect"),
    (compressed, "answer-encoding"),
    (oversized, "answer-size"),
    (endless, "answer-size"),
    (promising, "answer-size"),
    (bomb, "answer-encoding"),
    (endless_headers, "answer-http"),
    (interim_for_ever, "answer-http"),
    (no_http, "answer-http"),
    (lambda exchange: exchange.reply(b"not json"), "answer-form"),
    (lambda exchange: exchange.reply(inference_response(), status=500), "status-500"),
    (lambda exchange: exchange.reply(inference_response(), status=201), "status-201"),
    (lambda exchange: exchange.reply(inference_response(shape=[COUNT, 384])), "answer-shape"),
    (lambda exchange: exchange.reply(inference_response(datatype="FP64")), "answer-form"),
    (
        lambda exchange: exchange.reply(inference_response(data=[float("nan")] * COUNT * 768)),
        "answer-form",
    ),
]


@pytest.mark.parametrize(("act", "reason"), HOSTILE)
def test_a_hostile_answer_is_recorded_and_not_kept(
    world: BrokerWorld, tmp_path: Path, act: Callable[[Exchange], None], reason: str
) -> None:
    world.server.act = act
    concluded: list[None] = []
    provider = world.provider(world.rules(seconds=10, answer_bytes=150_000))
    call = world.one_call(tmp_path, provider=provider, concluded=lambda: concluded.append(None))
    for _ in range(2):
        with pytest.raises(CallSpent, match=reason):
            call.answer(WHO)
    assert len(world.server.requests) == 1
    assert concluded == [None]
    assert not list(world.calls_directory(tmp_path).glob("*.sealed"))
    journal = world.journal(tmp_path)
    assert journal.state is CallState.REFUSED
    assert journal.final_record is not None
    key = world.federation.state(Role.BROKER).signing_key().public
    record = open_record(journal.final_record, key)
    assert (record.outcome, record.reason, record.answer_digest) == ("refused", reason, None)


def test_an_answer_has_room_for_its_numbers_and_no_more(world: BrokerWorld, tmp_path: Path) -> None:
    indented = json.dumps(json.loads(inference_response()), indent=4).encode()
    padded = b" " * 400_000 + inference_response()
    world.server.act = lambda exchange: exchange.reply(indented)
    world.one_call(tmp_path / "indented").answer(WHO)
    world.server.act = lambda exchange: exchange.reply(padded)
    with pytest.raises(CallSpent, match="answer-size"):
        world.one_call(tmp_path / "padded").answer(WHO)


def cut_short(exchange: Exchange) -> None:
    exchange.reply(inference_response()[:1000], length=5000)
    exchange.handler.close_connection = True


def hang_up(exchange: Exchange) -> None:
    exchange.handler.close_connection = True


def drip(exchange: Exchange) -> None:
    """One byte now and then: each read succeeds, the whole never ends."""
    exchange.handler.send_response(200)
    exchange.handler.send_header("Content-Length", "1000")
    exchange.handler.end_headers()
    for _ in range(100):
        exchange.handler.wfile.write(b" ")
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("act", "reason"), [(cut_short, "connection"), (hang_up, "connection"), (drip, "timeout")]
)
def test_a_lost_call_is_indeterminate_and_not_repeated(
    world: BrokerWorld, tmp_path: Path, act: Callable[[Exchange], None], reason: str
) -> None:
    world.server.act = act
    concluded: list[None] = []
    call = world.one_call(
        tmp_path,
        provider=world.provider(world.rules(seconds=1.0)),
        concluded=lambda: concluded.append(None),
    )
    for _ in range(2):
        with pytest.raises(CallIndeterminate, match="fedhelp broker resolve"):
            call.answer(WHO)
    assert len(world.server.requests) == 1
    journal = world.journal(tmp_path)
    assert journal.state is CallState.INDETERMINATE
    assert journal.last_record().reason == reason
    assert journal.final_record is None  # nothing to submit before the operator has spoken


def test_a_call_that_never_connected_may_be_made_later(world: BrokerWorld, tmp_path: Path) -> None:
    # Its certificate is not the pinned one, so the handshake fails before anything is sent.
    other, _ = make_certificate(tmp_path / "other")
    provider = world.provider(world.rules(ca=other))
    with pytest.raises(CallNotSent, match="--ca"):
        world.one_call(tmp_path, provider=provider).answer(WHO)
    assert world.server.requests == []
    names = [path.name for path in world.calls_directory(tmp_path).iterdir()]
    assert names == ["0001-intent.json"]
    world.one_call(tmp_path).answer(WHO)
    assert len(world.server.requests) == 1


def test_nobody_listening_is_not_a_call(world: BrokerWorld) -> None:
    nowhere = world.variant(url=f"https://127.0.0.1:{closed_port()}")
    with pytest.raises(CallNotSent):
        nowhere.provider().connect()


def test_a_server_with_a_certificate_for_another_host_gets_nothing(
    world: BrokerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The name leads to the recording server, whose pinned certificate does not have it.
    find = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _, *rest, **options: find("127.0.0.1", *rest, **options)
    )
    other = world.variant(url=world.server.url.replace("127.0.0.1", "fm.example"))
    with pytest.raises(CallNotSent, match="certificate"):
        other.provider().connect()
    wait_until(lambda: world.server.connections)
    assert world.server.requests == []


def test_the_environment_cannot_put_a_proxy_between(
    world: BrokerWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    world.one_call(tmp_path).answer(WHO)
    assert len(world.server.requests) == 1


def test_closing_ends_a_running_call_as_indeterminate(world: BrokerWorld, tmp_path: Path) -> None:
    release = threading.Event()

    def hold(_: Exchange) -> None:
        release.wait(10)

    world.server.act = hold
    provider = world.provider()
    call = world.one_call(tmp_path, provider=provider)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(call.answer, WHO)
        wait_until(lambda: world.server.requests)
        provider.close()
        with pytest.raises(CallIndeterminate):
            waiting.result(timeout=5)
    release.set()
    assert world.journal(tmp_path).last_record().reason == "stopped"


def test_a_closed_endpoint_sends_nothing(world: BrokerWorld, tmp_path: Path) -> None:
    provider = world.provider()
    call = world.one_call(tmp_path, provider=provider)
    provider.close()
    with pytest.raises(CallNotSent):
        call.answer(WHO)
    assert world.server.connections == []
    assert world.journal(tmp_path).state is CallState.OPEN


def test_other_images_than_the_charters_never_leave(world: BrokerWorld, tmp_path: Path) -> None:
    private = world.public_set.images.copy()
    private[3, 10, 10] ^= 1
    with pytest.raises(ProxySetRefused, match="not the charter's"):
        world.one_call(tmp_path, images=private)
    private[3, 10, 10] ^= 1
    call = world.one_call(tmp_path, images=private)
    private[3, 10, 10] ^= 1  # changed after the start
    with pytest.raises(ProxySetRefused, match="not the charter's"):
        call.answer(WHO)
    assert world.server.connections == []
    assert world.journal(tmp_path).state is CallState.READY


def test_the_largest_call_fits_the_answers_limit() -> None:
    assert MAXIMUM_IMAGES > 1000
    assert len(encode_answer(np.ones((MAXIMUM_IMAGES, 768), np.float32))) <= ANSWER_LIMIT_BYTES


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9000",
        "https://user@host",
        "ftp://host",
        "https://host:99999",
        "https://host:port",
        "https://[",
        "https://",
        "https://:443",
        "https://host\\@evil.example",
        "https://h%6fst",
        "https://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example",
        "https://host/path;x",
    ],
)
def test_a_charter_with_another_url_is_refused(world: BrokerWorld, url: str) -> None:
    with pytest.raises(CharterRefused, match="foundation_model"):
        world.variant(url=url)


def test_authorities_that_are_none_are_refused(world: BrokerWorld, tmp_path: Path) -> None:
    empty = tmp_path / "ca.pem"
    empty.write_text("nothing")
    for path in (empty, tmp_path / "absent.pem"):
        with pytest.raises(EgressMisconfigured, match="--ca"):
            world.provider(world.rules(ca=path))


def test_a_lost_batch_is_sent_again_where_that_is_guaranteed(
    world: BrokerWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_module, "_PAUSE_SECONDS", 0.0)
    guaranteed = world.variant(idempotent=True)

    def twice_nothing(exchange: Exchange) -> None:
        if len(world.server.requests) < 3:
            hang_up(exchange)
        else:
            answer_well(exchange)

    world.server.act = twice_nothing
    stored = guaranteed.one_call(tmp_path).answer(WHO)
    charter = guaranteed.federation.charter
    _, record = open_answer(charter, record=stored.record, body=stored.body)
    assert [batch.attempts for batch in record.batches] == [3]
    assert len({request.headers["Idempotency-Key"] for request in world.server.requests}) == 1


def test_and_given_up_after_three_times(
    world: BrokerWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_module, "_PAUSE_SECONDS", 0.0)
    guaranteed = world.variant(idempotent=True)
    world.server.act = hang_up
    with pytest.raises(CallIndeterminate):
        guaranteed.one_call(tmp_path).answer(WHO)
    assert len(world.server.requests) == call_module.ATTEMPTS


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_broker_that_stops_while_it_repeats_goes_on_when_it_is_back(
    world: BrokerWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """Whether it stops between two attempts or in the middle of the last."""
    monkeypatch.setattr(call_module, "_PAUSE_SECONDS", 0.0)
    guaranteed = world.variant(idempotent=True)
    provider = guaranteed.provider()

    def stop_after(exchange: Exchange) -> None:
        if len(world.server.requests) > lost:
            provider.close()
        hang_up(exchange)

    world.server.act = stop_after
    with pytest.raises(CallNotSent, match="stopping"):
        guaranteed.one_call(tmp_path, provider=provider).answer(WHO)
    assert guaranteed.journal(tmp_path).state is CallState.SENT
    world.server.act = answer_well
    assert guaranteed.one_call(tmp_path).answer(WHO)
    assert len({request.headers["Idempotency-Key"] for request in world.server.requests}) == 1


def test_a_refused_batch_ends_the_call_and_no_other_is_sent(
    world: BrokerWorld, tmp_path: Path
) -> None:
    divided = world.variant(batch_images=2)

    def second_is_bad(exchange: Exchange) -> None:
        good = len(world.server.requests) == 1
        exchange.reply(inference_response(rows_asked_for(exchange.body)) if good else b"{}")

    world.server.act = second_is_bad
    with pytest.raises(CallSpent, match="answer-form"):
        divided.one_call(tmp_path).answer(WHO)
    assert len(world.server.requests) == 2
    record = divided.journal(tmp_path).last_record()
    check_call(record, divided.federation.charter)
    assert [batch.answer_digest is None for batch in record.batches] == [False, True]


def test_a_call_that_takes_longer_than_a_request_waits_is_still_one(
    world: BrokerWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_module, "_PATIENCE_SECONDS", 0.05)
    release = threading.Event()

    def hold(exchange: Exchange) -> None:
        release.wait(20)
        answer_well(exchange)

    world.server.act = hold
    call = world.one_call(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(call.answer, WHO)
        wait_until(lambda: world.server.requests)
        with pytest.raises(CallRunning):
            call.answer(WHO)
        release.set()
        assert first.result(timeout=10) == call.answer(WHO)
    assert len(world.server.requests) == 1


def test_a_clock_that_is_set_back_does_not_turn_moments_round(
    world: BrokerWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    divided = world.variant(batch_images=2)
    now = utc_now()
    hours = iter(range(100))
    monkeypatch.setattr(
        recorder_module, "utc_now", lambda: now - datetime.timedelta(hours=next(hours))
    )
    divided.one_call(tmp_path).answer(WHO)
    check_call(divided.journal(tmp_path).last_record(), divided.federation.charter)


def test_a_full_disk_loses_no_step(
    world: BrokerWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent if it cannot be written down first."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    call = world.one_call(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(journal_module, "write_atomically", full)
        with pytest.raises(OSError, match="No space"):
            call.answer(WHO)
    assert world.server.requests == []
    call.answer(WHO)
    assert len(world.server.requests) == 1
