"""The options of ``fedhelp audit events`` and ``ship``, and the formats by their names there."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer


class EventFormat(enum.Enum):
    """How events are written."""

    FHIR_NDJSON = "fhir-ndjson"
    FHIR_BUNDLE = "fhir-bundle"
    RFC5424 = "rfc5424"
    JSON_LINES = "json-lines"


EnterpriseOption = Annotated[
    int,
    typer.Option(min=1, max=4_294_967_295, help="Names the structured data; 32473: examples'."),
]
BundleArgument = Annotated[Path | None, typer.Argument(help="The bundle's directory.")]
LogOption = Annotated[
    Path | None, typer.Option("--log", help="Instead: the aggregator's log directory.")
]
LogCharterOption = Annotated[
    Path | None, typer.Option("--charter", help="With --log: the charter's envelope.")
]
GovernanceKeyOption = Annotated[
    Path | None, typer.Option("--governance-key", help="The registrar's governance.pub.")
]
CertificateOption = Annotated[Path | None, typer.Option(help="Own certificate chain, PEM.")]
CertificateKeyOption = Annotated[Path | None, typer.Option(help="Its key, PEM, unencrypted.")]
StateFileOption = Annotated[
    Path | None, typer.Option(help="Keeps how far was shipped; go on from there.")
]
UnconfirmedOption = Annotated[
    bool,
    typer.Option("--unconfirmed", help="For servers that end TLS without a word (rsyslog's gtls)."),
]
