"""``fedhelp broker``: the broker, and the stand-in for an external foundation model."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedhelp_secure.enrolment.join_command import add_enrol_command

app = typer.Typer(
    name="broker",
    help="Be the broker: ask the foundation model at most once, about public images only.",
    no_args_is_help=True,
)
add_enrol_command(app, "broker")

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
    pin: Annotated[
        str | None,
        typer.Option(help="The foundation model's TLS key: sha256:HEX of its public key (SPKI)."),
    ] = None,
    allow_private_network: Annotated[
        list[str] | None,
        typer.Option(
            help="A network that is not public and may be connected to, as 10.1.2.0/24; repeatable."
        ),
    ] = None,
    proxy: Annotated[
        str | None, typer.Option(help="The site's HTTP proxy, as http://host:port; none if absent.")
    ] = None,
    credential_file: Annotated[
        Path | None, typer.Option(help="Owner-only file with the foundation model's token.")
    ] = None,
    credential: Annotated[
        str | None, typer.Option(help="Name of the systemd credential with the token.")
    ] = None,
    model_file: Annotated[
        Path | None, typer.Option(help="The ONNX file that the charter pins (local-onnx only).")
    ] = None,
    maximum_images: Annotated[
        int | None, typer.Option(min=1, help="Refuse a call with more images.")
    ] = None,
    maximum_bytes: Annotated[
        int | None, typer.Option(min=1, help="Refuse a call with more bytes.")
    ] = None,
    maximum_cost: Annotated[
        str | None, typer.Option(help="Refuse a call that would cost more; a decimal.")
    ] = None,
    price_per_image: Annotated[
        str | None, typer.Option(help="What an image is expected to cost; a decimal.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, max=3600, help="Seconds for one request and its answer.")
    ] = 600.0,
    aggregator: Annotated[
        str | None, typer.Option(help="Aggregator to submit the record to, as host:port.")
    ] = None,
    ready_file: _ReadyFile = None,
    registrar: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of the registrar, to renew the certificate in time."),
    ] = None,
) -> None:
    """Serve the foundation model's answer; ask for it at most once. Ends at SIGTERM or SIGINT."""
    from fedhelp_server.broker.addresses import parse_network
    from fedhelp_server.broker.ceiling import Ceiling
    from fedhelp_server.broker.egress import EgressRules, parse_pin
    from fedhelp_server.broker.process import BrokerOptions, parse_amount
    from fedhelp_server.broker.process import run as run_broker
    from fedhelp_server.broker.tunnel import Proxy

    rules = EgressRules(
        ca=ca,
        pin=parse_pin(pin),
        private_networks=tuple(parse_network(text) for text in allow_private_network or ()),
        proxy=Proxy.parse(proxy),
        seconds=timeout,
    )
    ceiling = Ceiling(
        images=maximum_images,
        request_bytes=maximum_bytes,
        cost=parse_amount(maximum_cost, "--maximum-cost"),
        price_per_image=parse_amount(price_per_image, "--price-per-image"),
    )
    options = BrokerOptions(
        charter=charter,
        public_set=public_set,
        listen=listen,
        rules=rules,
        ceiling=ceiling,
        credential_file=credential_file,
        credential=credential,
        model_file=model_file,
        aggregator=aggregator,
        ready_file=ready_file,
        registrar=registrar,
    )
    run_broker(state, options)


@app.command()
def status(*, state: _State, charter: _Charter) -> None:
    """Say where the charter's call stands, batch by batch. Changes nothing."""
    from fedhelp_server.broker.process import status as status_of

    found = status_of(state, charter)
    console = _console()
    console.print(f"The charter's call is {found.state.value}.")
    if found.intent is not None:
        console.print(f"Asked for by {found.intent.requested_by} at {found.intent.called_at}.")
    for number, batch in enumerate(found.batches, start=1):
        came = "no answer" if batch.answer_digest is None else f"answer {batch.answer_digest}"
        console.print(
            f"Batch {number} of {found.of_batches}: {batch.images} images, "
            f"{batch.request_bytes} bytes to {batch.address or 'the local model'} at "
            f"{batch.sent_at}; {came}."
        )
    if found.reason:
        console.print(f"Reason: {found.reason}.")
    if found.batches:
        console.print(f"Idempotency key of the last request: {found.idempotency_key}")
    else:
        console.print("Nothing was sent.")
    console.print(f"In the evidence log: {'yes' if found.logged else 'not yet'}.")


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
    grpc_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve gRPC over TLS too, on this port.")
    ] = None,
    ready_file: _ReadyFile = None,
) -> None:
    """Serve DINOv2 embeddings on this machine: Open Inference Protocol v2, OpenAI's endpoint."""
    from fedhelp_server.foundation_model.server import Endpoint, serve

    endpoint = Endpoint.parse(listen, certificate=certificate, key=key, grpc_port=grpc_port)
    serve(endpoint, ready_file)


@app.command("foundation-model-certificate")
def foundation_model_certificate(
    out: Annotated[Path, typer.Option(help="Directory for certificate.pem and key.pem.")],
) -> None:
    """Make a self-signed localhost certificate; the broker pins it with --ca."""
    from fedhelp_server.foundation_model.certificate import make_certificate

    certificate, _ = make_certificate(out)
    _console().print(f"Made {certificate} and its key; give the broker --ca {certificate}")


@app.command("foundation-model-onnx")
def foundation_model_onnx(
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")],
) -> None:
    """Write the stand-in as one ONNX file, for charters with the provider local-onnx."""
    from fedhelp_server.foundation_model.onnx_file import write_onnx

    _console().print(f"Made {out}; in the charter's plan: weights_digest: {write_onnx(out)}")


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)
