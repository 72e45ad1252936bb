"""``fedhelp broker``: the broker, and the stand-in for an external foundation model."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    name="broker",
    help="Be the broker: ask the foundation model at most once, about public images only.",
    no_args_is_help=True,
)

_State = Annotated[Path, typer.Option("--state", help="The broker's state directory.")]
_Charter = Annotated[Path, typer.Option("--charter", help="The signed charter.")]
_ReadyFile = Annotated[
    Path | None, typer.Option("--ready-file", help="Written with host:port once callers may come.")
]


class ResolveOutcome(enum.Enum):
    """What the operator found out."""

    NOT_CALLED = "not-called"
    ABANDONED = "abandoned"


@app.command()
def run(
    *,
    state: _State,
    charter: _Charter,
    public_set: Annotated[Path, typer.Option(help="The public set that the charter names.")],
    listen: Annotated[str, typer.Option(help="Address to serve on, as host:port.")],
    ca: Annotated[
        Path | None,
        typer.Option(help="The only certificates trusted for the foundation model (PEM)."),
    ] = None,
    aggregator: Annotated[
        str | None, typer.Option(help="Aggregator to submit the record to, as host:port.")
    ] = None,
    registrar: Annotated[
        str | None, typer.Option(help="The registrar's address, as host:port, to keep up with it.")
    ] = None,
    ready_file: _ReadyFile = None,
) -> None:
    """Serve the foundation model's answer; ask for it at most once. Ends at SIGTERM or SIGINT."""
    from fedhelp_server.broker.process import BrokerOptions
    from fedhelp_server.broker.process import run as run_broker

    options = BrokerOptions(
        charter=charter,
        public_set=public_set,
        listen=listen,
        ca=ca,
        aggregator=aggregator,
        ready_file=ready_file,
        registrar=registrar,
    )
    run_broker(state, options)


@app.command()
def resolve(
    *,
    state: _State,
    charter: _Charter,
    reason: Annotated[str, typer.Option(help="How you know; it goes on the record.")],
    outcome: Annotated[
        ResolveOutcome,
        typer.Option(
            help="not-called: it never reached the foundation model, a new call is allowed; "
            "abandoned: no call, ever."
        ),
    ],
) -> None:
    """Say what became of a call that a crash left indeterminate. Stop the broker first."""
    from fedhelp_server.broker.process import Verdict
    from fedhelp_server.broker.process import resolve as resolve_call

    verdict: Verdict = "not-called" if outcome is ResolveOutcome.NOT_CALLED else "abandoned"
    after = resolve_call(state, charter, verdict=verdict, reason=reason)
    _console().print(f"Recorded. The charter's call is now {after.value}.")


@app.command("foundation-model")
def foundation_model(
    *,
    listen: Annotated[str, typer.Option(help="Loopback address, as 127.0.0.1:PORT.")],
    certificate: Annotated[Path, typer.Option(help="The server's certificate (PEM).")],
    key: Annotated[Path, typer.Option(help="Its private key (PEM).")],
    ready_file: _ReadyFile = None,
) -> None:
    """Serve DINOv2 embeddings over HTTPS (Open Inference Protocol v2) on this machine."""
    from fedhelp_server.foundation_model.server import Endpoint, serve

    serve(Endpoint.parse(listen, certificate=certificate, key=key), ready_file)


@app.command("foundation-model-certificate")
def foundation_model_certificate(
    out: Annotated[Path, typer.Option(help="Directory for certificate.pem and key.pem.")],
) -> None:
    """Make a self-signed localhost certificate; the broker pins it with --ca."""
    from fedhelp_server.foundation_model.certificate import make_certificate

    certificate, _ = make_certificate(out)
    _console().print(f"Made {certificate} and its key; give the broker --ca {certificate}")


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)
