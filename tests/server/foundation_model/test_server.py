"""A real MLServer process: one model, one HTTPS port, real embeddings, a clean end."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from support.broker import MODEL, RecordingServer, closed_port, fedhelp
from support.foundation_model import FoundationModel, start

from fedhelp_secure.backbone import load_backbone
from fedhelp_server.broker.providers.open_inference_http import build_request, parse_response
from fedhelp_server.foundation_model.certificate import make_certificate


def images() -> NDArray[np.uint8]:
    rows, columns = np.mgrid[0:60, 0:80]
    discs = [(rows - 30) ** 2 + (columns - 40) ** 2 < radius**2 for radius in (6, 14, 22)]
    return np.where(np.stack(discs), 230, 20).astype(np.uint8)


def listening_ports(process: int) -> set[tuple[str, str]]:
    """(address, port) in hexadecimal of every TCP socket on which ``process`` listens."""
    sockets = set()
    for link in Path(f"/proc/{process}/fd").iterdir():
        target = os.readlink(link)
        if target.startswith("socket:["):
            sockets.add(target.removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                address, _, port = fields[1].partition(":")
                found.add((address, port))
    return found


def test_it_answers_with_the_backbones_embeddings(foundation_model: FoundationModel) -> None:
    pictures = images()
    with foundation_model.client() as client:
        assert client.get(f"/v2/models/{MODEL}/ready").status_code == 200
        response = client.post(f"/v2/models/{MODEL}/infer", content=build_request(pictures))
    answer = parse_response(response.content, model=MODEL, count=len(pictures))
    np.testing.assert_allclose(answer, load_backbone().embed(pictures), atol=1e-4)


def test_two_loopback_ports_are_open_and_no_model_can_be_loaded_or_unloaded(
    foundation_model: FoundationModel,
) -> None:
    ports = [int(address.rpartition(":")[2]) for address in foundation_model.addresses]
    listening = listening_ports(foundation_model.process.pid)
    assert {port for _, port in listening} == {f"{port:04X}" for port in ports}
    # gRPC writes 127.0.0.1 as the IPv6 address that stands for it.
    assert {address[-8:] for address, _ in listening} == {"0100007F"}
    assert len(ports) == 2
    with foundation_model.client() as client:
        for path in ("index", f"models/{MODEL}/unload", f"models/{MODEL}/load"):
            assert client.post(f"/v2/repository/{path}", json={}).status_code == 404
        assert client.get("/metrics").status_code == 404
        assert client.get(f"/v2/models/{MODEL}/ready").status_code == 200


def test_plaintext_is_not_spoken(foundation_model: FoundationModel) -> None:
    with (
        httpx.Client(trust_env=False) as client,
        pytest.raises(httpx.HTTPError),
    ):
        client.get(foundation_model.url.replace("https", "http"))
    with (
        grpc.insecure_channel(foundation_model.addresses[1]) as channel,
        pytest.raises(grpc.FutureTimeoutError),
    ):
        grpc.channel_ready_future(channel).result(0.5)


@pytest.mark.parametrize("method", ["RepositoryModelUnload", "RepositoryIndex"])
def test_no_model_can_be_unloaded_over_grpc(foundation_model: FoundationModel, method: str) -> None:
    credentials = grpc.ssl_channel_credentials(foundation_model.certificate.read_bytes())
    path = f"/inference.GRPCInferenceService/{method}"
    other = f"/inference.model_repository.ModelRepositoryService/{method}"
    with grpc.secure_channel(foundation_model.addresses[1], credentials) as channel:
        for name in (path, other):
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                name, request_serializer=bytes
            )
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"encoding_format": "base64"},
        {"input": "text"},
        {"input": ["text"]},
        {"input": []},
        {"input": ["data:image/png;base64,AAAA"]},
        {"input": ["https://elsewhere.example/picture.png"]},
    ],
)
def test_bad_requests_for_embeddings_are_refused(
    foundation_model: FoundationModel, change: dict[str, object]
) -> None:
    document = {"model": MODEL, "encoding_format": "float", "input": []} | change
    with foundation_model.client() as client:
        response = client.post("/v1/embeddings", json=document)
        assert response.status_code == 400
        assert "message" in response.json()["error"]
        assert client.post("/v1/embeddings", content=b"no JSON").status_code == 400


@pytest.mark.parametrize(
    ("path", "document", "status"),
    [
        (f"/v2/models/{MODEL}/infer", {"inputs": []}, 400),
        (
            f"/v2/models/{MODEL}/infer",
            {"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": ["AA=="]}]},
            400,
        ),
        (
            f"/v2/models/{MODEL}/infer",
            {"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": ["AA=="]}]},
            400,
        ),
        (f"/v2/models/{MODEL}/infer", {"no": "inputs"}, 422),
        ("/v2/models/other/infer", json.loads(build_request(images())), 404),
    ],
)
def test_bad_requests_are_refused(
    foundation_model: FoundationModel, path: str, document: dict[str, object], status: int
) -> None:
    with foundation_model.client() as client:
        assert client.post(path, json=document).status_code == status
        assert client.get(f"/v2/models/{MODEL}/ready").status_code == 200


def test_it_ends_at_sigterm_even_while_it_computes(tmp_path: Path) -> None:
    running = start(tmp_path)
    assert len(listening_ports(running.process.pid)) == 1  # gRPC only if asked
    many = np.tile(images(), (100, 1, 1))
    path, body = f"/v2/models/{MODEL}/infer", build_request(many)
    with running.client() as client, pytest.raises(httpx.ReadTimeout):
        client.post(path, content=body, timeout=httpx.Timeout(10, read=1.0))
    begun = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=20) == 0
    assert time.monotonic() - begun < 15
    assert not running.ready.exists()


def test_bad_options_are_refused_with_a_sentence(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    pem = ("--certificate", str(certificate), "--key", str(key))
    with RecordingServer(tmp_path / "taken") as taken:
        address = taken.url.removeprefix("https://")
        occupied = fedhelp("broker", "foundation-model", "--listen", address, *pem)
    assert occupied.returncode == 1
    assert "choose a free port" in occupied.stderr
    assert "Traceback" not in occupied.stderr


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:9000", "192.0.2.1:9000", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", ""]
)
def test_it_listens_on_this_machine_only(tmp_path: Path, listen: str) -> None:
    from fedhelp_server.foundation_model.server import Endpoint, FoundationModelStartFailed

    certificate, key = make_certificate(tmp_path)
    with pytest.raises(FoundationModelStartFailed, match="loopback"):
        Endpoint.parse(listen, certificate=certificate, key=key)


def test_absent_or_useless_certificates_are_refused(tmp_path: Path) -> None:
    from fedhelp_server.foundation_model.server import (
        Endpoint,
        FoundationModelStartFailed,
        serve,
    )

    certificate, key = make_certificate(tmp_path)
    with pytest.raises(FoundationModelStartFailed, match="foundation-model-certificate"):
        Endpoint.parse("127.0.0.1:0", certificate=tmp_path / "absent", key=key)
    listen = f"127.0.0.1:{closed_port()}"
    swapped = Endpoint.parse(listen, certificate=key, key=certificate)
    with pytest.raises(FoundationModelStartFailed, match="make them again"):
        serve(swapped, None)
