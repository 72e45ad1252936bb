"""``fedhelp client export`` and ``fedhelp client card``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def export(
    state: Annotated[Path, typer.Option(help="This hospital's state directory.")],
    public_set: Annotated[Path, typer.Option(help="The charter's public set (.npz).")],
    out: Annotated[Path, typer.Option(help="Folder for model.onnx and its card.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="The only format, and the default.")] = True,
    int8: Annotated[
        bool, typer.Option("--int8", help="Smaller and faster, nearly as good.")
    ] = False,
    kept: Annotated[
        bool,
        typer.Option(
            "--kept",
            help="What is kept beside the network, backbone included: 90 MB, often more accurate.",
        ),
    ] = False,
) -> None:
    """Write the learnt network for use without PyTorch, with a signed card that says what it is.

    It was trained on this hospital's patients without noise: it is for use within the hospital.
    """
    from fedhelp_client.data.types import DataError
    from fedhelp_client.export.student import export_kept, export_student
    from fedhelp_secure.public_set import PublicSet
    from fedhelp_secure.state import StateDirectory
    from fedhelp_secure.transport.identity import Role

    directory = StateDirectory.open(state, Role.HOSPITAL)
    if kept and int8:
        raise DataError("what is kept has no 8-bit form; give --kept or --int8.")
    images = PublicSet.load(public_set)
    if kept:
        exported = export_kept(directory, images, out)
    else:
        exported = export_student(directory, images, out, int8=int8)
    card = exported.card
    after, before = card.measured
    _console().print(
        f"{out / 'model.onnx'}: {card.model_bytes:,} bytes, {card.number_format}, "
        f"{card.record.metric} {after:.3f} ({before:.3f} before); "
        f"{card.agreement:.1%} of the public images judged as in float32."
    )
    _console().print(card.warning)


def card(
    folder: Annotated[Path, typer.Argument(help="Folder that 'fedhelp client export' wrote.")],
    state: Annotated[Path, typer.Option(help="State directory of the hospital that signed it.")],
) -> None:
    """Check that a model's card is this hospital's and about that file, and print it."""
    from fedhelp_client.data.types import DataError
    from fedhelp_client.export.card import KIND, markdown, open_card
    from fedhelp_client.export.student import CARD, MODEL
    from fedhelp_secure.signing import signer_of
    from fedhelp_secure.state import StateDirectory
    from fedhelp_secure.transport.identity import Role

    directory = StateDirectory.open(state, Role.HOSPITAL)
    try:
        envelope, model = (folder / CARD).read_bytes(), (folder / MODEL).read_bytes()
    except OSError as error:
        raise DataError(f"{folder} holds no exported model; export one first.") from error
    key = signer_of(KIND, envelope, directory.verifying_keys())
    _console().print(markdown(open_card(envelope, key, model)))


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)
