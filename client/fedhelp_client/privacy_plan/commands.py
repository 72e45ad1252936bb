"""``fedhelp privacy plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from fedhelp_client.privacy_plan.planning import PrivacyFigures, Rehearsed
    from fedhelp_secure.charter import Charter

_Task = Literal["classification", "segmentation"]
_FIGURES: dict[_Task, str] = {"classification": "accuracy", "segmentation": "Dice"}


def plan(
    task: Annotated[_Task, typer.Option(help="What the hospitals learn.")] = "classification",
    epsilon: Annotated[str, typer.Option(help="Budget over all rounds, as a decimal.")] = "3",
    delta: Annotated[str, typer.Option(help="As 1e-6.")] = "1e-6",
    rounds: Annotated[
        int | None, typer.Option(min=1, max=20, help="Default: what suits the budget.")
    ] = None,
    large: Annotated[int, typer.Option(min=1, max=20, help="Large hospitals.")] = 2,
    small: Annotated[int, typer.Option(min=1, max=40, help="Small hospitals.")] = 4,
    minimum: Annotated[
        int | None, typer.Option(min=2, help="m; default: all hospitals but one.")
    ] = None,
    colluders: Annotated[int, typer.Option(min=1, help="c.")] = 1,
    data: Annotated[
        Path | None, typer.Option(help="Public data to rehearse on; default: invented patients.")
    ] = None,
    draws: Annotated[int, typer.Option(min=1, max=100, help="Rehearsals with noise.")] = 8,
    cache: Annotated[
        Path, typer.Option(help="Keeps what the backbone says of the rehearsal's images.")
    ] = Path("out/bench-utility"),
) -> None:
    """What a budget means for a patient, and what it costs in accuracy or Dice, before it is set.

    No patient of this hospital is looked at: those figures come from a rehearsal on invented
    patients, or on the public data given.
    """
    from rich.console import Console

    from fedhelp_client.bench.setting import UtilityBench, public_set_of
    from fedhelp_client.bench.world import make_world
    from fedhelp_client.data.embedding_store import EmbeddingStore
    from fedhelp_client.data.sources import Request, resolve
    from fedhelp_client.privacy_plan.planning import (
        check_plan,
        figures_of,
        plan_charter,
        rehearse,
    )

    hospitals = large + small
    bench = UtilityBench(
        seeds=1,
        draws=draws,
        epsilons=(epsilon,),
        large=large,
        small=small,
        minimum=minimum or max(2, hospitals - 1),
        colluders=colluders,
        delta=delta,
        rounds=rounds,
        cache=cache,
        task=task,
        setting="demo",
    )
    # Refused here, before the backbone runs.
    check_plan(bench)
    probe = bench.probe_of(epsilon)
    request = Request(dataset="phantom" if data is None else None, data=data, task=task, seed=0)
    source = resolve(request, environment={}, home=Path.home())
    steps = Console(stderr=True, highlight=False)
    world = make_world(
        source,
        EmbeddingStore(cache, task),
        bench.split(),
        task=task,
        seed=0,
        progress=lambda step, done, total: steps.print(f"{step}: {done} of {total}"),
    )
    public_set = public_set_of(world, probe.dimension, task)
    charter = plan_charter(bench, public_set, world.test.dataset.classes)
    figures, rehearsed = figures_of(charter), rehearse(bench, world)
    console = Console(width=100, highlight=False)
    console.print(_table(charter, figures, rehearsed))
    console.print(source.sentence)
    for sentence in meaning(charter, figures, rehearsed):
        console.print(f"- {sentence}")


def _table(charter: Charter, figures: PrivacyFigures, rehearsed: Rehearsed) -> Table:
    from rich.table import Table

    cohort = charter.cohort
    table = Table(title=f"epsilon {charter.privacy.epsilon}, delta {charter.privacy.delta}")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("hospitals", str(len(charter.hospitals)))
    table.add_row("contributions without which nothing is opened (m)", str(cohort.minimum))
    table.add_row("of them taken to collude or add no noise (c)", str(cohort.colluders))
    table.add_row("rounds", str(charter.rounds.count))
    table.add_row("numbers in a release", str(charter.secure_sum.values))
    table.add_row("largest influence of one patient on a sum", f"{figures.clip:.3f}")
    table.add_row("noise on a sum (sigma)", f"{figures.sigma:.3f}")
    table.add_row("noise that each hospital adds", f"{figures.share:.3f}")
    table.add_row("epsilon (aggregate)", f"{figures.epsilon_aggregate:.3f}")
    table.add_row("epsilon (collusion)", f"{figures.epsilon_collusion:.3f}")
    for honest, epsilon in figures.fewer_shares:
        table.add_row(f"epsilon if honest shares in the sum: only {honest}", f"{epsilon:.3f}")
    figure = _FIGURES[rehearsed.task]
    table.add_row(f"rehearsed {figure}, small hospitals alone", f"{rehearsed.alone:.3f}")
    table.add_row("together, without noise", f"{rehearsed.without_noise:.3f}")
    noised = rehearsed.with_noise
    table.add_row(
        f"together, with this noise ({len(noised)} draws)",
        f"{sum(noised) / len(noised):.3f} ({min(noised):.3f} to {max(noised):.3f})",
    )
    table.add_row(f"{figure} that the noise costs", f"{rehearsed.cost:.3f}")
    return table


def meaning(charter: Charter, figures: PrivacyFigures, rehearsed: Rehearsed) -> tuple[str, ...]:
    """The plan in plain language."""
    from math import exp

    chances = charter.privacy.delta.replace("1e-", "")
    worth = (
        "is better off together than alone"
        if sum(rehearsed.with_noise) / len(rehearsed.with_noise) > rehearsed.alone
        else "gains nothing: plan a larger budget or more hospitals"
    )
    return (
        f"Whoever sees everything that is opened cannot tell well whether one patient was in it: "
        f"whatever they conclude is at most e^{figures.epsilon_aggregate:.2f} = "
        f"{_factor(exp(figures.epsilon_aggregate))} times as likely with the patient as without, "
        f"but for a chance of about 1 in 10^{chances}. All images of the patient are covered.",
        f"If the aggregator and every custodian work together, only the hospital's own noise is "
        f"left: epsilon {figures.epsilon_collusion:.2f}, a factor of "
        f"{_factor(exp(figures.epsilon_collusion))}.",
        f"The promise counts on {charter.cohort.honest} honest contributions in every round; a "
        f"round with fewer than {charter.cohort.minimum} in all is never opened.",
        f"In the rehearsal the noise costs {100 * rehearsed.cost:.1f} points of "
        f"{_FIGURES[rehearsed.task]}, and a "
        f"small hospital {worth}. The rehearsal's patients are not yours: read it as an order of "
        "magnitude.",
        "What a patient has lost cannot be taken back: a later charter adds to it, and the ledger "
        "refuses when the site's own limit is reached.",
    )


def _factor(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:.1e}"
