"""A charter that the site's policy forbids costs nothing: a real node, and what it told anybody."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from support.federation import Federation, make_federation
from support.processes import context_file

from fedhelp_client.node.node import NodeOptions, run_node
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.privacy.ledger import Ledger
from fedhelp_secure.privacy.ledger_file import ledger_path, read_account
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.transport.server import RunningServer, start_server
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire

HOSPITAL = "small-1"


class Recorder(grpc.GenericRpcHandler):
    """An aggregator that serves its charter, and writes down every call that comes."""

    def __init__(self, envelope: bytes) -> None:
        self._envelope = envelope
        self.calls: list[str] = []
        self.requests: list[bytes] = []

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        self.calls.append(str(handler_call_details.method).rpartition("/")[2])
        if self.calls[-1] != "GetCharter":
            return None
        return grpc.unary_unary_rpc_method_handler(self._get_charter)

    def _get_charter(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.requests.append(request)
        return wire.GetCharterResponse(envelope=self._envelope).SerializeToString()


class Listener:
    """A broker's address at which somebody listens and counts who connects."""

    def __init__(self) -> None:
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            while True:
                self._socket.accept()[0].close()
                self.connections += 1
        except OSError:
            return

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("refused") / "parties", large=1, small=1)


@pytest.fixture
def broker() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def _serve(federation: Federation, recorder: Recorder) -> RunningServer:
    return start_server(
        federation.state("aggregator"),
        "127.0.0.1:0",
        register=lambda server: server.add_generic_rpc_handlers((recorder,)),
    )


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a node said, and what it told others before it stopped."""

    sentence: str
    calls: list[str]
    requests: list[bytes]


@pytest.fixture
def refused(federation: Federation, broker: Listener, tmp_path: Path) -> Callable[..., Refusal]:
    """A node with a policy, run until it stops; checks that its ledger and the broker saw nothing.

    In this process, or by the command as a process of its own.
    """

    def run(policy: dict[str, Any], *, process: bool = False, model: str | None = None) -> Refusal:
        state = federation.state(HOSPITAL)
        key = state.signing_key()
        Ledger.open(ledger_path(state), hospital=HOSPITAL, signing_key=key)
        before = ledger_path(state).read_bytes()
        (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy))
        recorder = Recorder(federation.charter_envelope)
        server = _serve(federation, recorder)
        options = NodeOptions(
            data=tmp_path / "data",
            test=tmp_path / "test",
            public_set=tmp_path / "public_set",
            context=context_file(federation),
            aggregator=("aggregator", server.address),
            broker=broker.address,
            policy=tmp_path / "policy.yaml",
            seed=0,
            out=tmp_path / "out",
            model=model,
        )
        try:
            sentence = (_by_command if process else _here)(federation, options)
        finally:
            server.stop(0)
        assert broker.connections == 0
        assert ledger_path(state).read_bytes() == before
        assert read_account(ledger_path(state), hospital=HOSPITAL, keys=[key.public]).entries == []
        return Refusal(sentence, recorder.calls, recorder.requests)

    return run


def _here(federation: Federation, options: NodeOptions) -> str:
    with pytest.raises(FedHelpError) as refusal:
        run_node(federation.state(HOSPITAL), options, lambda step, done, total: None)
    return str(refusal.value)


def _by_command(federation: Federation, options: NodeOptions) -> str:
    given = {
        "state": federation.state(HOSPITAL).root,
        "aggregator": "@".join(options.aggregator),
        **{name: getattr(options, name) for name in ("data", "test", "context", "broker")},
        **{name: getattr(options, name) for name in ("policy", "out")},
        "public-set": options.public_set,
        **({} if options.model is None else {"model": options.model}),
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fedhelp_secure", "client", "run"),
            *(f"--{name}={value}" for name, value in given.items()),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    return done.stderr


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ({"charters": ["sha256:" + "0" * 64]}, "does not name the charter"),
        ({"charter_signers": [SigningKey.generate().public.to_base64()]}, "charter_signers"),
        ({"epsilon": "1"}, "this site allows at most 1"),
        ({"maximum_images": 1}, "images of one patient"),
    ],
    ids=["digest", "signer", "epsilon", "images"],
)
def test_nothing_is_sent_but_the_request_for_the_charter(
    refused: Callable[..., Refusal], policy: dict[str, Any], sentence: str
) -> None:
    refusal = refused(policy)
    assert sentence in refusal.sentence
    assert refusal.calls == ["GetCharter"]
    assert refusal.requests == [b""]


def test_a_policy_that_is_none_stops_the_node_before_it_calls_anybody(
    refused: Callable[..., Refusal],
) -> None:
    refusal = refused({"hours": {"days": ["mon"]}})
    assert "is not valid at hours" in refusal.sentence
    assert refusal.calls == []


def test_the_command_says_why_and_sends_nothing_more(refused: Callable[..., Refusal]) -> None:
    refusal = refused({"charters": ["sha256:" + "0" * 64]}, process=True)
    assert "does not name the charter" in refusal.sentence
    assert (refusal.calls, refusal.requests) == (["GetCharter"], [b""])


@pytest.mark.parametrize(
    ("text", "mode", "sentence"),
    [
        ("import: monai.networks.nets.UNet\nside: 64", 0o644, "chmod 600"),
        ("import: monai.networks.nets.UNet\nside: 64", 0o600, "cannot be built"),
        ("import: monai.networks.nets.UNet", 0o600, "describes no model: side"),
    ],
)
def test_a_model_that_does_not_fit_costs_nothing(
    refused: Callable[..., Refusal], tmp_path: Path, text: str, mode: int, sentence: str
) -> None:
    model = tmp_path / "model.yaml"
    model.write_text(text)
    model.chmod(mode)
    refusal = refused({}, model=str(model))
    assert sentence in refusal.sentence
    assert refusal.calls == ["GetCharter"]


def test_the_command_refuses_an_unknown_preset(refused: Callable[..., Refusal]) -> None:
    refusal = refused({}, process=True, model="enormous")
    assert "presets for this task: large, small" in " ".join(refusal.sentence.split())
    assert refusal.calls == ["GetCharter"]
