"""What the checks found, for a change ticket: a table, and the same as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedhelp_secure.logs import one_line

Verdict = Literal["pass", "warn", "fail"]

_WIDTH = 110
"""Columns of a table that goes into a file; on a terminal it is as wide as that."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Finding(_Model):
    """What one check says; nothing that is derived from patients: a ticket has many readers."""

    check: str
    verdict: Verdict
    says: str


class Report(_Model):
    """All findings of one run, and what they are about."""

    hospital: str
    """The identity in the state directory; "unknown" if there is none."""
    charter: str
    """Digest of the charter; "unknown" if the file holds none."""
    policy: str
    """Digest of the policy's file; "none" without one."""
    at: str
    """This machine's clock, UTC."""
    findings: tuple[Finding, ...]

    @property
    def worst(self) -> Verdict:
        """The gravest verdict of all."""
        verdicts = {finding.verdict for finding in self.findings}
        return "fail" if "fail" in verdicts else "warn" if "warn" in verdicts else "pass"

    def print(self) -> None:
        """Write the table to standard output, every word of it: what is long is folded."""
        screen = Console(highlight=False, markup=False)
        wide = Console(highlight=False, markup=False, width=_WIDTH)
        (screen if screen.is_terminal else wide).print(self._rendered())

    def _rendered(self) -> RenderableType:
        head = Table.grid(padding=(0, 2))
        for name in ("hospital", "charter", "policy", "at"):
            head.add_row(name, Text(one_line(getattr(self, name)), overflow="fold"))
        table = Table()
        table.add_column("check", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        table.add_column("what was found")
        for finding in self.findings:
            says = Text(one_line(finding.says), overflow="fold")
            table.add_row(finding.check, finding.verdict, says)
        counted = (
            f"{sum(finding.verdict == verdict for finding in self.findings)} {verdict}"
            for verdict in ("pass", "warn", "fail")
        )
        return Group(head, table, Text(f"preflight: {', '.join(counted)}"))
