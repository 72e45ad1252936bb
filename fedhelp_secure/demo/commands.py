"""``fedhelp demo``: a whole federation on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedhelp_secure.demo.options import DatasetName, DemoOptions, Task


def demo(
    task: Annotated[Task, typer.Option(help="What the hospitals learn.")] = Task.CLASSIFICATION,
    data: Annotated[
        Path | None,
        typer.Option(envvar="FEDHELP_DATA", help="Folder with real images."),
    ] = None,
    dataset: Annotated[
        DatasetName | None, typer.Option(help="What --data holds, or phantom for made images.")
    ] = None,
    large: Annotated[int, typer.Option(min=1, max=8, help="Large hospitals.")] = 2,
    small: Annotated[int, typer.Option(min=1, max=16, help="Small hospitals.")] = 4,
    unmaskers: Annotated[
        int, typer.Option(min=1, max=8, help="Custodians among whom the masks are divided.")
    ] = 1,
    rounds: Annotated[int, typer.Option(min=1, max=10, help="Private releases.")] = 3,
    epsilon: Annotated[str, typer.Option(help="Limit on epsilon (aggregate), as a decimal.")] = "3",
    seed: Annotated[
        int, typer.Option(min=0, help="Seeds split, models and phantom; never noise, masks, keys.")
    ] = 0,
    out: Annotated[Path, typer.Option(help="Where everything goes; made if missing.")] = Path(
        "out/demo"
    ),
    json: Annotated[Path | None, typer.Option(help="Write the result here as JSON.")] = None,
    keep_running: Annotated[
        bool, typer.Option("--keep-running", help="Leave the servers up until Ctrl-C.")
    ] = False,
) -> None:
    """Run a whole federation on this machine, as separate processes over mutual TLS.

    Custodians, an aggregator, a broker, a foundation-model server and the hospitals are started on
    127.0.0.1, run the charter's rounds, and are ended again. Exits non-zero if any part failed.
    """
    from rich.console import Console

    from fedhelp_secure.demo.run import run_demo
    from fedhelp_secure.report.model import DemoResult
    from fedhelp_secure.state import write_atomically

    options = DemoOptions(
        task=task,
        dataset=dataset,
        data=data,
        large=large,
        small=small,
        rounds=rounds,
        epsilon=epsilon,
        seed=seed,
        out=out.resolve(),
        unmaskers=unmaskers,
    )
    console = Console(highlight=False)

    def publish(result: DemoResult) -> None:
        if json is not None:
            write_atomically(json, result.model_dump_json(indent=2).encode() + b"\n", mode=0o644)

    try:
        result = run_demo(options, console, publish=publish, keep_running=keep_running)
    except KeyboardInterrupt:
        console.print("stopped; every process of the demo has ended.")
        raise typer.Exit(130) from None
    if not result.evidence_verified:
        raise typer.Exit(1)
