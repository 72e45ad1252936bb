"""``fedhelp client``: what a hospital runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedhelp_client.data.commands import build_public_set, check, simulate
from fedhelp_client.export.commands import card, export
from fedhelp_client.preflight.commands import preflight
from fedhelp_secure.enrolment.join_command import add_enrol_command

app = typer.Typer(help="The hospital node: its data, its models and its part in a federation.")
app.command("simulate")(simulate)
app.command("public-set")(build_public_set)
app.command("export")(export)
app.command("card")(card)
app.command("preflight")(preflight)
data_app = typer.Typer(help="Look through this hospital's own data.", no_args_is_help=True)
data_app.command("check")(check)
app.add_typer(data_app, name="data")
add_enrol_command(app, "hospital")


@app.command()
def run(
    state: Annotated[Path, typer.Option(help="This hospital's state directory.")],
    data: Annotated[Path, typer.Option(help="Folder with labels.csv and the images.")],
    test: Annotated[Path, typer.Option(help="Public labelled folder to measure the model on.")],
    public_set: Annotated[Path, typer.Option(help="The charter's public set (.npz).")],
    context: Annotated[Path, typer.Option(help="The charter's public CKKS context.")],
    aggregator: Annotated[str, typer.Option(help="NAME@HOST:PORT of the aggregator.")],
    broker: Annotated[str, typer.Option(help="HOST:PORT of the broker.")],
    out: Annotated[Path, typer.Option(help="Where result, ledger and progress go.")],
    policy: Annotated[Path | None, typer.Option(help="This site's own policy (YAML).")] = None,
    seed: Annotated[
        int, typer.Option(help="Seeds model initialisation and training; never noise or keys.")
    ] = 0,
    public_embeddings: Annotated[
        Path | None,
        typer.Option(
            help="Folder for what the backbone says of the public --test images; nodes of one "
            "machine may share it. Default: in the state directory."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The network: a preset (large, small, densenet121, ...) or a YAML file of yours "
            "with an import path. Default: your group's preset."
        ),
    ] = None,
    registrar: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of the registrar, to renew the certificate in time."),
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="At the end, also write the page of 'fedhelp client pictures' here."),
    ] = None,
) -> None:
    """Train, release with differential privacy, and distil the teacher into the own model."""
    from fedhelp_client.node.node import NodeOptions, run_node
    from fedhelp_client.progress import ProgressBars, ProgressFile
    from fedhelp_secure.enrolment.renewal import upkeep_of
    from fedhelp_secure.state import StateDirectory
    from fedhelp_secure.transport.identity import Role

    directory = StateDirectory.open(state, Role.HOSPITAL)
    progress = ProgressFile(out / "progress.jsonl", directory.identity.name)
    options = NodeOptions(
        data=data,
        test=test,
        public_set=public_set,
        context=context,
        aggregator=_name_and_address(aggregator),
        broker=broker,
        policy=policy,
        seed=seed,
        out=out,
        public_embeddings=public_embeddings,
        model=model,
        pictures=pictures,
    )
    console = Console()
    with upkeep_of(directory, registrar), ProgressBars(console) as bars:

        def tell(step: str, done: int, total: int) -> None:
            progress(step, done, total)
            bars(step, done, total)

        result = run_node(directory, options, tell)
    progress("done", 1, 1)
    console.print(
        f"{result.hospital}: {result.metric} {result.alone:.3f} alone, "
        f"{result.distilled:.3f} distilled; epsilon {result.epsilon_aggregate:.3f} (aggregate), "
        f"{result.epsilon_collusion:.3f} (collusion)"
    )


@app.command()
def pictures(
    state: Annotated[Path, typer.Option(help="This hospital's state directory.")],
    test: Annotated[Path, typer.Option(help="Public labelled folder; it is what is shown.")],
    out: Annotated[
        Path | None, typer.Option(help="HTML page with everything in it, or PNG, to write.")
    ] = None,
    public_embeddings: Annotated[
        Path | None,
        typer.Option(
            help="Folder for what the backbone says of the --test images. Default: in the state "
            "directory."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Show what the learnt models make of public images, and the curves of their training.

    Confusion matrices or masks, before and after; for this hospital's own eyes.
    """
    from fedhelp_client.data.embedding_store import EmbeddingStore
    from fedhelp_client.data.folder import read_folder
    from fedhelp_client.export.record import ModelRecord
    from fedhelp_client.learnt import figures, read_learnt
    from fedhelp_client.pictures import check_drawable, write_pictures
    from fedhelp_secure.state import StateDirectory
    from fedhelp_secure.transport.identity import Role

    if out is not None:
        check_drawable(out)
    directory = StateDirectory.open(state, Role.HOSPITAL)
    record = ModelRecord.load(directory)
    public = read_folder(test, record.task, classes=record.classes)
    folder = public_embeddings or directory.role_directory() / "embeddings"
    learnt = read_learnt(directory, record, public, EmbeddingStore(folder, record.task))
    shown = figures(learnt)
    if out is not None:
        write_pictures(learnt, out)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if json:
        console.print(shown.model_dump_json(indent=2))
        return
    for name, model in shown.models.items():
        console.print(f"{name}: {model.metric} {model.value:.3f} on {model.images} public images")
    if out is not None:
        console.print(f"{out} is written: for this hospital only.")


@app.command()
def rehearse(
    state: Annotated[Path, typer.Option(help="This hospital's state directory.")],
    context: Annotated[Path, typer.Option(help="The charter's public CKKS context.")],
    aggregator: Annotated[str, typer.Option(help="NAME@HOST:PORT of the aggregator.")],
    registrar: Annotated[
        str | None, typer.Option(help="HOST:PORT of the registrar, to keep up with it.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write one line of figures a round.")] = None,
    reveal: Annotated[
        Path | None,
        typer.Option(help="Write the invented integers (.npy, one array a round); never patients."),
    ] = None,
) -> None:
    """Try a federation with invented numbers: every round of a rehearsal charter, no patient."""
    from fedhelp_client.node.rehearsal import RehearsalOptions, rehearse
    from fedhelp_secure.enrolment.renewal import upkeep_of
    from fedhelp_secure.state import StateDirectory
    from fedhelp_secure.transport.identity import Role

    console = Console(highlight=False, markup=False, soft_wrap=True)
    options = RehearsalOptions(
        context=context, aggregator=_name_and_address(aggregator), figures=json, reveal=reveal
    )
    directory = StateDirectory.open(state, Role.HOSPITAL)
    with upkeep_of(directory, registrar):
        for figures in rehearse(directory, options, console.print):
            console.print(
                f"round {figures.round}: {figures.values} invented values, "
                f"{figures.upload_bytes:,} bytes sent, the sum of {len(figures.hospitals)} "
                f"hospitals opened and authentic, {figures.ended - figures.started:.1f} s"
            )


def _name_and_address(aggregator: str) -> tuple[str, str]:
    from fedhelp_secure.errors import ConfigurationError

    name, separator, address = aggregator.partition("@")
    if not separator:
        raise ConfigurationError("--aggregator must have the form NAME@HOST:PORT.")
    return name, address
