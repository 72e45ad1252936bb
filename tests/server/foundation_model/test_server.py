"""A real MLServer process: one model, one HTTPS port, real embeddings, a clean end."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from support.broker import MODEL, RecordingServer, closed_port, fedhelp, make_world, wait_until

from fedhelp_secure.backbone import load_backbone
from fedhelp_secure.foundation_model import open_answer
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_server.broker.endpoint import FoundationModelEndpoint
from fedhelp_server.broker.protocol import build_request, parse_response
from fedhelp_server.foundation_model.certificate import make_certificate


@dataclass(frozen=True)
class FoundationModel:
    process: subprocess.Popen[bytes]
    url: str
    certificate: Path
    ready: Path
    log: Path

    def client(self) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self.certificate))
        return httpx.Client(base_url=self.url, verify=context, trust_env=False, timeout=30)


def start(root: Path, *, port: int = 0) -> FoundationModel:
    certificate, key = make_certificate(root)
    ready, log = root / "ready", root / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "fedhelp_secure", "broker", "foundation-model"),
                *("--listen", f"127.0.0.1:{port}", "--certificate", str(certificate)),
                *("--key", str(key), "--ready-file", str(ready)),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    wait_until(lambda: ready.exists() or process.poll() is not None, 60)
    assert ready.exists(), log.read_text()
    return FoundationModel(process, f"https://{ready.read_text().strip()}", certificate, ready, log)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FoundationModel]:
    running = start(tmp_path_factory.mktemp("foundation-model"))
    yield running
    running.process.terminate()
    running.process.wait(timeout=20)


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


def test_it_answers_with_the_backbones_embeddings(model: FoundationModel) -> None:
    pictures = images()
    with model.client() as client:
        assert client.get(f"/v2/models/{MODEL}/ready").status_code == 200
        response = client.post(f"/v2/models/{MODEL}/infer", content=build_request(pictures))
    answer = parse_response(response.content, model=MODEL, count=len(pictures))
    np.testing.assert_allclose(answer, load_backbone().embed(pictures), atol=1e-4)


def test_the_broker_calls_it_with_the_pinned_certificate(
    model: FoundationModel, tmp_path: Path
) -> None:
    """The whole way once: public set, request, MLServer, answer, signed record, hospital."""
    with RecordingServer(tmp_path / "other") as other:
        world = make_world(tmp_path, other, url=model.url)
        charter = world.federation.charter
        endpoint = FoundationModelEndpoint(charter, ca=model.certificate)
        who = Identity("testfed", Role.HOSPITAL, "small-1")
        stored = world.one_call(tmp_path, endpoint=endpoint).answer(who)
        assert other.connections == []
    embeddings, record = open_answer(charter, record=stored.record, body=stored.body)
    assert record.outcome == "answered"
    expected = load_backbone().embed(world.public_set.images)
    np.testing.assert_allclose(embeddings, expected, atol=1e-4)


def test_one_loopback_port_is_open_and_no_model_can_be_loaded_or_unloaded(
    model: FoundationModel,
) -> None:
    port = int(model.url.rpartition(":")[2])
    assert listening_ports(model.process.pid) == {("0100007F", f"{port:04X}")}
    with model.client() as client:
        for path in ("index", f"models/{MODEL}/unload", f"models/{MODEL}/load"):
            assert client.post(f"/v2/repository/{path}", json={}).status_code == 404
        assert client.get("/metrics").status_code == 404
        assert client.get(f"/v2/models/{MODEL}/ready").status_code == 200


def test_plaintext_is_not_spoken(model: FoundationModel) -> None:
    with (
        httpx.Client(trust_env=False) as client,
        pytest.raises(httpx.HTTPError),
    ):
        client.get(model.url.replace("https", "http"))


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
    model: FoundationModel, path: str, document: dict[str, object], status: int
) -> None:
    with model.client() as client:
        assert client.post(path, json=document).status_code == status
        assert client.get(f"/v2/models/{MODEL}/ready").status_code == 200


def test_it_ends_at_sigterm_even_while_it_computes(tmp_path: Path) -> None:
    running = start(tmp_path)
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
