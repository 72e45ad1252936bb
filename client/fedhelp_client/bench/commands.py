"""``fedhelp bench utility`` and ``fedhelp bench inference``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from fedhelp_client.bench.result import Figure, Spread, UtilityResult
    from fedhelp_client.data.sources import Source

_Task = Literal["classification", "segmentation"]
_Dataset = Literal["busi", "breastmnist", "phantom", "folder"]
_Setting = Literal["stated", "demo"]
_COLUMNS: dict[_Task, tuple[tuple[Figure, str], ...]] = {
    "classification": (
        ("accuracy", "accuracy"),
        ("balanced_accuracy", "balanced"),
        ("auc", "AUC"),
        ("gain", "gain in accuracy"),
    ),
    "segmentation": (("dice", "Dice"), ("gain", "gain in Dice")),
}


def utility(
    data: Annotated[Path | None, typer.Option(help="Folder; default: $FEDHELP_DATA.")] = None,
    dataset: Annotated[_Dataset | None, typer.Option(help="Default: what --data holds.")] = None,
    task: Annotated[_Task, typer.Option(help="What the hospitals learn.")] = "classification",
    setting: Annotated[
        _Setting,
        typer.Option(
            help="stated: large hospitals of 125 patients (not for the phantom); demo: as the demo."
        ),
    ] = "stated",
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Splits, from seed 0.")] = 8,
    draws: Annotated[int, typer.Option(min=1, max=100, help="Draws of the noise a split.")] = 16,
    epsilon: Annotated[
        list[str] | None, typer.Option(help="Budget; may be given again. Default: 1, 3 and 8.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, max=20, help="Default: what suits the budget.")
    ] = None,
    large: Annotated[int, typer.Option(min=1, max=20, help="Large hospitals.")] = 2,
    small: Annotated[int, typer.Option(min=1, max=40, help="Small hospitals.")] = 4,
    minimum: Annotated[
        int | None, typer.Option(min=2, help="m; default: all hospitals but one.")
    ] = None,
    colluders: Annotated[int, typer.Option(min=1, help="c.")] = 1,
    delta: Annotated[str, typer.Option(help="As 1e-6.")] = "1e-6",
    cache: Annotated[
        Path, typer.Option(help="Keeps the backbone's and the networks' answers between runs.")
    ] = Path("out/bench-utility"),
    styles: Annotated[
        bool, typer.Option(help="Give each hospital's images the look of its own scanner.")
    ] = True,
    networks: Annotated[
        bool, typer.Option(help="Train the hospitals' own networks too: minutes a seed.")
    ] = True,
    json: Annotated[Path | None, typer.Option(help="Write the figures here as JSON.")] = None,
) -> None:
    """Accuracy or Dice of hospitals alone, with the others at several budgets, and pooled.

    The product's split, vectors, noise and models in one process; the secure sum is exact, so that
    leaving out transport and encryption changes no figure. Stays on this machine.
    """
    from rich.console import Console

    from fedhelp_client.bench.setting import UtilityBench
    from fedhelp_client.bench.utility import run_utility_bench
    from fedhelp_client.data.sources import Request, resolve
    from fedhelp_secure.state import write_atomically

    bench = UtilityBench(
        seeds=seeds,
        draws=draws,
        epsilons=tuple(epsilon or ("1", "3", "8")),
        large=large,
        small=small,
        minimum=minimum or max(2, large + small - 1),
        colluders=colluders,
        delta=delta,
        rounds=rounds,
        cache=cache,
        task=task,
        setting=setting,
        styles=styles,
        networks=networks,
    )
    console = Console(width=150)
    steps = Console(stderr=True, highlight=False)

    def source_of(seed: int) -> Source:
        request = Request(dataset=dataset, data=data, task=task, seed=seed)
        return resolve(request, environment=os.environ, home=Path.home())

    def progress(step: str, done: int, total: int) -> None:
        steps.print(f"{step}: {done} of {total}")

    result = run_utility_bench(bench, source_of, progress)
    if json is not None:
        write_atomically(json, result.model_dump_json(indent=2).encode() + b"\n", mode=0o644)
    console.print(result.data)
    places = ", ".join(f"{name} {count}" for name, count in result.patients.items())
    console.print(f"Setting: {result.setting}. Patients in the first split: {places}.")
    for group in ("small", "large"):
        console.print(_table(result, group))


def _table(result: UtilityResult, group: str) -> Table:
    from rich.table import Table

    hospitals = result.small if group == "small" else result.large
    table = Table(
        title=f"{hospitals} {group} hospitals, {len(result.seeds)} seeds: mean (least to largest)"
    )
    columns = _COLUMNS[result.task]
    for column in ("way", "epsilon", *(title for _, title in columns)):
        table.add_column(column, justify="left" if column == "way" else "right", no_wrap=True)
    for scores in (scores for scores in result.scores if scores.group == group):
        figures = [_spread(scores.of(figure)) for figure, _ in columns]
        table.add_row(scores.way, scores.epsilon or "", *figures)
    return table


def _spread(spread: Spread) -> str:
    return f"{spread.mean:.3f} ({spread.least:.3f} to {spread.largest:.3f})"


def inference(
    task: Annotated[_Task, typer.Option(help="Whose networks.")] = "classification",
    turns: Annotated[int, typer.Option(min=3, max=10_000, help="Images, one at a time.")] = 60,
    json: Annotated[Path | None, typer.Option(help="Write the figures here as JSON.")] = None,
) -> None:
    """Latency and size of the student beside the large network and the foundation model, here."""
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from fedhelp_client.bench.inference import LARGE, measure
    from fedhelp_client.data.embeddings import resize_images
    from fedhelp_client.data.sources import Request, resolve
    from fedhelp_secure.canonical import canonical_json
    from fedhelp_secure.state import write_atomically

    phantom = resolve(
        Request(dataset="phantom", data=None, task=task, seed=0), environment={}, home=Path.home()
    )
    patients = [patient.identifier for patient in phantom.cohort.patients()][:16]
    images = resize_images([example.image for example in phantom.cohort.at_nobody(patients)])
    measured = measure(task, turns=turns, images=images)
    large = next(one for one in measured if one.network == LARGE)
    table = Table("network", "ms an image", "of the large", "file bytes", title=task)
    for one in measured:
        low, high = np.percentile(one.milliseconds, (5, 95))
        table.add_row(
            one.network,
            f"{one.median:.2f} ({low:.2f} to {high:.2f})",
            f"{one.median / large.median:.2f}",
            f"{one.size_bytes:,}",
        )
    Console(highlight=False).print(table)
    if json is not None:
        document = {
            one.network: {
                "milliseconds": round(one.median, 4),
                "of_the_large": round(one.median / large.median, 4),
                "bytes": one.size_bytes,
            }
            for one in measured
        }
        write_atomically(json, canonical_json({"task": task, "turns": turns, "networks": document}))
