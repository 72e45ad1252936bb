"""No party can open a connection or a port to another without mutual TLS."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = (
    "fedhelp_secure",
    "keys/fedhelp_keys",
    "server/fedhelp_server",
    "client/fedhelp_client",
    "benchmarks",
)
PLAINTEXT = {
    "insecure_channel",
    "add_insecure_port",
    "insecure_channel_credentials",
    "insecure_server_credentials",
    "local_channel_credentials",
    "local_server_credentials",
}
BASELINE = "fedhelp_secure/bench/baseline.py"
"""The benchmark's comparison serves no service of a federation, so `start_server` would refuse it;
it asks for clients' certificates all the same (``tests/core/bench/test_baseline.py``)."""
JOINING = "fedhelp_secure/transport/joining.py"
"""Who joins has no certificate yet; nothing but the token's call is served there
(``tests/keys/registrar/test_joining.py``)."""
OUTSIDE = "server/fedhelp_server/broker/providers/open_inference_grpc.py"
"""The foundation model is no party: TLS to the one certificate that was checked just before
(``tests/server/broker/``), with a token in the place of a client's certificate."""
MODEL = "server/fedhelp_server/foundation_model/server.py"
"""The stand-in for such a model, the other end of that call."""
# Only here may a gRPC server or channel be made at all.
TRANSPORT = {
    "secure_channel": {"fedhelp_secure/transport/client.py", JOINING, OUTSIDE},
    "add_secure_port": {"fedhelp_secure/transport/server.py", BASELINE, MODEL},
    "ssl_channel_credentials": {"fedhelp_secure/transport/client.py", JOINING, OUTSIDE},
    "ssl_server_credentials": {BASELINE, MODEL},
    "dynamic_ssl_server_credentials": {"fedhelp_secure/transport/server.py"},
}


def names_used(source: str) -> set[str]:
    """Every attribute, name and import in ``source``."""
    used = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.alias):
            used.add(node.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            used.add(node.value)
    return used


@functools.cache
def sources() -> dict[str, set[str]]:
    """The names that each module of the product uses."""
    found = {}
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            found[path.relative_to(ROOT).as_posix()] = names_used(path.read_text("utf-8"))
    return found


def test_nothing_speaks_plaintext() -> None:
    modules = sources()
    assert len(modules) > 30
    assert "fedhelp_secure/wire/v1/coordinator_pb2_grpc.py" in modules
    offending = {name for name, used in modules.items() if used & PLAINTEXT}
    assert offending == set()


@pytest.mark.parametrize("call", sorted(TRANSPORT))
def test_servers_and_channels_are_made_in_one_place(call: str) -> None:
    assert {name for name, used in sources().items() if call in used} == TRANSPORT[call]


@pytest.mark.parametrize(
    "source",
    [
        "import grpc\ngrpc.insecure_channel('x')",
        "from grpc import insecure_channel as c",
        "server.add_insecure_port('x')",
        "getattr(grpc, 'insecure_channel')('x')",
    ],
)
def test_the_search_would_notice(source: str) -> None:
    assert names_used(source) & PLAINTEXT
