"""``fedhelp bench learning``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from fedhelp_client.bench.learning_result import LearningResult, SeedSpread
    from fedhelp_client.data.sources import Source

_Task = Literal["classification", "segmentation"]
_Dataset = Literal["busi", "breastmnist", "phantom", "folder"]
_Setting = Literal["stated", "demo"]


def learning(  # noqa: PLR0913 - options
    data: Annotated[Path | None, typer.Option(help="Folder; default: $FEDHELP_DATA.")] = None,
    dataset: Annotated[_Dataset | None, typer.Option(help="Default: what --data holds.")] = None,
    task: Annotated[_Task, typer.Option(help="What the hospitals learn.")] = "classification",
    setting: Annotated[
        _Setting,
        typer.Option(help="stated: large hospitals of 125 patients; demo: as fedhelp demo splits."),
    ] = "stated",
    seeds: Annotated[int, typer.Option(min=1, max=100, help="How many splits.")] = 5,
    first_seed: Annotated[int, typer.Option(min=0, help="The first split's seed.")] = 0,
    epsilon: Annotated[
        list[str] | None, typer.Option(help="Budget; may be given again. Default: 1, 3 and 8.")
    ] = None,
    local: Annotated[
        list[str] | None,
        typer.Option(help="Budget at which each hospital's own noise is tried. Default: 3."),
    ] = None,
    ablation: Annotated[
        bool,
        typer.Option("--ablate", help="Switch each term off, at the first --epsilon (default 3)."),
    ] = False,
    large: Annotated[int, typer.Option(min=1, max=20, help="Large hospitals.")] = 2,
    small: Annotated[int, typer.Option(min=1, max=40, help="Small hospitals.")] = 4,
    measured_small: Annotated[
        int, typer.Option(min=1, help="Small hospitals whose networks are distilled.")
    ] = 2,
    measured_large: Annotated[
        int, typer.Option(min=0, help="Large ones; theirs take twice as long. May be none.")
    ] = 1,
    delta: Annotated[str, typer.Option(help="As 1e-6.")] = "1e-6",
    cache: Annotated[
        Path, typer.Option(help="Keeps features, networks and results: kill it and go on.")
    ] = Path("out/bench-utility"),
    styles: Annotated[
        bool, typer.Option(help="Give each hospital's images the look of its own scanner.")
    ] = True,
    json: Annotated[Path | None, typer.Option(help="Write the figures here as JSON.")] = None,
) -> None:
    """Our method, its terms, and FedMD, FedAvg, alone and central, with the same passes.

    The product's split, noise, models and distillation in one process. Stays on this machine.
    """
    from rich.console import Console

    from fedhelp_client.bench.learning import LearningBench, run_learning_bench
    from fedhelp_client.bench.setting import UtilityBench
    from fedhelp_client.data.sources import Request, resolve
    from fedhelp_secure.state import write_atomically

    federation = UtilityBench(
        seeds=seeds,
        draws=1,
        epsilons=tuple(epsilon or ("1", "3", "8")),
        large=large,
        small=small,
        minimum=max(2, large + small - 1),
        colluders=1,
        delta=delta,
        rounds=None,
        cache=cache,
        task=task,
        setting=setting,
        styles=styles,
    )
    bench = LearningBench(
        federation=federation,
        seeds=tuple(range(first_seed, first_seed + seeds)),
        measured={"small": measured_small, "large": measured_large},
        local=tuple(local or ("3",)),
        ablation=(epsilon or ["3"])[0] if ablation else None,
    )
    console = Console(width=150)
    steps = Console(stderr=True, highlight=False)

    def source_of(seed: int) -> Source:
        request = Request(dataset=dataset, data=data, task=task, seed=seed)
        return resolve(request, environment=os.environ, home=Path.home())

    def keep(result: LearningResult) -> None:
        if json is not None:
            write_atomically(json, result.model_dump_json(indent=1).encode() + b"\n", mode=0o644)

    def progress(step: str, done: int, total: int) -> None:
        steps.print(step)

    result = run_learning_bench(bench, source_of, progress, keep)
    console.print(result.data)
    for group in dict.fromkeys(scores.group for scores in result.scores):
        console.print(_table(result, group))


def _table(result: LearningResult, group: str) -> Table:
    from rich.table import Table

    scores = [scores for scores in result.scores if scores.group == group]
    names = list(scores[0].figures)
    hospitals = sum(name.startswith(group) for name in result.measured)
    over = "the whole method" if result.ablation else "the stronger alone"
    table = Table(
        title=f"{hospitals} {group} hospitals, seeds {result.seeds}: mean (deviation over seeds)"
    )
    for column in ("method", "epsilon", "bytes sent", *names, f"{names[0]} over {over}"):
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for one in scores:
        figures = [_spread(one.figures[name]) for name in names]
        sent = f"{one.bytes_sent:,}" if one.bytes_sent else ""
        table.add_row(one.method, one.epsilon or "", sent, *figures, _spread(one.gain, sign="+"))
    return table


def _spread(spread: SeedSpread, *, sign: str = "") -> str:
    digits = 1 if abs(spread.mean) >= 10 else 3
    return f"{spread.mean:{sign}.{digits}f} ({spread.deviation:.{digits}f})"
