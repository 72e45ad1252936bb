"""What the demo shows: a live table while the hospitals work, and the summary at the end."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from fedhelp_secure.report.model import DemoResult


@dataclass(slots=True)
class HospitalProgress:
    """How far one hospital is, as its progress file says."""

    path: Path
    step: str = "starting"
    done: int = 0
    total: int = 0
    _offset: int = field(default=0, repr=False)

    def refresh(self) -> bool:
        """Read what is new; returns whether a new step began."""
        if not self.path.exists():
            return False
        before = self.step
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                event = json.loads(line)
                self.step, self.done, self.total = event["step"], event["done"], event["total"]
        return self.step != before


class ProgressView:
    """A live table on a terminal; elsewhere one line whenever a hospital begins a step."""

    def __init__(self, console: Console, hospitals: dict[str, HospitalProgress]) -> None:
        self._console = console
        self._hospitals = hospitals
        self._live = Live(
            self._table(), console=console, refresh_per_second=4, auto_refresh=console.is_terminal
        )

    def __enter__(self) -> ProgressView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.update(self._table(), refresh=True)
            self._live.stop()

    def refresh(self) -> None:
        """Show what the progress files hold now."""
        for name, progress in self._hospitals.items():
            if progress.refresh() and not self._console.is_terminal:
                self._console.print(f"  {name}: {progress.step}")
        if self._console.is_terminal:
            self._live.update(self._table())

    def _table(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2))
        table.add_column("hospital", no_wrap=True)
        table.add_column("step", min_width=34)
        table.add_column("", width=24)
        for name, progress in self._hospitals.items():
            bar = ProgressBar(total=max(1, progress.total), completed=progress.done, width=24)
            table.add_row(name, progress.step, bar)
        return Group(table)


def print_summary(console: Console, report: DemoResult, out: Path) -> None:
    """The table at the end of a demo, and where its outputs lie."""
    metric = report.hospitals[0].metric
    table = Table(title=f"{report.task}, {report.dataset}, seed {report.seed}: {metric}, epsilon")
    table.add_column("hospital")
    table.add_column("group")
    table.add_column("alone", justify="right")
    table.add_column("distilled", justify="right")
    heads = [hospital for hospital in report.hospitals if hospital.head is not None]
    if heads:
        table.add_column("head", justify="right")
        table.add_column("kept", justify="right")
        table.caption = (
            "alone, distilled: own network; head: own head on the public backbone, alone; "
            "kept: with the public model"
        )
    table.add_column("aggregate", justify="right")
    table.add_column("collusion", justify="right")
    for hospital in report.hospitals:
        table.add_row(
            hospital.name,
            hospital.group,
            f"{hospital.alone:.3f}",
            f"{hospital.distilled:.3f}",
            *(_score(score) for score in (hospital.head_alone, hospital.head) if heads),
            f"{hospital.epsilon_aggregate:.2f}",
            f"{hospital.epsilon_collusion:.2f}",
        )
    console.print(table)
    cost = report.secure_sum
    console.print(
        f"secure sum: {cost.values} values a release, {report.rounds} rounds, "
        f"{cost.bytes:,} bytes on the wire, {cost.seconds:.1f} s"
    )
    console.print(f"foundation-model calls: {report.foundation_model_calls}")
    console.print(f"whole demo: {report.seconds:.0f} s")
    console.print(f"evidence verified: {'yes' if report.evidence_verified else 'NO'}")
    console.print(
        f"outputs: {out}/evidence/report/report.html, {out}/evidence/, {out}/evidence-report/, "
        f"{out}/pictures/, {out}/logs/",
        soft_wrap=True,
    )


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
