"""MLServer, reduced to one model over HTTPS, and gRPC over TLS if asked, on this machine.

MLServer's own gRPC port is plaintext, and it lets any client load and unload models; neither is
wanted, and it has no settings for that, so they are changed where it builds them (MLServer 1.7; a
test looks at the ports that the process really opens).
"""

from __future__ import annotations

import asyncio
import builtins
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from mlserver import ModelSettings, Settings
from mlserver.errors import ModelNotFound
from mlserver.grpc.dataplane_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from mlserver.grpc.server import GRPCServer
from mlserver.grpc.servicers import InferenceServicer
from mlserver.handlers import DataPlane
from mlserver.repository import ModelRepository
from mlserver.rest import RESTServer
from mlserver.server import MLServer

from fedhelp_secure.errors import ConfigurationError, InternalError
from fedhelp_secure.state import write_atomically
from fedhelp_server.foundation_model.runtime import MODEL_NAME, DinoRuntime

_POLL_SECONDS = 0.05
_GRACE_SECONDS = 2


class FoundationModelStartFailed(ConfigurationError):
    """The server cannot listen, cannot read its certificate, or may not listen there."""

    code = "foundation-model-start"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the server listens and what it shows."""

    host: str
    port: int
    certificate: Path
    key: Path
    grpc_port: int | None = None
    """Of gRPC over TLS on the same host (0: any free port); None for no gRPC."""

    @classmethod
    def parse(
        cls, listen: str, *, certificate: Path, key: Path, grpc_port: int | None = None
    ) -> Endpoint:
        """From ``127.0.0.1:PORT`` (0: any free port).

        Raises FoundationModelStartFailed unless it is a loopback address with readable files: the
        stand-in knows no callers, so it serves this machine only.
        """
        host, _, port = listen.rpartition(":")
        try:
            number = int(port)
            loopback = ipaddress.IPv4Address(host).is_loopback and 0 <= number < 65536
        except ValueError:
            loopback = False
        if not loopback:
            raise FoundationModelStartFailed(
                "--listen must be a loopback address and a port, for example 127.0.0.1:9000."
            )
        for path in (certificate, key):
            if not path.is_file():
                raise FoundationModelStartFailed(
                    f"{path} is missing; run: fedhelp broker foundation-model-certificate --out DIR"
                )
        return cls(host, number, certificate, key, grpc_port)


class NoRepository(ModelRepository):  # type: ignore[misc]  # mlserver has no type information
    """No model but the one given at the start: nothing is read from any folder."""

    def __init__(self, root: str) -> None:
        del root

    async def list(self) -> list[ModelSettings]:
        """None."""
        return []

    async def find(self, name: str) -> builtins.list[ModelSettings]:
        """Raises ModelNotFound."""
        raise ModelNotFound(name)


class _InferenceOnly(InferenceServicer):  # type: ignore[misc]  # mlserver has no type information
    """MLServer's inference service without its model repository's methods."""

    async def _refuse(self, _: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "there is one model, and it stays.")

    RepositoryIndex = _refuse
    RepositoryModelLoad = _refuse
    RepositoryModelUnload = _refuse


class _TlsGrpcServer(GRPCServer):  # type: ignore[misc]  # mlserver has no type information
    """MLServer's gRPC server with TLS in place of plaintext, and without its model repository."""

    def __init__(self, endpoint: Endpoint, settings: Settings, data_plane: DataPlane) -> None:
        super().__init__(settings, data_plane, None)
        self._endpoint = endpoint
        self.port: int | None = None

    def _create_server(self) -> grpc.aio.Server:
        endpoint = self._endpoint
        credentials = grpc.ssl_server_credentials(
            [(endpoint.key.read_bytes(), endpoint.certificate.read_bytes())]
        )
        self._server = grpc.aio.server(options=self._get_options())
        add_GRPCInferenceServiceServicer_to_server(
            _InferenceOnly(self._data_plane, None), self._server
        )
        self.port = self._server.add_secure_port(
            f"{endpoint.host}:{endpoint.grpc_port}", credentials
        )
        return self._server


class _NoGrpcServer:
    """Takes the place of MLServer's plaintext gRPC server."""

    port: int | None = None

    async def start(self) -> None:
        """Nothing to open."""

    async def stop(self, sig: int | None = None) -> None:
        """Nothing to close."""


class _HttpsServer(MLServer):  # type: ignore[misc]  # mlserver has no type information
    """MLServer without plaintext and without the model repository's routes."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        super().__init__(_settings(endpoint))

    def _create_servers(self) -> None:
        self._rest_server = RESTServer(
            self._settings, self._data_plane, self._model_repository_handlers
        )
        routes = self._rest_server._app.router.routes
        routes[:] = [route for route in routes if not route.path.startswith("/v2/repository")]
        self._grpc_server = (
            _NoGrpcServer()
            if self._endpoint.grpc_port is None
            else _TlsGrpcServer(self._endpoint, self._settings, self._data_plane)
        )
        self._kafka_server = None

    async def addresses(self) -> list[str]:
        """``host:port`` of HTTPS, then of gRPC, once the model is ready and the ports are open."""
        while True:
            uvicorn_server = getattr(self._rest_server, "_server", None)
            models = await self._model_registry.get_models()
            if uvicorn_server and uvicorn_server.started and any(model.ready for model in models):
                host, port = uvicorn_server.servers[0].sockets[0].getsockname()
                grpc_port = self._grpc_server.port
                return [f"{host}:{port}", *([] if grpc_port is None else [f"{host}:{grpc_port}"])]
            await asyncio.sleep(_POLL_SECONDS)


def serve(endpoint: Endpoint, ready_file: Path | None) -> None:
    """Serve until SIGTERM or SIGINT; ``ready_file`` gets ``host:port`` when the model is ready.

    With gRPC its second line is that one's ``host:port``.

    Raises FoundationModelStartFailed if the port or the certificate cannot be used.
    """
    _check_usable(endpoint)
    asyncio.run(_serve(endpoint, ready_file))


def _check_usable(endpoint: Endpoint) -> None:
    """Try both before MLServer does: from inside it, either failure ends in a stack trace."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(endpoint.certificate, endpoint.key)
    except OSError as error:  # ssl.SSLError included
        raise FoundationModelStartFailed(
            "the certificate and key cannot be used; make them again."
        ) from error
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((endpoint.host, endpoint.port))
        except OSError as error:
            raise FoundationModelStartFailed(
                f"cannot listen on {endpoint.host}:{endpoint.port}; choose a free port."
            ) from error


async def _serve(endpoint: Endpoint, ready_file: Path | None) -> None:
    server = _HttpsServer(endpoint)
    model = ModelSettings(name=MODEL_NAME, implementation=DinoRuntime)
    announcing = asyncio.create_task(_announce(server, ready_file))
    try:
        await server.start([model])
    finally:
        announcing.cancel()
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)
    if not announcing.done() or announcing.cancelled():
        raise InternalError("the foundation model ended before it was ready; look at its log.")


async def _announce(server: _HttpsServer, ready_file: Path | None) -> None:
    addresses = await server.addresses()
    if ready_file is not None:
        text = "".join(f"{address}\n" for address in addresses)
        write_atomically(ready_file, text.encode("ascii"))


def _settings(endpoint: Endpoint) -> Settings:
    settings = Settings(
        host=endpoint.host,
        http_port=endpoint.port,
        debug=False,
        parallel_workers=0,
        metrics_endpoint=None,
        kafka_enabled=False,
        cache_enabled=False,
        gzip_enabled=False,
        tracing_server=None,
        cors_settings=None,
        load_models_at_startup=False,
        model_repository_implementation=f"{__name__}.{NoRepository.__name__}",
    )
    # MLServer's own way to reach uvicorn's TLS options.
    settings._custom_rest_server_settings = {
        "ssl_certfile": str(endpoint.certificate),
        "ssl_keyfile": str(endpoint.key),
        "server_header": False,
        "timeout_graceful_shutdown": _GRACE_SECONDS,
    }
    return settings
