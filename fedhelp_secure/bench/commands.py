"""``fedhelp bench``: the costs that users will quote, measured on their machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(no_args_is_help=True, help="Measure what the system costs, learns and loses.")


@app.callback()
def bench() -> None:
    """Measure on invented numbers; nothing of a federation's state is touched."""


@app.command("secure-sum")
def secure_sum(
    *,
    values: Annotated[int, typer.Option(min=1, max=1 << 26, help="Integers in a release.")] = 10**6,
    hospitals: Annotated[int, typer.Option(min=2, max=256, help="Contributing hospitals.")] = 8,
    unmaskers: Annotated[int, typer.Option(min=1, max=8, help="Unmaskers.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, max=50, help="Repeats of everything.")] = 3,
    rounds_only: Annotated[
        bool, typer.Option("--rounds-only", help="No components, no comparison: for long vectors.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Write the figures here as JSON.")] = None,
) -> None:
    """Bytes, microseconds and memory of the secure sum beside plaintext and NVFlare's defaults.

    Runs real processes over mutual TLS on 127.0.0.1: custodians, aggregator and hospitals.
    """
    from rich.console import Console

    from fedhelp_secure.bench.run import SecureSumBench, run_secure_sum_bench

    plan = SecureSumBench(
        values=values,
        hospitals=hospitals,
        unmaskers=unmaskers,
        repeats=repeats,
        rounds_only=rounds_only,
    )
    document = run_secure_sum_bench(plan, json)
    Console(width=110).print(_table(document))


@app.command("log")
def log(
    *,
    entries: Annotated[int, typer.Option(min=1, max=10**8, help="Entries to append.")] = 10**6,
    batch: Annotated[int, typer.Option(min=1, help="Entries that become durable together.")] = 1000,
    singles: Annotated[int, typer.Option(min=1, help="Entries appended one by one.")] = 1000,
    proofs: Annotated[int, typer.Option(min=1, help="Proofs of each kind.")] = 10_000,
    repeats: Annotated[int, typer.Option(min=1, max=50, help="Repeats of everything.")] = 3,
    evidence: Annotated[
        Path | None, typer.Option(help="A bundle, to measure its bytes for each round.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures here as JSON.")] = None,
) -> None:
    """Append, reopen, prove and verify on a real evidence log, beside SQLite and plain hashes.

    It is made in the present folder, of which it takes some 350 bytes an entry, and removed.
    """
    from json import dumps

    from rich.console import Console

    from fedhelp_secure.bench.log import LogBench, bundle_bytes, run_log_bench
    from fedhelp_secure.state import write_atomically

    console, steps = Console(width=110), Console(stderr=True, highlight=False)
    # Before an hour of work, if it is none.
    bundle = None if evidence is None else bundle_bytes(evidence)
    document = run_log_bench(LogBench(entries, batch, singles, proofs, repeats), steps.print)
    if bundle is not None:
        document["bundle"] = bundle
    if json is not None:
        write_atomically(json, (dumps(document, indent=1) + "\n").encode(), mode=0o644)
    console.print(_log_table(document))
    if bundle is not None:
        console.print(f"bundle: {bundle['bytes_per_round']:,} bytes a round ({bundle})")


@app.command("baseline-server", hidden=True)
def baseline_server(
    *,
    state: Annotated[Path, typer.Option()],
    scheme: Annotated[str, typer.Option()],
    secret: Annotated[Path, typer.Option()],
    hospitals: Annotated[int, typer.Option()],
    ready_file: Annotated[Path, typer.Option()],
) -> None:
    """Serve a compared scheme's rounds until SIGTERM (for ``secure-sum``)."""
    from fedhelp_secure.bench.baseline import serve_baseline

    serve_baseline(state, scheme, secret=secret, hospitals=hospitals, ready_file=ready_file)


@app.command("baseline-hospital", hidden=True)
def baseline_hospital(
    *,
    state: Annotated[Path, typer.Option()],
    scheme: Annotated[str, typer.Option()],
    secret: Annotated[Path, typer.Option()],
    address: Annotated[str, typer.Option()],
    values: Annotated[int, typer.Option()],
    rounds: Annotated[int, typer.Option()],
    out: Annotated[Path, typer.Option()],
) -> None:
    """Take part in a compared scheme's rounds (for ``secure-sum``)."""
    from fedhelp_secure.bench.baseline import run_hospital
    from fedhelp_secure.state import StateDirectory

    run_hospital(
        StateDirectory.open(state),
        scheme,
        address=address,
        values=values,
        rounds=rounds,
        secret=secret,
        out=out,
    )


_ROWS = (
    ("bytes a value, all legs", "bytes_per_value", "{:.1f}"),
    ("bytes a value, upload", "upload_bytes_per_value", "{:.1f}"),
    ("encrypt, us a value", "encrypt_us_per_value", "{:.3f}"),
    ("of that before the round", "prepare_us_per_value", "{:.3f}"),
    ("aggregate, us a value and hospital", "aggregate_us_per_value", "{:.4f}"),
    ("open, us a value", "open_us_per_value", "{:.3f}"),
    ("whole round, s", "round_seconds", "{:.2f}"),
)


def _table(document: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(
        title=f"{document['values']:,} values, {document['hospitals']} hospitals, "
        f"{document['repeats']} repeats: median (least to largest)"
    )
    table.add_column("")
    columns = {"secure sum": document} | {
        name.replace("_", " "): document[name] for name in document["ratio_to"]
    }
    for name in columns:
        table.add_column(name, justify="right")
    for title, key, form in (row for row in _ROWS if row[1] in document):
        table.add_row(title, *(_figure(column, key, form) for column in columns.values()))
    for process in document["peak_rss_mb"]:
        peaks = [column["peak_rss_mb"].get(process) for column in columns.values()]
        figures = ("" if peak is None else f"{peak:.0f}" for peak in peaks)
        table.add_row(f"peak memory, {process}, MiB", *figures)
    for name, ratio in document["ratio_to"].items():
        table.add_row(
            f"ratio to {name.replace('_', ' ')}",
            ", ".join(f"{what} {spread['median']:.3f}" for what, spread in ratio.items()),
        )
    return table


def _figure(column: dict[str, Any], key: str, form: str) -> str:
    least, largest = column["spread"][key]
    return f"{form.format(column[key])} ({form.format(least)} to {form.format(largest)})"


def _log_table(document: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(
        title=f"{document['entries']:,} entries, median and spread of {document['repeats']} repeats"
    )
    table.add_column("figure")
    for column in ("median", "least", "largest"):
        table.add_column(column, justify="right")
    for name, figure in document["figures"].items():
        numbers = [figure["median"], *figure["spread"]]
        table.add_row(name.replace("_", " "), *(f"{number:,.2f}" for number in numbers))
    return table
